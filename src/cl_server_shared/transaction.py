"""One transaction: what statements run on, how it begins and ends on each kind of connection.

These are classes with `__enter__` and `__exit__` because they are on the way of every claim:
nested generators cost as much as a statement does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Callable, Optional

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.orm import Session

from .driver_errors import raise_mapped
from .models import QueueEntry
from .plan_age import PlanAge
from .sql.statement import Statement
from .sqlite_writer import SQLiteWriter, close_cursor

__all__ = [
    "Announce",
    "PostgresqlTransaction",
    "Publish",
    "ReadingTransaction",
    "SQLiteTransaction",
    "SessionTransaction",
    "Transaction",
]

Announce = Callable[[], None]
# psycopg's `TransactionStatus.IDLE`; importing it takes the driver.
IDLE = 0

Publish = Callable[[Sequence[dict[str, Any]]], None]


class Transaction:
    """What statements run on: a driver's cursor, and the events to publish after the commit.

    Args:
        cursor: The driver's.
        dialect: `sqlite` or `postgresql`.
        now: Milliseconds since the epoch; `None`: PostgreSQL's own clock.
        acknowledged: Whether event rows are born acknowledged: there is no broker, and nobody to
            publish to.
        plans: PostgreSQL's; `None`: they are not looked after.

    Attributes:
        events: Event objects of SPEC.md.
        makes_claimable: Whether a job can be claimed after it, now or at its time.
    """

    __slots__ = (
        "acknowledged",
        "cursor",
        "dialect",
        "events",
        "makes_claimable",
        "now",
        "plans",
    )

    def __init__(
        self,
        cursor: Any,
        dialect: str,
        now: Optional[int],
        acknowledged: bool = False,
        plans: Optional[PlanAge] = None,
    ) -> None:
        self.cursor = cursor
        self.dialect = dialect
        self.now = now
        self.acknowledged = acknowledged
        self.events: list[dict[str, Any]] = []
        self.makes_claimable = False
        self.plans = plans

    def run(self, statement: Statement, params: Optional[dict[str, Any]] = None) -> Any:
        """Execute a statement and return the cursor.

        Args:
            statement: What to execute.
            params: Its parameters; `now` is put into them.
        """
        values = {} if params is None else params
        values["now"] = self.now
        if self.dialect == "sqlite":
            return self.cursor.execute(statement.sqlite, values)
        if self.plans is None:
            return self.cursor.execute(statement.postgresql, values)
        began = time.monotonic()
        cursor = self.cursor.execute(f"{statement.postgresql}-- {self.plans.count}", values)
        self.plans.took(time.monotonic() - began, began)
        return cursor


class SQLiteTransaction(AbstractContextManager[Transaction]):
    """A write transaction on a process's connection to SQLite; committed at its end.

    Args:
        engine: Of the database.
        writer: The engine's.
        now: For `Transaction.now`.
        acknowledged: For `Transaction.acknowledged`.
        publish: Takes the events once they are committed.
        announce: Called once it is committed that a job can be claimed, or will be.

    Raises:
        DatabaseBusy: SQLite's lock was held by others for too long.
        DatabaseUnavailable: The database cannot be used, or has not its tables.
    """

    def __init__(
        self,
        engine: Engine,
        writer: SQLiteWriter,
        now: Callable[[], Optional[int]],
        acknowledged: bool,
        publish: Optional[Publish],
        announce: Optional[Announce],
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._now = now
        self._acknowledged = acknowledged
        self._publish = publish
        self._announce = announce

    def __enter__(self) -> Transaction:
        try:
            cursor = self._writer.begin(self._engine)
        except BaseException as error:  # raised again, as ours where it is the driver's
            raise_mapped(self._engine, error)
            raise
        self._transaction = Transaction(cursor, "sqlite", self._now(), self._acknowledged)
        return self._transaction

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        try:
            if error is None:
                self._writer.commit()
            else:
                self._writer.roll_back()
        except BaseException as failure:  # raised again, as ours where it is the driver's
            raise_mapped(self._engine, failure)
            raise
        if error is not None:
            raise_mapped(self._engine, error)
        else:
            tell_committed(self._transaction, self._publish, self._announce)


class PostgresqlTransaction(AbstractContextManager[Transaction]):
    """A write transaction on a connection of an engine's pool; committed at its end.

    Args:
        engine: Whose pool.
        now: For `Transaction.now`.
        acknowledged: For `Transaction.acknowledged`.
        publish: Takes the events once they are committed.
        announce: Called once it is committed that a job can be claimed, or will be.
        one_statement: Whether it consists of one: then it needs no more than one round trip.
        plans: For `Transaction.plans`.

    Raises:
        DatabaseUnavailable: The database cannot be reached, or has not its tables.
    """

    def __init__(
        self,
        engine: Engine,
        now: Callable[[], Optional[int]],
        acknowledged: bool,
        publish: Optional[Publish],
        announce: Optional[Announce],
        one_statement: bool,
        plans: PlanAge,
    ) -> None:
        self._engine = engine
        self._now = now
        self._acknowledged = acknowledged
        self._publish = publish
        self._announce = announce
        self._autocommit = one_statement
        self._autocommit_before = False
        self._plans = plans
        self._connection: Optional[PoolProxiedConnection] = None
        self._cursor: Any = None

    def __enter__(self) -> Transaction:
        try:
            connection = self._connection = self._engine.raw_connection()
            self._autocommit_before = _swap_autocommit(connection, self._autocommit)
            cursor = self._cursor = connection.cursor()
        except BaseException as error:  # raised again: the connection is let go
            self._close()
            raise_mapped(self._engine, error)
            raise
        self._transaction = Transaction(
            cursor, "postgresql", self._now(), self._acknowledged, self._plans
        )
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
            elif not self._autocommit:
                connection.commit()
        except BaseException as failure:  # raised again, as ours where it is the driver's
            raise_mapped(self._engine, failure)
            raise
        finally:
            self._close()
        if error is not None:
            raise_mapped(self._engine, error)
        else:
            tell_committed(self._transaction, self._publish, self._announce)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close_cursor(self._cursor)
            _leave(connection, self._autocommit_before)
            connection.close()  # the pool rolls back what is still open


def _swap_autocommit(connection: PoolProxiedConnection, value: bool) -> bool:
    """Say whether psycopg begins a transaction before a statement, and return what it did before.

    Costs no round trip. A connection that was cut off in the middle of a statement is not used again.
    """
    driver: Any = connection.driver_connection
    before: bool = driver.autocommit
    if before == value or driver.closed:
        return before
    if driver.info.transaction_status == IDLE:
        driver.autocommit = value
    else:
        connection.invalidate()
    return before


def _leave(connection: PoolProxiedConnection, autocommit_before: bool) -> None:
    """Put a connection's autocommit back; one that is lost the pool forgets, and does not reset."""
    _swap_autocommit(connection, autocommit_before)
    driver: Any = connection.driver_connection
    if connection.is_valid and driver.closed:
        connection.invalidate()


