"""The table behind jobs in memory: rows, and every way in which one goes on or ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Optional

from ..broadcast import job_event
from ..errors import ClaimLost, IllegalTransition
from ..jobs import RETRYABLE_STATUSES, TERMINAL_STATUSES, Job, backoff_ms, rank_of
from ..protocols import Claim, ClaimedJob

__all__ = ["Change", "InMemoryJobs", "Row"]

_EVENT_OF_END = {"completed": "completed", "error": "failed", "cancelled": "cancelled"}
_TOLD_WITH_ERROR = ("failed", "cancelled", "retrying")


@dataclass
class Row:
    """A job and its place in the queue."""

    entry_id: int
    job: Job
    priority: int
    max_retries: int
    enqueued_at: int
    available_at: int
    timeout_seconds: Optional[float]
    retry_count: int = 0
    claimed_by: Optional[int] = None
    claim_seq: int = 0
    cancel_requested: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the queue, lowest first."""
        return rank_of(self.enqueued_at, self.priority), self.entry_id

    def holds(self, claim: Claim) -> bool:
        """Return whether a claim is the one that holds it."""
        return (self.claimed_by, self.claim_seq) == (claim.instance_id, claim.claim_seq)


@dataclass
class InMemoryJobs:
    """What several `InMemoryJobRepository` objects share: the jobs and the live instances.

    Attributes:
        rows: Every job, by its id.
        leases: When each live instance's lease runs out.
        keys: Which job each idempotency key stands for.
        paused: Task types that nothing is claimed of.
        limits: How many jobs of a task type may run at once.
        numbers: Ids.
        changed: Held for every change, told after it.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    limits: dict[str, int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    changed: threading.Condition = field(
        default_factory=lambda: threading.Condition(threading.RLock())
    )

    def find(self, job_id: object) -> Optional[Row]:
        """Return a job's row, or `None` where there is none with that id."""
        return self.rows.get(job_id) if isinstance(job_id, str) else None

    def held(self, claim: Claim) -> Row:
        """Return the row that a claim holds; `ClaimLost` where it does not, any more."""
        row = self.rows.get(claim.job_id)
        if row is None or not row.holds(claim):
            raise ClaimLost(claim.job_id)
        return row

    def claimable(self, task_types: list[str], limit: int, now: int) -> list[Row]:
        """Return the rows to claim now, most urgent first."""
        room = {name: self.limits.get(name, limit) for name in task_types}
        for row in self.rows.values():
            if row.claimed_by is not None and row.job.task_type in self.limits:
                room[row.job.task_type] = room.get(row.job.task_type, 0) - 1
        chosen: list[Row] = []
        waiting = (row for row in self.rows.values() if row.job.status == "queued")
        for row in sorted(waiting, key=lambda row: row.rank):
            task_type = row.job.task_type
            if task_type in self.paused or row.available_at > now or len(chosen) >= limit:
                continue
            if room.get(task_type, 0) > 0:
                room[task_type] -= 1
                chosen.append(row)
        return chosen


@dataclass
class Change:
    """One change to the jobs: when it happens, and what is told of it.

    Attributes:
        jobs: What is changed.
        now: The time, in milliseconds since the epoch.
        events: What is published after it.
    """

    jobs: InMemoryJobs
    now: int
    events: list[dict[str, Any]] = field(default_factory=list)

    def claim(self, row: Row, instance_id: int) -> ClaimedJob:
        """Start a job; one that is not due yet is due from its time on if it is given back."""
        if row.available_at > self.now:
            row.enqueued_at = row.available_at
        row.claimed_by, row.claim_seq = instance_id, row.claim_seq + 1
        row.job.status = "processing"
        self.tell(row, "started")
        claim = Claim(row.job.job_id, row.entry_id, instance_id, row.claim_seq)
        job = row.job.model_copy(deep=True)
        waited_ms = max(0, self.now - row.enqueued_at)
        return ClaimedJob(
            job, claim, row.retry_count + 1, row.max_retries, row.timeout_seconds, waited_ms
        )

    def give_back(self, row: Row, available_at: Optional[int] = None) -> None:
        """Queue a claimed job again at no cost; one that is to be cancelled ends so."""
        if row.cancel_requested:
            self.end(row, "cancelled")
            return
        self._let_go(row, "queued")
        row.job.progress = 0
        row.available_at = row.enqueued_at if available_at is None else available_at
        self.tell(row, "queued")

    def fail(self, row: Row, error: str, retryable: bool) -> None:
        """End an attempt: the job runs again if it has one left."""
        if row.cancel_requested:
            self.end(row, "cancelled")
            return
        row.job.error_message = error
        if not retryable or row.retry_count >= row.max_retries:
            self.end(row, "error")
            return
        self._let_go(row, "queued")
        self.tell(row, "retrying", progress=0)
        row.retry_count += 1
        row.job.progress = 0
        row.available_at = self.now + backoff_ms(row.retry_count)

    def end(self, row: Row, status: str, message: Optional[str] = None) -> None:
        """End a job; of an earlier attempt's message nothing is left where it has completed."""
        self._let_go(row, status)
        if status == "completed":
            row.job.progress, row.job.error_message = 100, message
        self.tell(row, _EVENT_OF_END[status])

    def request_cancel(self, row: Row) -> str:
        """End a job that waits, ask for the end of one that runs; return its status."""
        if row.job.status in TERMINAL_STATUSES - {"cancelled"}:
            raise IllegalTransition(row.job.job_id, row.job.status, "cancelled")
        if row.claimed_by is not None and self.jobs.leases.get(row.claimed_by, 0) > self.now:
            row.cancel_requested = True
        elif row.job.status != "cancelled":
            self.end(row, "cancelled")
        return row.job.status

    def retry(self, row: Row) -> None:
        """Queue a job again that failed or was cancelled, with all its re-runs."""
        if row.job.status == "queued":
            return
        if row.job.status not in RETRYABLE_STATUSES:
            raise IllegalTransition(row.job.job_id, row.job.status, "queued")
        row.job.status, row.job.progress, row.retry_count = "queued", 0, 0
        row.job.task_output = None
        row.enqueued_at = row.available_at = self.now
        self.tell(row, "queued")

    def tell(self, row: Row, event_type: str, progress: Optional[int] = None) -> None:
        """Keep an event to be published after the change."""
        self.events.append(
            job_event(
                event_id=None if event_type == "progress" else next(self.jobs.numbers),
                job_id=row.job.job_id,
                event_type=event_type,
                status=row.job.status,
                task_type=row.job.task_type,
                timestamp=self.now,
                progress=row.job.progress if progress is None else progress,
                attempt=row.retry_count + 1,
                task_output=(row.job.task_output or {}) if event_type == "completed" else None,
                error=(row.job.error_message or "") if event_type in _TOLD_WITH_ERROR else None,
            )
        )

    def _let_go(self, row: Row, status: str) -> None:
        row.claimed_by, row.cancel_requested = None, False
        row.job.status = status  # type: ignore[assignment]
