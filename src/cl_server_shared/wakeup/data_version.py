"""Seeing commits of others by the version of an SQLite file."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..database import Database
from ..transaction import Transaction
from .waiting import SQLITE_LOOK_SECONDS, Look, Way, look_now, look_until_found

__all__ = ["DataVersion", "Version"]


class Version:
    """The version of an SQLite file, as one connection sees it.

    Args:
        transaction: On the connection; reads only, or its own commits would not be seen.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._seen = self._read()

    def has_changed(self) -> bool:
        """Return whether another connection has committed since the last call."""
        before, self._seen = self._seen, self._read()
        return self._seen != before

    def _read(self) -> int:
        version: int = self._transaction.cursor.execute("PRAGMA data_version").fetchone()[0]
        return version


class DataVersion(Way):
    """Reads the version every 50 ms: a microsecond each time, on any system.

    Args:
        database: Where the jobs are.
    """

    name = "data_version"

    def __init__(self, database: Database) -> None:
        self._database = database

    def wait(self, timeout_seconds: float, task_types: Sequence[str]) -> bool:
        """Look whenever the version has changed, until there is a job or the time is over."""
        with self._database.reading() as transaction:
            version = Version(transaction)  # before the first look: nothing falls between

            def sleep(seconds: float) -> None:
                until = time.monotonic() + seconds
                while not (version.has_changed() or self.is_closed) and time.monotonic() < until:
                    time.sleep(min(SQLITE_LOOK_SECONDS, max(0.0, until - time.monotonic())))

            def look() -> Look:
                return look_now(self._database, transaction, task_types)

            return look_until_found(self, look, sleep, timeout_seconds)
