"""Maintenance duties: each is held by one process at a time, and by another soon after that died."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from .database import Database
from .ids import new_instance_id
from .leases import RENEWALS_PER_LEASE, watch_of
from .sql import duties
from .sql.duties import DutyRow
from .sql.leases import Lease

__all__ = ["RESCUE", "Duties", "duty_lease_seconds"]

# The one duty that others than maintenance do: repository objects that claim by themselves.
RESCUE = "rescue"

# The longest that a duty stays with a process that died.
MAX_LEASE_SECONDS = 30.0

# On SQLite a process that looks only once, as a cron job does, sees no one silent for long: it
# takes a duty whose holder has not renewed it for a day. Nothing is lost where two hold one.
ABANDONED_MS = 24 * 3600 * 1000


def duty_lease_seconds(worker_lease_seconds: float) -> float:
    """Return how long a duty outlives its holder: less than jobs do, so that they are rescued."""
    return min(MAX_LEASE_SECONDS, worker_lease_seconds / 2)


class Duties:
    """The duties that one holder has, out of all those of a database.

    On PostgreSQL the server's clock decides whose time is over; on SQLite, where each process has
    a clock that may step, what was seen under a clock that does not (`LeaseWatch`).

    Args:
        database: Where they are.
        lease_seconds: How long a duty is held without renewal.
        monotonic: Seconds that never step.
    """

    def __init__(
        self,
        database: Database,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.renewal_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._database = database
        self._lease_ms = int(lease_seconds * 1000)
        self._monotonic = monotonic
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._holder = new_instance_id()
        self._renewed_at: dict[str, float] = {}

    def hold(self, name: str) -> bool:
        """Take a duty that is free, or go on holding it; return whether it is held.

        Costs nothing while it is held and need not be renewed yet. Each duty is to be held by one
        thread.
        """
        if os.getpid() != self._pid:  # what a forked child's parent holds is the parent's
            self._start_anew()
        now, renewed_at = self._monotonic(), self._renewed_at.get(name)
        if renewed_at is not None and now - renewed_at < self.renewal_seconds:
            return True
        held = self._renew(name) if renewed_at is not None else False
        if held or self._take(name, now):
            self._renewed_at[name] = now
            return True
        self._renewed_at.pop(name, None)
        return False

    def give_up(self, name: str) -> None:
        """Let go of a duty, so that another process may take it at once."""
        if self._renewed_at.pop(name, None) is not None:
            with self._database.transaction() as transaction:
                duties.give_up_duty(transaction, name, self._holder)

    @contextmanager
    def briefly(self, name: str) -> Iterator[bool]:
        """Hold a duty for the block, if it is free; give whether it is held."""
        held = self.hold(name)
        try:
            yield held
        finally:
            self.give_up(name)

    def _renew(self, name: str) -> bool:
        with self._database.transaction() as transaction:
            return duties.renew_duty(transaction, name, self._holder, self._lease_ms)

    def _take(self, name: str, now: float) -> bool:
        with self._database.reading() as transaction:
            seen = duties.select_duty(transaction, name)
        if seen is not None and not self._is_free(name, seen, now):
            return False
        with self._database.transaction() as transaction:
            if seen is None:
                return duties.add_duty(transaction, name, self._holder, self._lease_ms)
            return duties.take_duty(transaction, name, self._holder, self._lease_ms, seen)

    def _is_free(self, name: str, seen: DutyRow, now: float) -> bool:
        wall_ms = self._database.now()
        if seen.expires_at == 0 or self._database.dialect != "sqlite" or wall_ms is None:
            return seen.is_over
        # How long the holder's lease is, it does not say: at most the longest.
        renewed_at = seen.expires_at - round(MAX_LEASE_SECONDS * 1000)
        lease = Lease(seen.holder, renewed_at, seen.expires_at, seen.is_over)
        watch = watch_of(self._database.bind, name)
        is_silent = bool(watch.expired([lease], now, self.renewal_seconds))
        return is_silent or seen.expires_at < wall_ms - ABANDONED_MS
