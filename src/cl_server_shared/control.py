"""`JobControl`: ending jobs and running them again, one by one or all that match.

Each call is one short transaction, or several of a hundred jobs; its events go out after the
commit, as the repository's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Callable, Optional

from sqlalchemy.orm import Session

from cl_ml_tools.errors import IllegalTransition
from cl_ml_tools.jobs import RETRYABLE_STATUSES, check_text
from cl_ml_tools.protocols import Claim

from .database import Database
from .errors import UnknownJob
from .outbox import EventPublisher, Outbox
from .sql import control, jobs, outcomes
from .transaction import Transaction
from .wakeup import Wakeup

__all__ = ["CANCELLABLE_STATUSES", "JobBatch", "JobControl", "JobFilter"]

CANCELLABLE_STATUSES = frozenset({"queued", "processing"})

# How many jobs one transaction changes: few enough that no worker waits long for the lock.
BATCH_SIZE = 100


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are meant: those for which all that is given holds.

    Attributes:
        task_type: Of this task.
        created_by: Of this maker: a user's `sub`.
        status: In this status.
        added_after: Added then or later, in milliseconds since the epoch.
        added_before: Added earlier than then.
        everything: Has to be set where nothing else is, so that nobody ends all by an oversight.
    """

    task_type: Optional[str] = None
    created_by: Optional[str] = None
    status: Optional[str] = None
    added_after: Optional[int] = None
    added_before: Optional[int] = None
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing at all."""
        return all(getattr(self, field.name) in (None, False) for field in fields(self))


@dataclass(frozen=True)
class JobBatch:
    """Some of the jobs that match.

    Attributes:
        job_ids: Their ids, oldest first.
        next_after: Where the next batch goes on; `None`: these were the last.
    """

    job_ids: Sequence[str]
    next_after: Optional[int]


# Returns `jobs.id` and id of some jobs; does something to one, and says whether it did.
_Find = Callable[[Transaction, dict[str, Any]], list[tuple[int, str]]]
_Change = Callable[[Transaction, int, str], bool]


class JobControl:
    """What operators and makers do to jobs, on the session factory of the repository.

    Args:
        session_factory: As the repository's.
        clock: Milliseconds since the epoch, for tests.
    """

    def __init__(
        self,
        session_factory: Callable[[], Session],
        *,
        clock: Optional[Callable[[], int]] = None,
    ) -> None:
        self._database = Database(session_factory, clock)
        self._outbox = Outbox(self._database)
        self._wakeup = Wakeup(self._database)

    @property
    def broadcaster(self) -> EventPublisher:
        """What events are published with; any object with `publish_event` may replace it."""
        return self._outbox.broadcaster

    @broadcaster.setter
    def broadcaster(self, broadcaster: EventPublisher) -> None:
        self._outbox.broadcaster = broadcaster

    def flush_events(self, timeout_seconds: float) -> bool:
        """Wait until the broker has all events; return whether it has. For a process that ends."""
        return self._outbox.flush(timeout_seconds)

    def cancel_job(self, job_id: str) -> str:
        """End a job that waits, or have the one that runs it end it.

        Returns:
            The job's status: `cancelled`, or `processing` where a live worker has been asked.

        Raises:
            UnknownJob: There is none with that id.
            IllegalTransition: It has completed or failed.
        """
        with self._transaction() as transaction:
            return self._cancel(transaction, job_id)

    def retry_job(self, job_id: str) -> None:
        """Queue a failed or cancelled job as if it were new, with all its re-runs before it.

        Its `error_message` stays until an attempt succeeds. A job that is queued stays as it is.

        Raises:
            UnknownJob: There is none with that id.
            IllegalTransition: It runs, or has completed.
        """
        while not self._retry_now(job_id):
            # Another was quicker. The look at what it made of the job is a new transaction's: this
            # one has locked the job's row, which comes after its entry's.
            pass

    def cancel_jobs(self, wanted: JobFilter) -> list[str]:
        """Cancel all jobs that match and wait or run; return their ids.

        Jobs that are added meanwhile may be left out.

        Raises:
            ValueError: The filter is empty, or names a status that has ended.
        """
        return self._all_batches(self.cancel_batch, wanted)

    def retry_jobs(self, wanted: JobFilter) -> list[str]:
        """Retry all jobs that match and have failed or were cancelled, each once; return their ids.

        Raises:
            ValueError: The filter is empty, or names a status that cannot be retried.
        """
        return self._all_batches(self.retry_batch, wanted)

    def cancel_batch(
        self, wanted: JobFilter, *, after: int = 0, limit: int = BATCH_SIZE, dry_run: bool = False
    ) -> JobBatch:
        """Cancel some of the jobs that match, in one transaction.

        Args:
            wanted: Which.
            after: The last batch's `next_after`.
            limit: How many at most.
            dry_run: Only find them.

        Raises:
            ValueError: The filter is empty, or names a status that has ended.
        """
        values = _checked(wanted, CANCELLABLE_STATUSES, after, limit)
        return self._batch(
            control.find_live_jobs, None if dry_run else self._cancel_if_live, values
        )

    def retry_batch(
        self, wanted: JobFilter, *, after: int = 0, limit: int = BATCH_SIZE, dry_run: bool = False
    ) -> JobBatch:
        """Retry some of the jobs that match, in one transaction; arguments as of `cancel_batch`.

        Raises:
            ValueError: The filter is empty, or names a status that cannot be retried.
        """
        values = _checked(wanted, RETRYABLE_STATUSES, after, limit)
        return self._batch(control.find_retryable_jobs, None if dry_run else _retry, values)

    def _transaction(self) -> Any:
        outbox = self._outbox
        return self._database.transaction(
            acknowledged=outbox.without_broker,
            publish=outbox.publish,
            announce=self._wakeup.announce,
        )

    def _retry_now(self, job_id: str) -> bool:
        """Queue a job; False where another has changed it meanwhile."""
        with self._transaction() as transaction:
            state = self._lock(transaction, job_id)
            if state.status in RETRYABLE_STATUSES:
                return control.retry_job(transaction, state.id)
            if state.status != "queued":
                raise IllegalTransition(job_id, state.status, "queued")
            return True

    def _batch(self, find: _Find, change: Optional[_Change], values: dict[str, Any]) -> JobBatch:
        """Find jobs without a lock, then change those that still are as they were found."""
        with self._database.reading() as transaction:
            found = find(transaction, values)
        next_after = found[-1][0] if len(found) == values["limit"] else None
        if change is not None and found:
            with self._transaction() as transaction:
                found = [(id_, job_id) for id_, job_id in found if change(transaction, id_, job_id)]
        return JobBatch([job_id for _, job_id in found], next_after)

    def _all_batches(self, change: Callable[..., JobBatch], wanted: JobFilter) -> list[str]:
        job_ids: list[str] = []
        after: Optional[int] = 0
        while after is not None:
            batch = change(wanted, after=after)
            job_ids += batch.job_ids
            after = batch.next_after
        return job_ids

    def _lock(self, transaction: Transaction, job_id: str) -> jobs.JobState:
        state = jobs.lock_job(transaction, job_id)
        if state is None:
            raise UnknownJob(job_id)
        return state

    def _cancel_if_live(self, transaction: Transaction, _id: int, job_id: str) -> bool:
        """Cancel one of many; False where it ended while it was looked for."""
        try:
            self._cancel(transaction, job_id)
        except (UnknownJob, IllegalTransition):
            return False
        return True

    def _cancel(self, transaction: Transaction, job_id: str) -> str:
        state = self._lock(transaction, job_id)
        if state.status == "cancelled":
            return "cancelled"
        if state.status not in CANCELLABLE_STATUSES:
            raise IllegalTransition(job_id, state.status, "cancelled")
        if state.claimed_by is None or state.claim_seq is None:
            outcomes.end_job(
                transaction, state, "cancelled", progress=None, task_output=None, error=None
            )
        elif state.lease_is_live:
            control.request_cancel(transaction, state.id)
            return "processing"
        else:  # whoever ran it fell silent: that one's late writes are refused
            held = Claim(job_id, state.id, state.claimed_by, state.claim_seq)
            outcomes.end_cancelled(transaction, held)
        return "cancelled"


def _checked(wanted: JobFilter, statuses: frozenset[str], after: int, limit: int) -> dict[str, Any]:
    """Return a filter as the parameters of a statement.

    Raises:
        ValueError: It is empty, or a value cannot be looked for.
    """
    if wanted.is_empty:
        raise ValueError("the filter is empty: give a criterion, or `everything`")
    if wanted.status is not None and wanted.status not in statuses:
        expected = " or ".join(sorted(statuses))
        raise ValueError(f"status: expected {expected}, not {wanted.status!r}")
    check_text("task_type", wanted.task_type)
    check_text("created_by", wanted.created_by)
    _check_time("added_after", wanted.added_after)
    _check_time("added_before", wanted.added_before)
    if limit < 1:
        raise ValueError(f"limit {limit!r} is not at least 1")
    values = asdict(wanted)
    del values["everything"]
    return {**values, "after": after, "limit": limit}


def _check_time(name: str, time_ms: Optional[int]) -> None:
    """Raise `ValueError` unless it is milliseconds: SQLite takes any text for 0, and finds all."""
    if time_ms is not None and (type(time_ms) is not int or not 0 <= time_ms < 2**63):
        raise ValueError(f"{name} {time_ms!r} is not milliseconds since the epoch")


def _retry(transaction: Transaction, entry_id: int, _job_id: str) -> bool:
    return control.retry_job(transaction, entry_id)
