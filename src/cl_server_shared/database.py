"""Short transactions on the driver's own connection, whichever session factory was given.

SQLite has one write lock and its own busy handler starves whoever waits longest (eight processes:
worst wait 1.7-2.9 s). So writers wait here: a lock among the threads of the process, then `BEGIN
IMMEDIATE` without the handler, retried after a pause that shrinks the longer one has waited.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Callable, Optional
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.orm import Session

from .errors import DatabaseBusy, DatabaseUnavailable
from .models import QueueEntry
from .sql.statement import Statement

__all__ = ["Database", "Transaction"]

# The pause between two tries for SQLite's lock, from the first to the last, and over how long.
FIRST_PAUSE_SECONDS = 0.003
LAST_PAUSE_SECONDS = 0.000_05
SHRINK_SECONDS = 0.020

# One lock per engine: repositories on one engine wait for each other here, not in SQLite.
_write_locks: WeakKeyDictionary[Engine, threading.RLock] = WeakKeyDictionary()


@dataclass
class Transaction:
    """One open transaction: a driver's cursor, and the events to publish once it is committed.

    Attributes:
        cursor: The driver's.
        dialect: `sqlite` or `postgresql`.
        now: Milliseconds since the epoch; `None`: PostgreSQL's own clock.
        acknowledged: Whether its event rows are born acknowledged: there is no broker.
        events: Event objects of SPEC.md, published after the commit.
    """

    cursor: Any
    dialect: str
    now: Optional[int]
    acknowledged: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)

    def run(self, statement: Statement, params: Optional[Mapping[str, Any]] = None) -> Any:
        """Execute a statement and return the cursor; `:now` is filled in."""
        text = statement.sqlite if self.dialect == "sqlite" else statement.postgresql
        return self.cursor.execute(text, {"now": self.now, **(params or {})})


class Database:
    """Where the repository's transactions run.

    Args:
        session_factory: A `sessionmaker`, or anything that returns a `Session`.
        clock: Milliseconds since the epoch, for tests; `None`: SQLite gets this process's clock,
            PostgreSQL decides by its own.
    """

    def __init__(
        self, session_factory: Callable[[], Session], clock: Optional[Callable[[], int]] = None
    ) -> None:
        self._session_factory = session_factory
        self._clock = clock
        self._pid = os.getpid()

    @cached_property
    def bind(self) -> Any:
        """The engine, or the connection, that the session factory is bound to."""
        with self._session_factory() as session:
            return session.get_bind(QueueEntry)

    @cached_property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        name: str = self.bind.dialect.name
        return name

    @cached_property
    def in_memory(self) -> bool:
        """Whether it is an in-memory SQLite database, which no other process sees."""
        url = self.bind.engine.url
        database = url.database or ""
        return self.dialect == "sqlite" and (
            database in ("", ":memory:") or "mode=memory" in str(url)
        )

    def now(self) -> Optional[int]:
        """Return the time for `:now`: milliseconds, or `None` where the database's clock decides."""
        if self._clock is not None:
            return self._clock()
        return time.time_ns() // 1_000_000 if self.dialect == "sqlite" else None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a write transaction; commit it at the end, or roll all of it back.

        Raises:
            DatabaseBusy: SQLite's lock was held by others for too long.
            DatabaseUnavailable: The database cannot be reached, or has not its tables.
        """
        with self._mapped_errors():
            if isinstance(self.bind, Engine):
                yield from self._engine_transaction(self.bind)
            else:
                yield from self._session_transaction()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Open a transaction that only reads; it waits for nobody."""
        with self._mapped_errors():
            if not isinstance(self.bind, Engine) or self.in_memory:
                with self.transaction() as transaction:
                    yield transaction
                return
            self._after_fork()
            connection = self.bind.raw_connection()
            try:
                yield Transaction(connection.cursor(), self.dialect, self.now())
            finally:
                connection.close()  # the pool rolls back what is open

    @contextmanager
    def joined(self, session: Session) -> Iterator[Transaction]:
        """Join the caller's own transaction: nothing is begun, waited for or committed here."""
        with self._mapped_errors():
            connection = session.connection(bind_arguments={"mapper": QueueEntry})
            cursor = connection.connection.cursor()
            try:
                yield Transaction(cursor, self.dialect, self.now())
            finally:
                cursor.close()

    def _engine_transaction(self, engine: Engine) -> Iterator[Transaction]:
        self._after_fork()
        if self.dialect == "sqlite":
            yield from self._sqlite_transaction(engine)
            return
        connection = engine.raw_connection()
        try:
            yield Transaction(connection.cursor(), "postgresql", self.now())
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.close()

    def _sqlite_transaction(self, engine: Engine) -> Iterator[Transaction]:
        lock = _write_locks.setdefault(engine, threading.RLock())
        started = time.monotonic()
        with lock:
            connection = engine.raw_connection()
            try:
                cursor = connection.cursor()
                _begin_immediate(connection, cursor, started)
                yield Transaction(cursor, "sqlite", self.now())
                cursor.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise
            finally:
                connection.close()

    def _session_transaction(self) -> Iterator[Transaction]:
        """For a session factory that is bound to a connection, whose transaction it joins."""
        with self._session_factory() as session:
            with self.joined(session) as transaction:
                yield transaction
            session.commit()

    def _after_fork(self) -> None:
        """Leave the parent's connections and lock to the parent."""
        if os.getpid() == self._pid:
            return
        self._pid = os.getpid()
        if isinstance(self.bind, Engine):
            _write_locks.pop(self.bind, None)
            self.bind.dispose(close=False)

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        driver = self.bind.dialect.dbapi
        try:
            yield
        except driver.OperationalError as error:
            if _is_busy(error):
                raise DatabaseBusy(f"the database is locked by another writer: {error}") from error
            raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
        except driver.ProgrammingError as error:
            raise DatabaseUnavailable(f"the database has not the tables needed: {error}") from error


def _begin_immediate(connection: PoolProxiedConnection, cursor: Any, started: float) -> None:
    """Take SQLite's write lock, or raise the driver's error once the connection's time is over."""
    if "busy_timeout_ms" not in connection.info:
        connection.info["busy_timeout_ms"] = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
    timeout_ms: int = connection.info["busy_timeout_ms"]
    cursor.execute("PRAGMA busy_timeout=0")
    try:
        while not _took_lock(cursor):
            waited = time.monotonic() - started
            if waited * 1000 > timeout_ms:
                raise DatabaseBusy(f"the database was locked by others for {waited:.1f} s")
            time.sleep(_pause_seconds(waited))
    finally:
        cursor.execute(f"PRAGMA busy_timeout={timeout_ms}")


def _took_lock(cursor: Any) -> bool:
    try:
        cursor.execute("BEGIN IMMEDIATE")
    except Exception as error:  # of either SQLite module; all but `locked` goes on
        if not _is_busy(error):
            raise
        return False
    return True


def _pause_seconds(waited: float) -> float:
    left = max(0.0, 1 - waited / SHRINK_SECONDS)
    return max(LAST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * left)


def _is_busy(error: Exception) -> bool:
    text = str(error)
    return "is locked" in text or "database is busy" in text
