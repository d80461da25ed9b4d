"""Where the repository's short transactions run, whichever session factory was given.

A factory that is bound to an engine gets a connection of its pool for each transaction, used
through the driver: a tenth of what the ORM costs. One that is bound to a connection gets a
session's.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Callable, Optional
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from .models import QueueEntry
from .plan_age import PlanAge
from .sqlite_writer import SQLiteWriter
from .transaction import (
    Announce,
    PostgresqlTransaction,
    Publish,
    ReadingTransaction,
    SessionTransaction,
    SQLiteTransaction,
    Transaction,
)

__all__ = ["Database"]

# One per engine: repositories on one engine wait for each other here, not in SQLite.
# A forked child writes with none of its parent's.
_writers: WeakKeyDictionary[Engine, SQLiteWriter] = WeakKeyDictionary()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_writers.clear)


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
        self._plans = PlanAge()

    @cached_property
    def bind(self) -> Any:
        """The engine, or the connection, that the session factory is bound to."""
        # Not closed: it has begun nothing, and a `scoped_session` returns the one that its owner uses.
        return self._session_factory().get_bind(QueueEntry)

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
            database in ("", ":memory:")
            or database.startswith("file::memory:")
            or "mode=memory" in str(url)
        )

    def now(self) -> Optional[int]:
        """Return the time for `:now`: milliseconds, or `None` where the database's clock decides."""
        if self._clock is not None:
            return self._clock()
        return time.time_ns() // 1_000_000 if self.dialect == "sqlite" else None

    def transaction(
        self,
        *,
        acknowledged: bool = False,
        publish: Optional[Publish] = None,
        announce: Optional[Announce] = None,
        one_statement: bool = False,
    ) -> AbstractContextManager[Transaction]:
        """Return a write transaction: committed at its end, or all of it rolled back.

        Args:
            acknowledged: Whether event rows are born acknowledged.
            publish: Takes the events once they are committed.
            announce: Called once it is committed that a job can be claimed, or will be.
            one_statement: Whether it consists of one: then PostgreSQL needs one round trip.

        Raises:
            DatabaseBusy: SQLite's lock was held by others for too long.
            DatabaseUnavailable: The database cannot be reached, or has not its tables.
        """
        engine = self.bind
        if isinstance(engine, Engine):
            self._after_fork()
            if self.dialect == "sqlite":
                return SQLiteTransaction(
                    engine, self._writer, self.now, acknowledged, publish, announce
                )
            return PostgresqlTransaction(
                engine, self.now, acknowledged, publish, announce, one_statement, self._plans
            )
        session = self._session_factory()
        return SessionTransaction(
            session, self.now, acknowledged, owned=True, publish=publish, announce=announce
        )

    def reading(self) -> AbstractContextManager[Transaction]:
        """Return a transaction that only reads; it waits for nobody."""
        if not isinstance(self.bind, Engine) or self.in_memory:
            return self.transaction()
        self._after_fork()
        return ReadingTransaction(self.bind, self.now, self._plans)

    def joined(
        self, session: Session, *, acknowledged: bool = False
    ) -> AbstractContextManager[Transaction]:
        """Return the caller's own transaction: nothing is begun, waited for or committed."""
        return SessionTransaction(session, self.now, acknowledged, owned=False)

    @cached_property
    def _writer(self) -> SQLiteWriter:
        writer = _writers.get(self.bind)
        return writer or _writers.setdefault(self.bind, SQLiteWriter(self.bind))

    def _after_fork(self) -> None:
        """Leave the parent's connections and locks to the parent."""
        if os.getpid() == self._pid:
            return
        self._pid = os.getpid()
        self.__dict__.pop("_writer", None)
        self.bind.dispose(close=False)
