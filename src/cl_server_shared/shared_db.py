"""`SQLAlchemyJobRepository`: jobs in SQLite or PostgreSQL.

Each method is one short transaction of named statements (`sql/`); its events go out after the
commit (`outbox`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Callable, Optional

from sqlalchemy.orm import Session

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import (
    DEFAULT_MAX_RETRIES,
    TERMINAL_STATUSES,
    Job,
    check_progress,
    check_transition,
    task_output_text,
)
from cl_ml_tools.protocols import Claim, ClaimedJob

from .config import Config
from .database import Database
from .instance import RENEWALS_PER_LEASE, ExpiredInstances, Instance, keep_renewing
from .outbox import EventPublisher, Outbox
from .sql import adding, claims, leases, outcomes
from .transaction import Transaction
from .validation import checked_changes, checked_job
from .wakeup import wait_for_jobs

__all__ = ["SQLAlchemyJobRepository"]

logger = logging.getLogger(__name__)

# An empty claim is believed only once nothing is waiting that others merely hold locked.
EMPTY_CLAIM_TRIES = 200
EMPTY_CLAIM_PAUSE_SECONDS = 0.005


class SQLAlchemyJobRepository:
    """Jobs behind a session factory: `cl_ml_tools.JobRepository` and `WorkQueue`.

    Threads may share it. It is an instance of its own from its first claim on: it renews its lease
    by itself, and after a fork it is a new one.

    Args:
        session_factory: A `sessionmaker` for a database that has the tables of `models.Base`.
        lease_seconds: How long claims are kept without renewal; `None`: `WORKER_LEASE_SECONDS`.
        clock: Milliseconds since the epoch, for tests.
        monotonic: Seconds that never step, for tests.
    """

    def __init__(
        self,
        session_factory: Callable[[], Session],
        *,
        lease_seconds: Optional[float] = None,
        clock: Optional[Callable[[], int]] = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._database = Database(session_factory, clock)
        self._outbox = Outbox(self._database)
        self._expired = ExpiredInstances(self._database, monotonic)
        self._instance: Optional[Instance] = None
        self._instance_lock = threading.Lock()
        self._claims: dict[str, Claim] = {}
        self._looked_for: Sequence[str] = ()

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

    # The five methods of `JobRepository`.

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
            job, created_by, priority, max_retries, available_at, timeout_seconds, idempotency_key
        )
        if session is None:
            with self._transaction() as transaction:
                return adding.add_job(transaction, new_job)
        acknowledged = self._outbox.without_broker
        with self._database.joined(session, acknowledged=acknowledged) as transaction:
            job_id = adding.add_job(transaction, new_job)
        self._outbox.publish_after_commit(session, transaction.events)
        return job_id

    def get_job(self, job_id: str) -> Optional[Job]:
        """Return the job, or `None` where there is none with that id."""
        with self._database.reading() as transaction:
            return outcomes.select_job(transaction, job_id)

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
        self._own_instance()  # a forked child has none of its parent's claims
        claiming = self._claiming_instance() if status == "processing" else None
        with self._transaction() as transaction:
            state = claims.lock_job(transaction, job_id)
            if state is None:
                return False
            if status == state.status:
                if state.status in TERMINAL_STATUSES or not fields.keys() - {"status"}:
                    return True
                status = None
            if status is not None:
                check_transition(job_id, state.status, status)
            if status != "processing":
                self._check_claim(job_id, state)
            if status is None:
                outcomes.set_fields(transaction, job_id, state, state.status, **changes)
            else:
                self._change_status(transaction, job_id, state, status, claiming, changes)
        return True

    def fetch_next_job(self, task_types: Sequence[str]) -> Optional[Job]:
        """Claim the next queued job of these types; `None` where there is none."""
        claimed = self.fetch_next_jobs(task_types, 1)
        return claimed[0].job if claimed else None

    def delete_job(self, job_id: str) -> bool:
        """Remove the job and every row that belongs to it; False where there is none."""
        with self._transaction() as transaction:
            state = claims.lock_job(transaction, job_id)
            if state is None:
                return False
            outcomes.delete_job(transaction, state.id)
        self._claims.pop(job_id, None)
        return True

    def claim_job(self, job_id: str) -> Optional[ClaimedJob]:
        """Claim one queued job by its id, also one that waits for its re-run.

        Returns:
            `None` where there is no such job.

        Raises:
            IllegalTransition: It has ended.
            ClaimLost: Another claim holds it.
        """
        instance_id = self._claiming_instance()
        with self._transaction() as transaction:
            state = claims.lock_job(transaction, job_id)
            if state is None:
                return None
            if state.status == "processing":
                raise ClaimLost(job_id)
            check_transition(job_id, state.status, "processing")
            claimed = claims.claim_job(transaction, state.id, job_id, instance_id)
        self._claims[job_id] = claimed.claim
        return claimed

    # What a worker needs beyond: `WorkQueue`.

    def register_instance(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> int:
        """Make this object an instance with a fresh lease and return its `instance_id`.

        The caller renews the lease (`renew_lease`), as it knows what else depends on it.

        Args:
            label: What people call the worker (`WORKER_ID`); need not be unique.
            capabilities: What it can run: the JSON Schema of the parameters per task type.
            concurrency: How many jobs it runs at once.
        """
        instance = self._register(label, capabilities, concurrency)
        self._claims.clear()
        return instance.instance_id

    def renew_lease(self, running: int = 0) -> bool:
        """Renew the lease; False where the instance is not known any more: its claims are lost."""
        instance = self._own_instance()
        return instance is not None and instance.renew(running)

    def release_instance(self) -> None:
        """Give back what is still claimed, at no cost, and end the instance."""
        instance = self._own_instance()
        if instance is None:
            return
        self._instance = None
        with self._transaction() as transaction:
            for claim in leases.entries_of_instance(transaction, instance.instance_id):
                claims.give_back(transaction, claim)
        instance.forget()
        self._claims.clear()

    def fetch_next_jobs(self, task_types: Sequence[str], limit: int) -> list[ClaimedJob]:
        """Claim up to `limit` jobs, most urgent first; empty only where nothing is there."""
        if not task_types or limit < 1:
            return []
        task_types = self._looked_for = list(dict.fromkeys(task_types))
        instance_id = self._claiming_instance()
        for _ in range(EMPTY_CLAIM_TRIES):
            with self._transaction() as transaction:
                claims.make_due(transaction)
                claimed = claims.claim_jobs(transaction, task_types, limit, instance_id)
                if not claimed and not claims.any_waiting(transaction, task_types):
                    return []
            if claimed:
                self._claims.update({item.job.job_id: item.claim for item in claimed})
                return claimed
            time.sleep(EMPTY_CLAIM_PAUSE_SECONDS)
        return []

    def report_progress(self, claim: Claim, progress: int) -> None:
        """Store and publish how far the job is, 0 to 100; `ClaimLost` where it is not held."""
        check_progress(progress)
        with self._transaction() as transaction:
            outcomes.report_progress(transaction, claim, progress)

    def complete_job(self, claim: Claim, task_output: Optional[dict[str, Any]]) -> None:
        """End the job as completed.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
            ValueError: The output cannot be written as JSON; nothing was changed.
        """
        output = task_output_text(task_output)
        with self._transaction() as transaction:
            outcomes.complete(transaction, claim, output)
        self._claims.pop(claim.job_id, None)

    def fail_job(self, claim: Claim, error: str, *, retryable: bool = True) -> str:
        """Queue the job for a re-run if it has one left, else end it as failed.

        Returns:
            The job's new status: `queued` or `error`.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
        """
        with self._transaction() as transaction:
            status = outcomes.fail(transaction, claim, error, retryable=retryable)
        self._claims.pop(claim.job_id, None)
        return status

    def give_back_job(self, claim: Claim) -> None:
        """Queue the job again in its old place, at no cost; `ClaimLost` where it is not held."""
        with self._transaction() as transaction:
            claims.give_back(transaction, claim)
        self._claims.pop(claim.job_id, None)

    def rescue_expired_jobs(self) -> int:
        """Fail the attempts of instances whose lease ran out; return how many there were."""
        self._expired.forget(self._lease() / RENEWALS_PER_LEASE)
        with self._transaction() as transaction:
            orphaned = leases.orphaned_claims(transaction)
            for claim in orphaned:
                outcomes.fail(
                    transaction, claim, "the worker that ran it went silent", retryable=True
                )
        if orphaned:
            logger.warning("%d jobs of workers that went silent were taken back", len(orphaned))
        return len(orphaned)

    def wait_for_jobs(self, timeout_seconds: float) -> bool:
        """Sleep until something may have been added; False where the time is over."""
        return wait_for_jobs(self._database, timeout_seconds, self._looked_for)

    def _transaction(self) -> AbstractContextManager[Transaction]:
        """Return a write transaction whose events are published after its commit."""
        outbox = self._outbox
        return self._database.transaction(
            acknowledged=outbox.without_broker, publish=outbox.publish
        )

    def _register(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> Instance:
        instance = Instance(self._database, self._lease())
        instance.register(label, capabilities, concurrency)
        self._instance = instance
        return instance

    def _lease(self) -> float:
        return Config.WORKER_LEASE_SECONDS if self._lease_seconds is None else self._lease_seconds

    def _claiming_instance(self) -> int:
        """Return this object's instance id; a plain caller becomes one at its first claim."""
        instance = self._own_instance()
        if instance is not None:
            return instance.instance_id
        with self._instance_lock:
            instance = self._instance
            if instance is None:
                instance = self._register(Config.WORKER_ID, {}, concurrency=0)
                if not self._database.in_memory:
                    keep_renewing(self._renew_and_rescue, instance)
            return instance.instance_id

    def _own_instance(self) -> Optional[Instance]:
        """Return the instance that this object is; after a fork, the parent is that one."""
        instance = self._instance
        if instance is not None and instance.pid != os.getpid():
            self._instance_lock = threading.Lock()  # a thread of the parent's may have held it
            self._claims.clear()
            self._instance = instance = None
        return instance

    def _renew_and_rescue(self, instance: Instance) -> bool:
        """Renew a plain caller's lease; False ends that: the next claim makes a new instance."""
        if instance is not self._instance:
            return False
        if not instance.renew(len(self._claims)):
            self._instance = None
            return False
        self.rescue_expired_jobs()
        return True

    def _check_claim(self, job_id: str, state: claims.JobState) -> None:
        """Raise `ClaimLost` where the job is another's, or is this object's no more.

        A claim that was taken away is remembered: nothing is written until the job is claimed anew.
        """
        mine = self._claims.get(job_id)
        if mine is not None:
            if (state.claimed_by, state.claim_seq) != (mine.instance_id, mine.claim_seq):
                raise ClaimLost(job_id)
        elif state.claimed_by is not None and state.lease_is_live:
            raise ClaimLost(job_id)

    def _change_status(
        self,
        transaction: Transaction,
        job_id: str,
        state: claims.JobState,
        status: str,
        claiming: Optional[int],
        changes: dict[str, Any],
    ) -> None:
        if status in TERMINAL_STATUSES:
            outcomes.end_job(transaction, state, status, **changes)
            self._claims.pop(job_id, None)
            return
        if status == "processing":
            assert claiming is not None
            self._claims[job_id] = claims.claim_job(transaction, state.id, job_id, claiming).claim
        else:
            assert state.claimed_by is not None and state.claim_seq is not None
            held = Claim(job_id, state.id, state.claimed_by, state.claim_seq)
            claims.give_back(transaction, held)
            self._claims.pop(job_id, None)
        outcomes.set_fields(transaction, job_id, state, status, **changes)
