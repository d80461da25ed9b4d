"""Sleeping until something may have been added, instead of until the next poll."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .database import Database
from .sql.claims import any_waiting, next_due_in_ms

__all__ = ["wait_for_jobs"]

# How often an idle worker looks. `data_version` costs a microsecond; PostgreSQL, a round trip.
SQLITE_LOOK_SECONDS = 0.050
POSTGRESQL_LOOK_SECONDS = 0.250


def wait_for_jobs(database: Database, timeout_seconds: float, task_types: Sequence[str]) -> bool:
    """Sleep until another connection has committed, a job becomes due, or the time is over.

    Args:
        database: Where the jobs are.
        timeout_seconds: How long to sleep at most.
        task_types: What the caller last looked for in vain.

    Returns:
        True where a look is worth it, False where the time is over.
    """
    if database.dialect == "postgresql" or database.in_memory:
        look = POSTGRESQL_LOOK_SECONDS if database.dialect == "postgresql" else SQLITE_LOOK_SECONDS
        time.sleep(min(timeout_seconds, look))
        return True
    with database.reading() as transaction:
        version = "PRAGMA data_version"
        seen = transaction.cursor.execute(version).fetchone()
        if any_waiting(transaction, task_types):
            return True  # added after the caller looked, and before this did
        due_in_ms = next_due_in_ms(transaction)
        give_up = time.monotonic() + timeout_seconds
        due_at = None if due_in_ms is None else time.monotonic() + max(0, due_in_ms) / 1000
        while True:
            now = time.monotonic()
            if due_at is not None and now >= due_at:
                return True
            if now >= give_up:
                return False
            nearest = give_up if due_at is None else min(give_up, due_at)
            time.sleep(min(nearest - now, SQLITE_LOOK_SECONDS))
            if transaction.cursor.execute(version).fetchone() != seen:
                return True
