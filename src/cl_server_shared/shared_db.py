"""`SQLAlchemyJobRepository`: jobs in SQLite or PostgreSQL.

The five methods of `JobRepository`, adding many at once and claiming one by its id; what a worker
needs beyond is in `work_queue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from sqlalchemy.orm import Session

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import DEFAULT_MAX_RETRIES, TERMINAL_STATUSES, Job, check_transition
from cl_ml_tools.protocols import AddedJob, Claim, ClaimedJob, JobToAdd

from .sql import adding, claims, jobs, outcomes
from .transaction import Transaction
from .validation import checked_changes, checked_job
from .work_queue import WorkQueueInSQL

__all__ = ["SQLAlchemyJobRepository"]


class SQLAlchemyJobRepository(WorkQueueInSQL):
    """Jobs behind a session factory: `cl_ml_tools.JobRepository` and `WorkQueue`.

    Threads may share it. It is an instance of its own from its first claim on: it renews its lease
    by itself, and after a fork it is a new one. Its arguments are those of `WorkQueueInSQL`.
    """

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
        session: Optional[Session] = None,
    ) -> str:
        """Store a job queued and return its id.

        Args:
            job: The job; its status must be `queued`.
            created_by: Who asked for it: a user's `sub`.
            priority: 0 to 10, higher is more urgent; `None` is 5.
            max_retries: How many re-runs it may have, 0 to 50.
            available_at: Not to run before, in milliseconds since the epoch.
            timeout_seconds: How long one attempt may take; `None`: the worker's own limit.
            idempotency_key: A second call with this key returns the first one's job.
            session: The caller's: the job is written in its transaction, and told after its commit.

        Raises:
            DuplicateJob: The id is taken, or the key stands for a job with other content.
            ValueError: A value is out of range; the message names it.
        """
        new_job = checked_job(
            JobToAdd(
                job,
                created_by,
                priority,
                max_retries,
                available_at,
                timeout_seconds,
                idempotency_key,
            )
        )
        if session is None:
            one_statement = idempotency_key is None
            with self._transaction(one_statement=one_statement) as transaction:
                return adding.add_job(transaction, new_job)
        acknowledged = self._outbox.without_broker
        with self._database.joined(session, acknowledged=acknowledged) as transaction:
            job_id = adding.add_job(transaction, new_job)
            self._wakeup.announce_after_commit(session, transaction)
        self._outbox.publish_after_commit(session, transaction.events)
        return job_id

    def add_jobs(self, jobs: Sequence[JobToAdd]) -> list[AddedJob]:
        """Store jobs queued, all in one transaction, and return what became of each, in order.

        One whose id or idempotency key is there with the same content is `existing` and stays as
        it is; so is one whose key another before it in `jobs` has.

        Raises:
            DuplicateJob: An id or a key stands for a job with other content; none was added.
            ValueError: A value is out of range; the message names it. None was added.
        """
        new_jobs = [checked_job(job) for job in jobs]
        if not new_jobs:
            return []
        with self._transaction() as transaction:
            return adding.add_jobs(transaction, new_jobs)

    def get_job(self, job_id: str) -> Optional[Job]:
        """Return the job, or `None` where there is none with that id."""
        with self._database.reading() as transaction:
            return jobs.select_job(transaction, job_id)

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Set `status`, `progress`, `task_output` (a dict), `error_message`; publish what changed.

        Returns:
            False where there is no such job.

        Raises:
            TypeError: A field is not one of the four.
            ValueError: A value is out of range.
            IllegalTransition: The job's status does not lead to the one given.
            ClaimLost: Another live claim holds the job, or this object's claim was taken away.
        """
        changes = checked_changes(fields)
        status = changes.pop("status", None)
        claimed: Optional[ClaimedJob] = None
        self._held.instance()  # a forked child has none of its parent's claims
        claiming = self._held.claiming_instance() if status == "processing" else None
        with self._transaction() as transaction:
            state = jobs.lock_job(transaction, job_id)
            if state is None:
                return False
            self._held.recognise(job_id, state)
            if status == state.status:
                if state.status in TERMINAL_STATUSES or not fields.keys() - {"status"}:
                    return True
                status = None
            if status is not None:
                check_transition(job_id, state.status, status)
            if status != "processing":
                self._held.check(job_id, state)
            if status is None:
                jobs.set_fields(transaction, job_id, state, state.status, **changes)
            else:
                claimed = self._set_status(transaction, job_id, state, status, claiming, changes)
        # Not before the commit: where that fails, the job is held as it was.
        if claimed is not None:
            self._held.took([claimed])
        elif status is not None:
            self._held.let_go(job_id)
        return True

    def fetch_next_job(self, task_types: Sequence[str]) -> Optional[Job]:
        """Claim the next queued job of these types; `None` where there is none."""
        claimed = self.fetch_next_jobs(task_types, 1)
        return claimed[0].job if claimed else None

    def delete_job(self, job_id: str) -> bool:
        """Remove the job and every row that belongs to it; False where there is none."""
        with self._transaction() as transaction:
            state = jobs.lock_job(transaction, job_id)
            if state is None:
                return False
            jobs.delete_job(transaction, state.id)
            self._tell_of_room(transaction)
        self._held.let_go(job_id)
        return True

    def claim_job(self, job_id: str) -> Optional[ClaimedJob]:
        """Claim one queued job by its id, also one that waits for its re-run.

        Returns:
            `None` where there is no such job.

        Raises:
            IllegalTransition: It has ended.
            ClaimLost: Another claim holds it.
        """
        instance_id = self._held.claiming_instance()
        with self._transaction() as transaction:
            state = jobs.lock_job(transaction, job_id)
            if state is None:
                return None
            if state.status == "processing":
                raise ClaimLost(job_id)
            check_transition(job_id, state.status, "processing")
            claimed = claims.claim_job(transaction, state.id, job_id, instance_id)
        self._held.took([claimed])
        return claimed

    def _set_status(
        self,
        transaction: Transaction,
        job_id: str,
        state: jobs.JobState,
        status: str,
        claiming: Optional[int],
        changes: dict[str, Any],
    ) -> Optional[ClaimedJob]:
        """Give a job another status; return the claim that was made of it, if one was."""
        claimed = None
        if status in TERMINAL_STATUSES:
            outcomes.end_job(transaction, state, status, **changes)
            self._tell_of_room(transaction)
            return None
        if status == "processing":
            assert claiming is not None
            claimed = claims.claim_job(transaction, state.id, job_id, claiming)
        else:
            assert state.claimed_by is not None and state.claim_seq is not None
            held = Claim(job_id, state.id, state.claimed_by, state.claim_seq)
            outcomes.give_back(transaction, held)
            state = jobs.lock_job(transaction, job_id) or state  # its progress begins at 0 again
        jobs.set_fields(transaction, job_id, state, status, **changes)
        return claimed
