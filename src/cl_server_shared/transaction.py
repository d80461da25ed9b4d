"""One transaction: what statements run on, how it begins and ends on each kind of connection.

These are classes with `__enter__` and `__exit__` because they are on the way of every claim:
nested generators cost as much as a statement does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from threading import RLock
from types import TracebackType
from typing import Any, Callable, Optional

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.orm import Session

from .errors import DatabaseBusy, DatabaseUnavailable
from .models import QueueEntry
from .sql.statement import Statement
from .sqlite_lock import begin_immediate, is_busy

__all__ = [
    "EngineTransaction",
    "Publish",
    "ReadingTransaction",
    "SessionTransaction",
    "Transaction",
]

Publish = Callable[[Sequence[dict[str, Any]]], None]


class Transaction:
    """What statements run on: a driver's cursor, and the events to publish after the commit.

    Args:
        cursor: The driver's.
        dialect: `sqlite` or `postgresql`.
        now: Milliseconds since the epoch; `None`: PostgreSQL's own clock.
        acknowledged: Whether event rows are born acknowledged: there is no broker, and nobody to
            publish to.

    Attributes:
        events: Event objects of SPEC.md.
    """

    __slots__ = ("acknowledged", "cursor", "dialect", "events", "now")

    def __init__(
        self, cursor: Any, dialect: str, now: Optional[int], acknowledged: bool = False
    ) -> None:
        self.cursor = cursor
        self.dialect = dialect
        self.now = now
        self.acknowledged = acknowledged
        self.events: list[dict[str, Any]] = []

    def run(self, statement: Statement, params: Optional[dict[str, Any]] = None) -> Any:
        """Execute a statement and return the cursor.

        Args:
            statement: What to execute.
            params: Its parameters; `now` is put into them.
        """
        values = {} if params is None else params
        values["now"] = self.now
        text = statement.sqlite if self.dialect == "sqlite" else statement.postgresql
        return self.cursor.execute(text, values)


class EngineTransaction(AbstractContextManager[Transaction]):
    """A write transaction on a connection of an engine's pool; committed at its end.

    Args:
        engine: Whose pool.
        lock: Held from begin to end on SQLite, among the threads of this process.
        now: For `Transaction.now`.
        acknowledged: For `Transaction.acknowledged`.
        publish: Takes the events once they are committed.

    Raises:
        DatabaseBusy: SQLite's lock was held by others for too long.
        DatabaseUnavailable: The database cannot be reached, or has not its tables.
    """

    def __init__(
        self,
        engine: Engine,
        lock: RLock,
        now: Callable[[], Optional[int]],
        acknowledged: bool,
        publish: Optional[Publish],
    ) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name
        self._lock: Any = lock if self._dialect == "sqlite" else None
        self._now = now
        self._acknowledged = acknowledged
        self._publish = publish
        self._connection: Optional[PoolProxiedConnection] = None

    def __enter__(self) -> Transaction:
        started = time.monotonic()
        if self._lock is not None:
            self._lock.acquire()
        try:
            connection = self._connection = self._engine.raw_connection()
            cursor = connection.cursor()
            if self._lock is not None:
                begin_immediate(connection, cursor, started)
        except BaseException as error:
            self._close()
            raise_mapped(self._engine, error)
            raise
        self._transaction = Transaction(cursor, self._dialect, self._now(), self._acknowledged)
        return self._transaction

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        connection = self._connection
        assert connection is not None
        try:
            if error is not None:
                connection.rollback()
            elif self._lock is not None:
                self._transaction.cursor.execute("COMMIT")  # of our own BEGIN IMMEDIATE
            else:
                connection.commit()
        except BaseException as failure:
            raise_mapped(self._engine, failure)
            raise
        finally:
            self._close()
        if error is not None:
            raise_mapped(self._engine, error)
        elif self._publish is not None and self._transaction.events:
            self._publish(self._transaction.events)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()  # the pool rolls back what is still open
        finally:
            if self._lock is not None:
                self._lock.release()


class ReadingTransaction(AbstractContextManager[Transaction]):
    """A transaction on a connection of an engine's pool that only reads; it waits for nobody."""

    def __init__(self, engine: Engine, now: Callable[[], Optional[int]]) -> None:
        self._engine = engine
        self._now = now
        self._connection: Optional[PoolProxiedConnection] = None

    def __enter__(self) -> Transaction:
        try:
            connection = self._connection = self._engine.raw_connection()
        except BaseException as error:
            raise_mapped(self._engine, error)
            raise
        return Transaction(connection.cursor(), self._engine.dialect.name, self._now())

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        assert self._connection is not None
        self._connection.close()  # the pool rolls back what is open
        if error is not None:
            raise_mapped(self._engine, error)


class SessionTransaction(AbstractContextManager[Transaction]):
    """Statements in the transaction of a session.

    Args:
        session: Whose transaction is joined: nothing is begun or waited for here.
        now: For `Transaction.now`.
        acknowledged: For `Transaction.acknowledged`.
        owned: Whether the session is ours to commit and to close.
        publish: Takes the events once they are committed, where it is ours.
    """

    def __init__(
        self,
        session: Session,
        now: Callable[[], Optional[int]],
        acknowledged: bool,
        *,
        owned: bool,
        publish: Optional[Publish] = None,
    ) -> None:
        self._session = session
        self._bind = session.get_bind(QueueEntry)
        self._now = now
        self._acknowledged = acknowledged
        self._owned = owned
        self._publish = publish

    def __enter__(self) -> Transaction:
        connection = self._session.connection(bind_arguments={"mapper": QueueEntry})
        self._transaction = Transaction(
            connection.connection.cursor(),
            self._bind.dialect.name,
            self._now(),
            self._acknowledged,
        )
        return self._transaction

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._transaction.cursor.close()
        if self._owned:
            try:
                if error is None:
                    self._session.commit()
            finally:
                self._session.close()
        if error is not None:
            raise_mapped(self._bind, error)
        elif self._owned and self._publish is not None and self._transaction.events:
            self._publish(self._transaction.events)


def raise_mapped(bind: Any, error: BaseException) -> None:
    """Raise our error for a driver's, from it; return where the error is none of a driver's."""
    driver = bind.dialect.dbapi
    if isinstance(error, driver.OperationalError):
        if is_busy(error):
            raise DatabaseBusy(f"the database is locked by another writer: {error}") from error
        raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
    if isinstance(error, driver.ProgrammingError):
        raise DatabaseUnavailable(f"the database has not the tables needed: {error}") from error
