"""What all ways of waiting have in common, and the one that needs nothing: looking at intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable, Optional, Protocol

from ..database import Database
from ..sql.waiting import look_for_jobs
from ..transaction import Transaction

__all__ = [
    "NOTICE_SECONDS",
    "Look",
    "Poll",
    "Way",
    "WayUnusable",
    "look_now",
    "look_until_found",
]

# A look costs SQLite some microseconds; PostgreSQL, a few round trips.
SQLITE_LOOK_SECONDS = 0.050
POSTGRESQL_LOOK_SECONDS = 0.250

# How soon a sleeper notices that its way is closed; noticing costs less than looking.
NOTICE_SECONDS = 0.5

# Whether a job waits, and in how many milliseconds the next one becomes due.
Look = tuple[bool, Optional[int]]


class Way(Protocol):
    """One way to be woken. What a way does not need is nothing, as here.

    Attributes:
        name: As `Wakeup.way` says it.
        is_closed: Whether whoever still waits is to give up.
    """

    name: str
    is_closed: bool = False

    def wait(self, timeout_seconds: float, task_types: Sequence[str]) -> bool:
        """Sleep until a job is there, one has become due, or the time is over; see `Wakeup.wait`.

        Raises:
            WayUnusable: It does not work here.
        """
        ...

    def announce(self) -> None:
        """Wake who waits, where the commit itself does not."""
        return

    def has_claimed(self, found: bool) -> None:
        """Take in whether the claim after a wait found something."""
        return

    def close(self) -> None:
        """Let go of what is open, and soon of those who wait."""
        self.is_closed = True


class WayUnusable(Exception):
    """A way of waiting does not work here; the message says why."""


def look_now(database: Database, transaction: Transaction, task_types: Sequence[str]) -> Look:
    """Look once, in a transaction that may be older."""
    transaction.now = database.now()
    return look_for_jobs(transaction, task_types)


def look_until_found(
    way: Way, look: Callable[[], Look], sleep: Callable[[float], None], timeout_seconds: float
) -> bool:
    """Look, and again after each sleep, until there is a job, the time is over, or the way closed.

    Args:
        way: What is waited by.
        look: Looks once.
        sleep: Sleeps for at most so many seconds, less where another look is worth it.
        timeout_seconds: How long all of it may take.

    Returns:
        True where a job is there, or has become due.
    """
    give_up = time.monotonic() + timeout_seconds
    while True:
        is_waiting, due_in_ms = look()
        if is_waiting or (due_in_ms is not None and due_in_ms <= 0):
            return True
        left = give_up - time.monotonic()
        if left <= 0 or way.is_closed:
            return False
        sleep(left if due_in_ms is None else min(left, due_in_ms / 1000))


class Poll(Way):
    """Looks at intervals: for databases of one process, and for factories bound to a connection.

    Args:
        database: Where the jobs are.
    """

    name = "poll"

    def __init__(self, database: Database) -> None:
        self._database = database

    def wait(self, timeout_seconds: float, task_types: Sequence[str]) -> bool:
        """Look at intervals until there is a job or the time is over."""
        is_sqlite = self._database.dialect == "sqlite"
        interval = SQLITE_LOOK_SECONDS if is_sqlite else POSTGRESQL_LOOK_SECONDS

        def look() -> Look:
            with self._database.reading() as transaction:
                return look_for_jobs(transaction, task_types)

        return look_until_found(
            self, look, lambda seconds: time.sleep(min(seconds, interval)), timeout_seconds
        )
