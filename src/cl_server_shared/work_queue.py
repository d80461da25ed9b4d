"""`WorkQueueInSQL`: claims with a lease, and outcomes that are fenced by them.

Each method is one short transaction of named statements (`sql/`); its events go out after the
commit (`outbox`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any, Callable, Optional

from sqlalchemy.orm import Session

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import (
    can_be_stored,
    check_error,
    check_progress,
    check_text,
    task_output_text,
)
from cl_ml_tools.protocols import AttemptLog, Claim, ClaimedJob, Completion, FailureOutcome

from .database import Database
from .duties import RESCUE, Duties, duty_lease_seconds
from .errors import DatabaseUnavailable
from .holdings import Holdings
from .instance import ExpiredInstances, Instance
from .outbox import EventPublisher, Outbox
from .rank_floor import RankFloor
from .sql import claims, leases, outcomes, stats, waiting
from .sql.rescue import take_back_claims
from .transaction import Transaction
from .wakeup import Wakeup

__all__ = ["WorkQueueInSQL"]

logger = logging.getLogger(__name__)

# An empty claim is believed only once nothing is waiting that others merely hold locked.
EMPTY_CLAIM_TRIES = 200
EMPTY_CLAIM_PAUSE_SECONDS = 0.005

# How long a claim is not tried at once, after it was seen that a task type has a limit.
LIMITED_SECONDS = 1.0

# Behind so many, what a transaction that is held open keeps from being cleaned away slows a claim.
MANY_TRANSACTIONS = 1_000


class WorkQueueInSQL:
    """`cl_ml_tools.protocols.WorkQueue` behind a session factory. Threads may share it.

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
        self._database = Database(session_factory, clock)
        self._outbox = Outbox(self._database)
        self._wakeup = Wakeup(self._database)
        self._expired = ExpiredInstances(self._database, monotonic)
        self._held = Holdings(self._database, lease_seconds, self._renew_and_rescue)
        self._in_doubt: set[Claim] = set()
        self._looked_for: Sequence[str] = ()
        self._here = _OfThread()
        self._limited_until = float("-inf")
        self._limits_seen = False
        self._floor = RankFloor(partial(_vacuum_is_held_back, self._database))

    @property
    def broadcaster(self) -> EventPublisher:
        """What events are published with; any object with `publish_event` may replace it."""
        return self._outbox.broadcaster

    @broadcaster.setter
    def broadcaster(self, broadcaster: EventPublisher) -> None:
        self._outbox.broadcaster = broadcaster

    @property
    def wake_up(self) -> str:
        """What wakes who waits for jobs: `inotify`, `data_version`, `notify` or `poll`."""
        return self._wakeup.way

    def flush_events(self, timeout_seconds: float) -> bool:
        """Wait until the broker has all events; return whether it has. For a process that ends."""
        return self._outbox.flush(timeout_seconds)

    def register_instance(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> int:
        """Make this object an instance with a fresh lease and return its `instance_id`.

        The caller renews the lease (`renew_lease`), as it knows what else depends on it.

        Args:
            label: What people call the worker (`WORKER_ID`); need not be unique.
            capabilities: What it can run: the JSON Schema of the parameters per task type.
            concurrency: How many jobs it runs at once.

        Raises:
            ValueError: The label cannot be stored.
        """
        check_text("label", label)
        self._in_doubt.clear()
        return self._held.register(label, capabilities, concurrency)

    def renew_lease(self, running: int = 0) -> Optional[list[Claim]]:
        """Renew the lease and return the claims that are known to be this instance's.

        Args:
            running: How many jobs it runs now.

        Returns:
            `None` where the instance is not known any more: all its claims are lost.
        """
        instance = self._held.instance()
        return None if instance is None else instance.renew(running)

    def release_instance(self) -> None:
        """Give back what is still claimed, at no cost, and end the instance."""
        instance = self._held.instance()
        if instance is None:
            return
        self._held.forget_instance()
        with self._transaction() as transaction:
            for claim in leases.lock_claims(transaction, instance.instance_id):
                outcomes.give_back(transaction, claim)
        instance.forget()
        self._wakeup.close()

    def fetch_next_jobs(self, task_types: Sequence[str], limit: int) -> list[ClaimedJob]:
        """Claim up to `limit` jobs, most urgent first; empty only where nothing is there."""
        task_types = list(dict.fromkeys(name for name in task_types if can_be_stored(name)))
        if not task_types or limit < 1:
            return []
        self._looked_for = self._here.looked_for = task_types
        instance_id = self._held.claiming_instance()
        claimed = self._claim_at_once(task_types, limit, instance_id)
        claimed = claimed or self._claim_step_by_step(task_types, limit, instance_id)
        self._held.took(claimed)
        self._wakeup.has_claimed(bool(claimed))
        return claimed

    def report_progress(self, claim: Claim, progress: int) -> None:
        """Store and publish how far the job is, 0 to 100; `ClaimLost` where it is not held."""
        check_progress(progress)
        with self._transaction() as transaction:
            outcomes.report_progress(transaction, claim, progress)

    def complete_jobs(self, completions: Sequence[Completion]) -> list[Claim]:
        """End jobs as completed, all in one transaction.

        Where the database went away in the middle it is not known whether they ended. Called
        again for the same claims, this says what became of them.

        Returns:
            The refused ones: claims that are not held any more; nothing of theirs was changed.

        Raises:
            ValueError: A `task_output` cannot be written as JSON; nothing was changed at all.
        """
        outputs = [(item.claim, task_output_text(item.task_output)) for item in completions]
        logged = [item for item in completions if item.log is not None and item.log.output]
        try:
            with self._transaction(one_statement=not logged) as transaction:
                ended = outcomes.complete(transaction, outputs) if outputs else {}
                self._tell_of_room(transaction)
                for item in logged:
                    outcomes.keep_log(transaction, item, ended)
        except DatabaseUnavailable:
            self._in_doubt.update(item.claim for item in completions)
            raise
        refused = [
            claim
            for claim, output in outputs
            if claim not in ended and not self._completed_before(claim, output)
        ]
        if self._in_doubt:
            self._in_doubt.difference_update(claim for claim, _ in outputs)
        for claim, _ in outputs:
            if claim not in refused:
                self._held.let_go(claim.job_id)
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
        """Queue the job for a re-run if it has one left, else end it as failed.

        Args:
            claim: The hold under which it ran.
            error: One sentence that says why.
            retryable: False where running it again cannot help.
            outcome: What kind of failure, for the attempt's row.
            log: What the attempt leaves behind.

        Returns:
            The job's new status: `queued`, `error`, or `cancelled` where that was asked for.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
            ValueError: The error is not text.
        """
        check_error(error)
        with self._transaction() as transaction:
            status = outcomes.fail(
                transaction, claim, error, retryable=retryable, outcome=outcome, log=log
            )
            self._tell_of_room(transaction)
        self._held.let_go(claim.job_id)
        return status

    def postpone_job(
        self, claim: Claim, delay_seconds: float, *, log: Optional[AttemptLog] = None
    ) -> None:
        """Queue the job again, not before some time from now; it costs no attempt.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
        """
        with self._transaction() as transaction:
            outcomes.postpone(transaction, claim, round(delay_seconds * 1000), log=log)
        self._held.let_go(claim.job_id)

    def give_back_jobs(self, claims: Sequence[Claim]) -> list[Claim]:
        """Queue jobs again in their old places, at no cost; those to be cancelled end so.

        Returns:
            The refused ones: claims that are not held any more; nothing of theirs was changed.
        """
        refused = []
        with self._transaction() as transaction:
            for claim in sorted(claims, key=lambda claim: claim.entry_id):
                try:
                    outcomes.give_back(transaction, claim)
                except ClaimLost:
                    refused.append(claim)
        for claim in claims:
            if claim not in refused:
                self._held.let_go(claim.job_id)
        return refused

    def cancel_requests(self) -> list[Claim]:
        """Return this instance's claims whose jobs somebody wants cancelled."""
        instance = self._held.instance()
        if instance is None:
            return []
        with self._database.reading() as transaction:
            return leases.cancel_requests(transaction, instance.instance_id)

    def end_cancelled_job(self, claim: Claim, *, log: Optional[AttemptLog] = None) -> None:
        """End a job as cancelled, once what ran it has ended.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
        """
        with self._transaction() as transaction:
            outcomes.end_cancelled(transaction, claim, log=log)
            self._tell_of_room(transaction)
        self._held.let_go(claim.job_id)

    def rescue_expired_jobs(self) -> int:
        """Fail the attempts of instances whose lease ran out; return how many there were."""
        over = self._expired.find()
        with self._transaction() as transaction:
            rescued = take_back_claims(transaction, over)
        if rescued:
            logger.warning("%d jobs of workers that went silent were taken back", rescued)
        return rescued

    def wait_for_jobs(self, timeout_seconds: float) -> bool:
        """Sleep until there may be a job; False where the time is over.

        One of those that this thread looked for last, or any thread, where this one did not; before
        the first look, any job.
        """
        return self._wakeup.wait(timeout_seconds, self._here.looked_for or self._looked_for)

    def _transaction(self, *, one_statement: bool = False) -> AbstractContextManager[Transaction]:
        """Return a write transaction whose events are published after its commit."""
        outbox = self._outbox
        return self._database.transaction(
            acknowledged=outbox.without_broker,
            publish=outbox.publish,
            announce=self._wakeup.announce,
            one_statement=one_statement,
        )

    def _claim_at_once(
        self, task_types: Sequence[str], limit: int, instance_id: int
    ) -> list[ClaimedJob]:
        """Claim where nothing has to be seen to first."""
        began = time.monotonic()
        if began < self._limited_until:
            return []
        floor = self._floor.at(task_types, began)
        with self._transaction(one_statement=True) as transaction:
            claimed, lowest = claims.claim_at_once(
                transaction, task_types, limit, instance_id, floor
            )
        if self._database.dialect == "postgresql":
            self._floor.looked(task_types, floor, lowest, began=began, ended=time.monotonic())
        return claimed

    def _claim_step_by_step(
        self, task_types: Sequence[str], limit: int, instance_id: int
    ) -> list[ClaimedJob]:
        """Claim once what is due has its place, and of limited types no more than there is room."""
        tries = 0
        while tries < EMPTY_CLAIM_TRIES:
            with self._transaction() as transaction:
                more_is_due = waiting.make_due(transaction)
                room, limited = waiting.room_per_type(transaction, task_types, limit)
                claimed = claims.claim_within_limits(transaction, room, limit, instance_id)
                # Others may hold the heads, or be giving their place to jobs that became due.
                is_hidden = not claimed and bool(room) and waiting.is_any_due(transaction, room)
            self._limits_seen = limited
            if limited:
                self._limited_until = time.monotonic() + LIMITED_SECONDS
            if not is_hidden:
                return claimed
            if not more_is_due:
                tries += 1
                time.sleep(EMPTY_CLAIM_PAUSE_SECONDS)
        return []

    def _tell_of_room(self, transaction: Transaction) -> None:
        """Where task types are limited, wake who waits: a job that ends makes room for another."""
        transaction.makes_claimable |= self._limits_seen

    def _completed_before(self, claim: Claim, task_output: Optional[str]) -> bool:
        """Return whether an earlier call, whose answer was lost, has ended the job."""
        if claim not in self._in_doubt:
            return False
        with self._database.reading() as transaction:
            return outcomes.has_completed(transaction, claim, task_output)

    @cached_property
    def _duties(self) -> Duties:
        return Duties(self._database, duty_lease_seconds(self._held.lease_seconds))

    def _renew_and_rescue(self, instance: Instance) -> bool:
        """Renew a plain caller's lease; False ends that: the next claim makes a new instance."""
        if instance is not self._held.instance():
            return False
        known = instance.renew(self._held.claim_count)
        if known is None:
            self._held.lose_instance()
            return False
        lost = self._held.unknown_twice(known)
        if lost:
            self.give_back_jobs(lost)
        with self._duties.briefly(RESCUE) as is_ours:
            if is_ours:
                self.rescue_expired_jobs()
        return True


class _OfThread(threading.local):
    """What each thread looked for last; nothing: it has not looked."""

    looked_for: Sequence[str] = ()


def _vacuum_is_held_back(database: Database) -> bool:
    """Return whether PostgreSQL cannot clean away what many transactions left."""
    with database.reading() as transaction:
        holds = stats.oldest_snapshots(transaction)
    return any(hold.transactions > MANY_TRANSACTIONS for hold in holds)
