"""Waiting for SQLite's one write lock.

SQLite's own busy handler starves whoever waits longest (eight processes: worst wait 1.7-2.9 s).
So writers wait here: `BEGIN IMMEDIATE` without the handler, retried after a pause that shrinks
the longer one has waited.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import PoolProxiedConnection
from sqlalchemy.orm import Session

from .driver_errors import is_busy, raise_mapped
from .errors import DatabaseBusy

__all__ = ["begin_immediate", "begin_writing", "take_lock", "without_busy_handler"]

# Before the second try, for who met the one short transaction of somebody else's.
SHORT_PAUSE_SECONDS = 0.000_5

# The pause between two tries, from the first to the last, and over how long it shrinks. Shorter
# ones wake eight waiting processes more often than two cores can bear (0.50-0.64 of one process's
# claims, against 0.66-0.68); longer ones let a claim wait for more than 50 ms.
FIRST_PAUSE_SECONDS = 0.006
LAST_PAUSE_SECONDS = 0.000_1
SHRINK_SECONDS = 0.030


def without_busy_handler(cursor: Any) -> int:
    """Have a connection not wait for locks; return its own time-out, in milliseconds."""
    timeout_ms: int = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
    cursor.execute("PRAGMA busy_timeout=0")
    return timeout_ms


def take_lock(cursor: Any, started: float, timeout_ms: int) -> None:
    """Begin a transaction that holds the write lock, on a connection that does not wait itself.

    Args:
        cursor: The driver's.
        started: Since when the caller waits, by `time.monotonic`.
        timeout_ms: How long to wait.

    Raises:
        DatabaseBusy: Others held the lock for longer.
    """
    is_first = True
    while not _took_lock(cursor):
        waited = time.monotonic() - started
        if waited * 1000 > timeout_ms:
            raise DatabaseBusy(f"the database was locked by others for {waited:.1f} s")
        time.sleep(SHORT_PAUSE_SECONDS if is_first else _pause_seconds(waited))
        is_first = False


def begin_immediate(connection: PoolProxiedConnection, cursor: Any, started: float) -> None:
    """Begin a transaction that holds the write lock, on a connection that others use as well.

    Args:
        connection: The pool's; it knows its own time-out, which is put back after.
        cursor: A cursor on it.
        started: Since when the caller waits, by `time.monotonic`.

    Raises:
        DatabaseBusy: Others held the lock for longer than the connection's own time-out.
    """
    timeout_ms = without_busy_handler(cursor)
    try:
        take_lock(cursor, started, timeout_ms)
    finally:
        cursor.execute(f"PRAGMA busy_timeout={timeout_ms}")


def begin_writing(session: Session) -> None:
    """Begin the transaction of a session that is going to write, waiting as all other writers do.

    SQLite's own way of waiting starves whoever waits longest. On PostgreSQL there is nothing to do.

    Raises:
        DatabaseBusy: SQLite's lock was held by others for too long.
        DatabaseUnavailable: The database cannot be reached.
    """
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        return
    cursor = connection.connection.cursor()
    try:
        begin_immediate(connection.connection, cursor, time.monotonic())
    except Exception as error:  # raised again, as ours where it is the driver's
        raise_mapped(connection, error)
        raise
    finally:
        cursor.close()


def _took_lock(cursor: Any) -> bool:
    try:
        cursor.execute("BEGIN IMMEDIATE")
    except Exception as error:  # of either SQLite module; all but `locked` goes on
        if not is_busy(error):
            raise
        return False
    return True


def _pause_seconds(waited: float) -> float:
    left = max(0.0, 1 - waited / SHRINK_SECONDS)
    return max(LAST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * left)
