"""Jobs in memory, by the same rules as those in SQL."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Callable, Optional

from ..broadcast import job_event, to_json
from ..errors import ClaimLost, DuplicateJob
from ..jobs import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_PRIORITY,
    TERMINAL_STATUSES,
    Job,
    backoff_ms,
    check_available_at,
    check_changes,
    check_max_retries,
    check_priority,
    check_progress,
    check_task_output,
    check_text,
    check_timeout_seconds,
    check_transition,
    json_text,
    rank_of,
)
from ..protocols import Claim, ClaimedJob
from ..workspace import check_name
from .broadcast import RecordingBroadcaster

__all__ = ["InMemoryJobRepository", "InMemoryJobs"]

logger = logging.getLogger(__name__)

_EVENT_OF_END = {"completed": "completed", "error": "failed", "cancelled": "cancelled"}
_TOLD_WITH_ERROR = ("failed", "cancelled", "retrying")


@dataclass
class _Row:
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

    @property
    def rank(self) -> tuple[int, int]:
        return rank_of(self.enqueued_at, self.priority), self.entry_id

    def holds(self, claim: Claim) -> bool:
        return (self.claimed_by, self.claim_seq) == (claim.instance_id, claim.claim_seq)


@dataclass
class InMemoryJobs:
    """What several `InMemoryJobRepository` objects share: the jobs and the live instances."""

    rows: dict[str, _Row] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    changed: threading.Condition = field(
        default_factory=lambda: threading.Condition(threading.RLock())
    )


class InMemoryJobRepository:
    """Jobs in memory: `JobRepository` and `WorkQueue` by the same rules as those in SQL.

    Args:
        jobs: What is shared with other repositories; `None`: nothing.
        lease_seconds: How long claims are kept without renewal.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        jobs: Optional[InMemoryJobs] = None,
        *,
        lease_seconds: float = 60.0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.jobs = jobs if jobs is not None else InMemoryJobs()
        self.broadcaster: Any = RecordingBroadcaster()
        self._lease_ms = int(lease_seconds * 1000)
        self._clock = clock
        self._instance_id: Optional[int] = None
        self._claims: dict[str, Claim] = {}

    def add_job(
        self,
        job: Job,
        created_by: Optional[str] = None,
        priority: Optional[int] = None,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
        available_at: Optional[int] = None,
        timeout_seconds: Optional[float] = None,
        idempotency_key: Optional[str] = None,
    ) -> str:
        """Store a job queued and return its id; see `JobRepository.add_job`."""
        try:
            check_name(job.job_id)
        except ValueError as error:
            raise ValueError(f"job_id: {error}") from error
        priority = DEFAULT_PRIORITY if priority is None else priority
        check_priority(priority)
        check_max_retries(max_retries)
        check_available_at(available_at)
        check_timeout_seconds(timeout_seconds)
        check_text("task_type", job.task_type)
        check_text("created_by", created_by)
        check_text("idempotency_key", idempotency_key)
        json_text("params", job.params)
        if job.status != "queued":
            raise ValueError(f"status: a new job is queued, not {job.status!r}")
        with self._changing() as (now, events):
            earlier = self.jobs.keys.get(idempotency_key or "")
            if earlier is not None:
                return self._same_job(job, earlier)
            if job.job_id in self.jobs.rows:
                raise DuplicateJob(job.job_id)
            due_at = max(now, available_at or 0)
            row = _Row(
                entry_id=next(self.jobs.numbers),
                job=job.model_copy(deep=True, update={"progress": 0}),
                priority=priority,
                max_retries=max_retries,
                enqueued_at=due_at,
                available_at=due_at,
                timeout_seconds=timeout_seconds,
            )
            self.jobs.rows[job.job_id] = row
            if idempotency_key is not None:
                self.jobs.keys[idempotency_key] = job.job_id
            self._tell(events, row, "queued", now)
        return job.job_id

    def get_job(self, job_id: str) -> Optional[Job]:
        """Return a copy of the job, or `None`."""
        with self.jobs.changed:
            row = self.jobs.rows.get(job_id)
            return None if row is None else row.job.model_copy(deep=True)

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Set fields of a job; see `JobRepository.update_job`."""
        check_changes(fields)
        changes = {name: value for name, value in fields.items() if value is not None}
        with self._changing() as (now, events):
            row = self.jobs.rows.get(job_id)
            if row is None:
                return False
            status = changes.pop("status", None)
            if status == row.job.status:
                if status in TERMINAL_STATUSES or not changes:
                    return True
                status = None
            if status is not None:
                check_transition(job_id, row.job.status, status)
            if status != "processing":
                self._check_claim(row, now)
            if status == "processing":
                self._claim(row, now, events)
            elif status == "queued":
                self._give_back(row, now, events)
            progress = row.job.progress
            for name, value in changes.items():
                setattr(row.job, name, copy.deepcopy(value))
            if status in TERMINAL_STATUSES:
                self._end(row, status, now, events)
            elif row.job.progress != progress:
                self._tell(events, row, "progress", now)
        return True

    def fetch_next_job(self, task_types: Sequence[str]) -> Optional[Job]:
        """Claim the next queued job of these types; `None` where there is none."""
        claimed = self.fetch_next_jobs(task_types, 1)
        return claimed[0].job if claimed else None

    def delete_job(self, job_id: str) -> bool:
        """Remove the job; False where there is none."""
        with self._changing():
            self._claims.pop(job_id, None)
            self.jobs.keys = {key: job for key, job in self.jobs.keys.items() if job != job_id}
            return self.jobs.rows.pop(job_id, None) is not None

    def register_instance(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> int:
        """Make this object an instance; see `WorkQueue.register_instance`."""
        with self._changing() as (now, _):
            self._instance_id = next(self.jobs.numbers)
            self._claims.clear()
            self.jobs.leases[self._instance_id] = now + self._lease_ms
            return self._instance_id

    def renew_lease(self, running: int = 0) -> bool:
        """Renew the lease; False where the instance is not known any more."""
        with self._changing() as (now, _):
            if self._instance_id not in self.jobs.leases:
                return False
            self.jobs.leases[self._instance_id] = now + self._lease_ms
            return True

    def release_instance(self) -> None:
        """Give back what is still claimed, and end the instance."""
        with self._changing() as (now, events):
            for row in self.jobs.rows.values():
                if self._instance_id is not None and row.claimed_by == self._instance_id:
                    self._give_back(row, now, events)
            self.jobs.leases.pop(self._instance_id or 0, None)
            self._instance_id = None
            self._claims.clear()

    def fetch_next_jobs(self, task_types: Sequence[str], limit: int) -> list[ClaimedJob]:
        """Claim up to `limit` jobs, most urgent first."""
        with self._changing() as (now, events):
            waiting = [
                row
                for row in self.jobs.rows.values()
                if row.job.status == "queued"
                and row.job.task_type in task_types
                and row.available_at <= now
            ]
            waiting.sort(key=lambda row: row.rank)
            return [self._claim(row, now, events) for row in waiting[:limit]]

    def report_progress(self, claim: Claim, progress: int) -> None:
        """Store and publish how far the job is."""
        check_progress(progress)
        with self._changing() as (now, events):
            row = self._held(claim)
            row.job.progress = progress
            self._tell(events, row, "progress", now)

    def complete_job(self, claim: Claim, task_output: Optional[dict[str, Any]]) -> None:
        """End the job as completed."""
        check_task_output(task_output)
        with self._changing() as (now, events):
            row = self._held(claim)
            row.job.task_output = copy.deepcopy(task_output)
            self._end(row, "completed", now, events)

    def fail_job(self, claim: Claim, error: str, *, retryable: bool = True) -> str:
        """Queue the job for a re-run if it has one left, else end it as failed."""
        with self._changing() as (now, events):
            row = self._held(claim)
            self._fail(row, error, retryable, now, events)
            return row.job.status

    def give_back_job(self, claim: Claim) -> None:
        """Queue the job again in its old place, at no cost."""
        with self._changing() as (now, events):
            self._give_back(self._held(claim), now, events)

    def rescue_expired_jobs(self) -> int:
        """Fail the attempts of instances whose lease ran out; return how many there were."""
        with self._changing() as (now, events):
            for instance_id, expires_at in list(self.jobs.leases.items()):
                if expires_at < now:
                    del self.jobs.leases[instance_id]
            lost = [
                row
                for row in self.jobs.rows.values()
                if row.claimed_by is not None and row.claimed_by not in self.jobs.leases
            ]
            for row in lost:
                self._fail(row, "the worker that ran it went silent", True, now, events)
            return len(lost)

    def wait_for_jobs(self, timeout_seconds: float) -> bool:
        """Sleep until something has changed; False where the time is over."""
        with self.jobs.changed:
            return self.jobs.changed.wait(timeout_seconds)

    @contextmanager
    def _changing(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Hold the lock; publish what happened once it is released."""
        events: list[dict[str, Any]] = []
        with self.jobs.changed:
            yield self._clock(), events
            self.jobs.changed.notify_all()
        for event in events:
            try:
                self.broadcaster.publish_event(topic="events", payload=to_json(event), qos=1)
            except Exception:  # a test's own object must not fail the job
                logger.exception("publishing an event of job %s failed", event["job_id"])

    def _same_job(self, job: Job, job_id: str) -> str:
        earlier = self.jobs.rows[job_id].job
        if (earlier.task_type, earlier.params) != (job.task_type, job.params):
            raise DuplicateJob(job_id, f"the idempotency key stands for another job, {job_id!r}")
        return job_id

    def _check_claim(self, row: _Row, now: int) -> None:
        mine = self._claims.get(row.job.job_id)
        if mine is not None:
            if not row.holds(mine):
                raise ClaimLost(row.job.job_id)
        elif row.claimed_by is not None and self.jobs.leases.get(row.claimed_by, 0) > now:
            raise ClaimLost(row.job.job_id)

    def _held(self, claim: Claim) -> _Row:
        row = self.jobs.rows.get(claim.job_id)
        if row is None or not row.holds(claim):
            raise ClaimLost(claim.job_id)
        return row

    def _claim(self, row: _Row, now: int, events: list[dict[str, Any]]) -> ClaimedJob:
        if self._instance_id is None:
            self.register_instance("in-memory", {}, 0)
        assert self._instance_id is not None
        row.claimed_by, row.claim_seq = self._instance_id, row.claim_seq + 1
        row.job.status = "processing"
        claim = Claim(row.job.job_id, row.entry_id, self._instance_id, row.claim_seq)
        self._claims[row.job.job_id] = claim
        self._tell(events, row, "started", now)
        job = row.job.model_copy(deep=True)
        return ClaimedJob(job, claim, row.retry_count + 1, row.max_retries, row.timeout_seconds)

    def _give_back(self, row: _Row, now: int, events: list[dict[str, Any]]) -> None:
        self._let_go(row, "queued")
        row.job.progress = 0
        self._tell(events, row, "queued", now)

    def _fail(
        self, row: _Row, error: str, retryable: bool, now: int, events: list[dict[str, Any]]
    ) -> None:
        row.job.error_message = error
        if not retryable or row.retry_count >= row.max_retries:
            self._end(row, "error", now, events)
            return
        self._let_go(row, "queued")
        self._tell(events, row, "retrying", now, progress=0)
        row.retry_count += 1
        row.job.progress = 0
        row.available_at = now + backoff_ms(row.retry_count)

    def _end(self, row: _Row, status: str, now: int, events: list[dict[str, Any]]) -> None:
        self._let_go(row, status)
        if status == "completed":
            row.job.progress, row.job.error_message = 100, None
        self._tell(events, row, _EVENT_OF_END[status], now)

    def _let_go(self, row: _Row, status: str) -> None:
        row.claimed_by = None
        row.job.status = status  # type: ignore[assignment]
        self._claims.pop(row.job.job_id, None)

    def _tell(
        self,
        events: list[dict[str, Any]],
        row: _Row,
        event_type: str,
        now: int,
        progress: Optional[int] = None,
    ) -> None:
        events.append(
            job_event(
                event_id=None if event_type == "progress" else next(self.jobs.numbers),
                job_id=row.job.job_id,
                event_type=event_type,
                status=row.job.status,
                task_type=row.job.task_type,
                timestamp=now,
                progress=row.job.progress if progress is None else progress,
                attempt=row.retry_count + 1,
                task_output=(row.job.task_output or {}) if event_type == "completed" else None,
                error=(row.job.error_message or "") if event_type in _TOLD_WITH_ERROR else None,
            )
        )
