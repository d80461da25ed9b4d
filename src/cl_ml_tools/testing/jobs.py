"""Jobs in memory, by the same rules as those in SQL."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional

from ..broadcast import to_json
from ..errors import ClaimLost, DuplicateJob
from ..jobs import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_PRIORITY,
    TERMINAL_STATUSES,
    Job,
    can_be_stored,
    check_available_at,
    check_changes,
    check_error,
    check_is_new,
    check_max_retries,
    check_priority,
    check_progress,
    check_progress_change,
    check_task_output,
    check_text,
    check_timeout_seconds,
    check_transition,
    json_text,
)
from ..protocols import (
    AddedJob,
    AttemptLog,
    Claim,
    ClaimedJob,
    Completion,
    FailureOutcome,
    JobToAdd,
)
from ..workspace import check_name, naming
from .broadcast import RecordingBroadcaster
from .table import Change, InMemoryJobs, Row

__all__ = ["InMemoryJobRepository", "InMemoryJobs"]

logger = logging.getLogger(__name__)


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
        wanted = JobToAdd(
            job, created_by, priority, max_retries, available_at, timeout_seconds, idempotency_key
        )
        _check(wanted)
        with self._changing() as change:
            earlier = self.jobs.keys.get(idempotency_key or "")
            if earlier is not None:
                return self._same_job(job, earlier)
            if job.job_id in self.jobs.rows:
                raise DuplicateJob(job.job_id)
            self._add(wanted, change)
        return job.job_id

    def add_jobs(self, jobs: Sequence[JobToAdd]) -> list[AddedJob]:
        """Store jobs queued, all or none; see `SQLAlchemyJobRepository.add_jobs`."""
        answers = []
        for wanted in jobs:
            _check(wanted)
        with self._changing() as change:
            rows, keys = dict(self.jobs.rows), dict(self.jobs.keys)
            given: dict[str, str] = {}  # a key given twice stands for the first, whoever that was
            try:
                for wanted in jobs:
                    job_id, key = wanted.job.job_id, wanted.idempotency_key or ""
                    earlier = self.jobs.keys.get(key) or given.get(key)
                    if key and earlier is None:
                        given[key] = job_id
                    if earlier is None and job_id in self.jobs.rows:
                        earlier = job_id
                    if earlier is None:
                        self._add(wanted, change)
                        answers.append(AddedJob(job_id, "added"))
                    else:
                        answers.append(AddedJob(self._same_job(wanted.job, earlier), "existing"))
            except DuplicateJob:
                self.jobs.rows, self.jobs.keys = rows, keys
                raise
        return answers

    def get_job(self, job_id: str) -> Optional[Job]:
        """Return a copy of the job, or `None`."""
        with self.jobs.changed:
            row = self.jobs.find(job_id)
            return None if row is None else row.job.model_copy(deep=True)

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Set fields of a job; see `JobRepository.update_job`."""
        check_changes(fields)
        changes = {name: value for name, value in fields.items() if value is not None}
        with self._changing() as change:
            row = self.jobs.find(job_id)
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
                self._check_claim(row, change.now)
            if status is None:
                check_progress_change(row.job.status, row.job.progress, changes.get("progress"))
            if status == "processing":
                self._claim(row, change)
            elif status == "queued":
                change.give_back(row)
                self._claims.pop(job_id, None)
            progress = row.job.progress
            for name, value in changes.items():
                setattr(row.job, name, copy.deepcopy(value))
            if status in TERMINAL_STATUSES:
                change.end(row, status, changes.get("error_message"))
                self._claims.pop(job_id, None)
            elif row.job.progress != progress:
                change.tell(row, "progress")
        return True

    def fetch_next_job(self, task_types: Sequence[str]) -> Optional[Job]:
        """Claim the next queued job of these types; `None` where there is none."""
        claimed = self.fetch_next_jobs(task_types, 1)
        return claimed[0].job if claimed else None

    def delete_job(self, job_id: str) -> bool:
        """Remove the job; False where there is none."""
        with self._changing():
            if self.jobs.find(job_id) is None:
                return False
            self._claims.pop(job_id, None)
            self.jobs.keys = {key: job for key, job in self.jobs.keys.items() if job != job_id}
            del self.jobs.rows[job_id]
        return True

    def cancel_job(self, job_id: str) -> str:
        """Cancel a job, at once or through whoever runs it; return its status."""
        with self._changing() as change:
            return change.request_cancel(self.jobs.rows[job_id])

    def retry_job(self, job_id: str) -> None:
        """Queue a job again that failed or was cancelled."""
        with self._changing() as change:
            change.retry(self.jobs.rows[job_id])

    def register_instance(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> int:
        """Make this object an instance; see `WorkQueue.register_instance`."""
        check_text("label", label)
        with self._changing() as change:
            self._instance_id = next(self.jobs.numbers)
            self._claims.clear()
            self.jobs.leases[self._instance_id] = change.now + self._lease_ms
            return self._instance_id

    def renew_lease(self, running: int = 0) -> Optional[list[Claim]]:
        """Renew the lease and return the claims; `None` where the instance is not known any more."""
        with self._changing() as change:
            if self._instance_id is None or self._instance_id not in self.jobs.leases:
                return None
            self.jobs.leases[self._instance_id] = change.now + self._lease_ms
            return self._claims_where(lambda row: True)

    def release_instance(self) -> None:
        """Give back what is still claimed, and end the instance."""
        with self._changing() as change:
            for row in self.jobs.rows.values():
                if self._instance_id is not None and row.claimed_by == self._instance_id:
                    change.give_back(row)
            self.jobs.leases.pop(self._instance_id or 0, None)
            self._instance_id = None
            self._claims.clear()

    def fetch_next_jobs(self, task_types: Sequence[str], limit: int) -> list[ClaimedJob]:
        """Claim up to `limit` jobs, most urgent first."""
        with self._changing() as change:
            wanted = [name for name in task_types if can_be_stored(name)]
            rows = self.jobs.claimable(wanted, limit, change.now)
            return [self._claim(row, change) for row in rows]

    def report_progress(self, claim: Claim, progress: int) -> None:
        """Store and publish how far the job is."""
        check_progress(progress)
        with self._changing() as change:
            row = self.jobs.held(claim)
            row.job.progress = progress
            change.tell(row, "progress")

    def complete_jobs(self, completions: Sequence[Completion]) -> list[Claim]:
        """End jobs as completed; return the claims that are not held any more."""
        for completion in completions:
            check_task_output(completion.task_output)
        refused = []
        with self._changing() as change:
            for completion in completions:
                try:
                    row = self.jobs.held(completion.claim)
                except ClaimLost:
                    refused.append(completion.claim)
                    continue
                if completion.task_output is not None:
                    row.job.task_output = copy.deepcopy(completion.task_output)
                change.end(row, "completed")
                self._claims.pop(row.job.job_id, None)
        return refused

    def fail_job(
        self,
        claim: Claim,
        error: str,
        *,
        retryable: bool = True,
        outcome: FailureOutcome = "error",
        log: Optional[AttemptLog] = None,
    ) -> str:
        """Queue the job for a re-run if it has one left, else end it as failed."""
        check_error(error)
        with self._letting_go(claim) as (row, change):
            change.fail(row, error, retryable)
            return row.job.status

    def postpone_job(
        self, claim: Claim, delay_seconds: float, *, log: Optional[AttemptLog] = None
    ) -> None:
        """Queue the job again, not before some time from now, at no cost."""
        with self._letting_go(claim) as (row, change):
            change.give_back(row, change.now + round(delay_seconds * 1000))

    def give_back_jobs(self, claims: Sequence[Claim]) -> list[Claim]:
        """Queue jobs again in their old places; return the claims that are not held any more."""
        refused = []
        for claim in claims:
            try:
                with self._letting_go(claim) as (row, change):
                    change.give_back(row)
            except ClaimLost:
                refused.append(claim)
        return refused

    def cancel_requests(self) -> list[Claim]:
        """Return this instance's claims whose jobs somebody wants cancelled."""
        with self.jobs.changed:
            return self._claims_where(lambda row: row.cancel_requested)

    def end_cancelled_job(self, claim: Claim, *, log: Optional[AttemptLog] = None) -> None:
        """End the job as cancelled."""
        with self._letting_go(claim) as (row, change):
            change.end(row, "cancelled")

    def rescue_expired_jobs(self) -> int:
        """Fail the attempts of instances whose lease ran out; return how many there were."""
        with self._changing() as change:
            for instance_id, expires_at in list(self.jobs.leases.items()):
                if expires_at < change.now:
                    del self.jobs.leases[instance_id]
            lost = [
                row
                for row in self.jobs.rows.values()
                if row.claimed_by is not None and row.claimed_by not in self.jobs.leases
            ]
            for row in lost:
                change.fail(row, "the worker that ran it went silent", True)
            return len(lost)

    def wait_for_jobs(self, timeout_seconds: float) -> bool:
        """Sleep until something has changed; False where the time is over."""
        with self.jobs.changed:
            return self.jobs.changed.wait(timeout_seconds)

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        """Hold the lock; publish what happened once it is released."""
        with self.jobs.changed:
            change = Change(self.jobs, self._clock())
            yield change
            self.jobs.changed.notify_all()
        for event in change.events:
            try:
                self.broadcaster.publish_event(topic="events", payload=to_json(event), qos=1)
            except Exception:  # a test's own object must not fail the job
                logger.exception("publishing an event of job %s failed", event["job_id"])

    @contextmanager
    def _letting_go(self, claim: Claim) -> Iterator[tuple[Row, Change]]:
        """Change a job whose claim ends with it; `ClaimLost` where it is not held."""
        with self._changing() as change:
            yield self.jobs.held(claim), change
            self._claims.pop(claim.job_id, None)

    def _add(self, wanted: JobToAdd, change: Change) -> None:
        due_at = max(change.now, wanted.available_at or 0)
        row = Row(
            entry_id=next(self.jobs.numbers),
            job=wanted.job.model_copy(deep=True),
            priority=DEFAULT_PRIORITY if wanted.priority is None else wanted.priority,
            max_retries=wanted.max_retries,
            enqueued_at=due_at,
            available_at=due_at,
            timeout_seconds=wanted.timeout_seconds,
        )
        self.jobs.rows[wanted.job.job_id] = row
        if wanted.idempotency_key is not None:
            self.jobs.keys[wanted.idempotency_key] = wanted.job.job_id
        change.tell(row, "queued")

    def _same_job(self, job: Job, job_id: str) -> str:
        earlier = self.jobs.rows[job_id].job
        if (earlier.task_type, earlier.params) != (job.task_type, job.params):
            raise DuplicateJob(job_id, f"{job_id!r} is there already, with other content")
        return job_id

    def _claims_where(self, condition: Callable[[Row], bool]) -> list[Claim]:
        mine = self._instance_id
        return [
            Claim(row.job.job_id, row.entry_id, mine, row.claim_seq)
            for row in self.jobs.rows.values()
            if mine is not None and row.claimed_by == mine and condition(row)
        ]

    def _check_claim(self, row: Row, now: int) -> None:
        mine = self._claims.get(row.job.job_id)
        if mine is not None:
            if not row.holds(mine):
                raise ClaimLost(row.job.job_id)
        elif row.claimed_by is not None and self.jobs.leases.get(row.claimed_by, 0) > now:
            raise ClaimLost(row.job.job_id)

    def _claim(self, row: Row, change: Change) -> ClaimedJob:
        if self._instance_id is None:
            self.register_instance("in-memory", {}, 0)
        assert self._instance_id is not None
        claimed = change.claim(row, self._instance_id)
        self._claims[row.job.job_id] = claimed.claim
        return claimed


def _check(wanted: JobToAdd) -> None:
    """Raise `ValueError` unless a job can be added."""
    job = wanted.job
    with naming("job_id"):
        check_name(job.job_id)
    if wanted.priority is not None:
        check_priority(wanted.priority)
    check_max_retries(wanted.max_retries)
    check_available_at(wanted.available_at)
    check_timeout_seconds(wanted.timeout_seconds)
    check_text("task_type", job.task_type)
    check_text("created_by", wanted.created_by)
    check_text("idempotency_key", wanted.idempotency_key)
    json_text("params", job.params)
    check_is_new(job)