class ReadingTransaction(AbstractContextManager[Transaction]):
    """A transaction on a connection of an engine's pool that only reads; it waits for nobody."""

    def __init__(self, engine: Engine, now: Callable[[], Optional[int]], plans: PlanAge) -> None:
        self._engine = engine
        self._now = now
        self._plans = plans
        # A rollback makes psycopg forget all prepared statements: the next claim is planned anew.
        self._autocommit = engine.dialect.name == "postgresql"
        self._autocommit_before = False
        self._connection: Optional[PoolProxiedConnection] = None

    def __enter__(self) -> Transaction:
        try:
            connection = self._connection = self._engine.raw_connection()
        except BaseException as error:  # raised again, as ours where it is the driver's
            raise_mapped(self._engine, error)
            raise
        if self._autocommit:
            self._autocommit_before = _swap_autocommit(connection, True)
        self._cursor = connection.cursor()
        dialect = self._engine.dialect.name
        return Transaction(self._cursor, dialect, self._now(), plans=self._plans)

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        assert self._connection is not None
        close_cursor(self._cursor)
        if self._autocommit:
            _leave(self._connection, self._autocommit_before)
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
        announce: Called once it is committed that a job can be claimed, where it is ours.
    """

    def __init__(
        self,
        session: Session,
        now: Callable[[], Optional[int]],
        acknowledged: bool,
        *,
        owned: bool,
        publish: Optional[Publish] = None,
        announce: Optional[Announce] = None,
    ) -> None:
        self._session = session
        self._bind = session.get_bind(QueueEntry)
        self._now = now
        self._acknowledged = acknowledged
        self._owned = owned
        self._publish = publish
        self._announce = announce

    def __enter__(self) -> Transaction:
        try:
            connection = self._session.connection(bind_arguments={"mapper": QueueEntry})
            cursor = connection.connection.cursor()
        except BaseException as error:  # raised again, as ours where it is the driver's
            if self._owned:
                self._session.close()
            raise_mapped(self._bind, error)
            raise
        self._transaction = Transaction(
            cursor,
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
            except BaseException as failure:  # raised again, as ours where it is the driver's
                raise_mapped(self._bind, failure)
                raise
            finally:
                self._session.close()
        if error is not None:
            raise_mapped(self._bind, error)
        elif self._owned:
            tell_committed(self._transaction, self._publish, self._announce)


def tell_committed(
    transaction: Transaction, publish: Optional[Publish], announce: Optional[Announce]
) -> None:
    """Tell whom it concerns what a transaction has done, now that it is committed."""
    if announce is not None and transaction.makes_claimable:
        announce()
    if publish is not None and transaction.events:
        publish(transaction.events)
