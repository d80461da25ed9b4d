"""The one connection with which this process writes to an SQLite database.

SQLite lets one transaction write at a time, so one connection is enough, and the threads of a
process take turns at it. It is not one of the pool: taking one out, setting SQLite's time-out for
us and back for others, and putting it in again took half of what an addition took beyond SQLite.
"""

from __future__ import annotations

import os
import time
from threading import RLock
from typing import Any, Optional

from sqlalchemy import Engine, PoolProxiedConnection, QueuePool
from sqlalchemy.event import listen

from .sqlite_lock import begin_immediate, take_lock, without_busy_handler

__all__ = ["SQLiteWriter", "close_cursor"]


class SQLiteWriter:
    """A connection to write with, and the lock that a thread holds while it does.

    It is taken out of the engine's pool for good at the first transaction, and closed as the
    engine is disposed of, or where a transaction failed for another reason than its caller's.
    Where a pool's connection is not ours to keep, as that of an in-memory database, one is taken
    for each transaction.

    Args:
        engine: Of the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = RLock()
        self._pid = os.getpid()
        self._keeps = isinstance(engine.pool, QueuePool)
        self._is_disposed = False
        self._connection: Optional[PoolProxiedConnection] = None
        self._cursor: Any = None
        self._timeout_ms = 0
        listen(engine, "engine_disposed", self._on_disposed)

    def begin(self, engine: Engine) -> Any:
        """Begin a transaction that holds the write lock; return the driver's cursor to work with.

        Args:
            engine: Whose pool the connection is taken from.

        Raises:
            DatabaseBusy: Others held the lock for longer than the connection's own time-out.
        """
        started = time.monotonic()
        self._lock.acquire()
        try:
            if self._is_disposed:
                self._close()
            connection = self._connection or self._open(engine)
            if self._keeps:
                take_lock(self._cursor, started, self._timeout_ms)
            else:
                begin_immediate(connection, self._cursor, started)
        except BaseException:  # raised again: the lock and the connection are let go
            self._end(keeps=False)
            raise
        return self._cursor

    def commit(self) -> None:
        """Commit the transaction, and let the next thread have its turn."""
        is_committed = False
        try:
            self._cursor.execute("COMMIT")  # of our own `BEGIN IMMEDIATE`
            is_committed = True
        finally:
            self._end(keeps=is_committed)

    def roll_back(self) -> None:
        """Undo the transaction, and let the next thread have its turn."""
        is_rolled_back = False
        try:
            self._cursor.connection.rollback()
            is_rolled_back = True
        finally:
            self._end(keeps=is_rolled_back)

    def _open(self, engine: Engine) -> PoolProxiedConnection:
        connection = self._connection = engine.raw_connection()
        if self._keeps:
            connection.detach()
        self._cursor = connection.cursor()
        if self._keeps:
            self._timeout_ms = without_busy_handler(self._cursor)
        return connection

    def _end(self, *, keeps: bool) -> None:
        try:
            if not (keeps and self._keeps) or self._is_disposed:
                self._close()
        finally:
            self._lock.release()

    def _close(self) -> None:
        connection, cursor = self._connection, self._cursor
        self._connection = self._cursor = None
        self._is_disposed = False
        close_cursor(cursor)
        if connection is not None:
            connection.close()  # what is still open is rolled back

    def _on_disposed(self, _engine: Engine) -> None:
        """Close the connection now, or at the end of the transaction that another thread is in."""
        if os.getpid() != self._pid:
            return  # a forked child has no business with its parent's connection
        self._is_disposed = True
        if self._lock.acquire(blocking=False):
            self._end(keeps=False)


def close_cursor(cursor: Any) -> None:
    """Let go of a cursor, before its connection goes back to the pool.

    One that is collected later resets its statement then. If another thread has the connection by
    that time, and waits for SQLite's lock on it, this waits for that thread, with Python's global
    lock held: nothing in the process went on for ten seconds.

    Args:
        cursor: The driver's; `None` where it could not be made.
    """
    if cursor is not None:
        cursor.close()
