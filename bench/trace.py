"""Recording whole phases of work through the repository, to play them on the bare driver.

"Raw" is this: the very statements with the very values in the very transactions, on an equal
database, without checks, JSON and objects. It needs one process (ids are given in the same order
then), and takes whatever the repository's statements become, batches too.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, create_engine

Kind = Literal[
    "execute",
    "executemany",
    "commit",
    "rollback",
    "autocommit",
    "enter pipeline",
    "leave pipeline",
]

# What the statements of services' engines say about waiting and durability, not about jobs.
_SETTINGS = ("PRAGMA", "SET ", "SHOW ")


@dataclass(frozen=True)
class Call:
    """One call of the driver.

    Attributes:
        kind: Which.
        text: The SQL of a statement.
        values: Its parameters; whether autocommit is on.
        rows: How many rows it returned; `None`: it returns none.
    """

    kind: Kind
    text: Any = ""
    values: Any = None
    rows: int | None = None


@dataclass
class Trace:
    """What each phase did.

    Attributes:
        phases: The calls of each.
        operations: How many operations each had.
        current: The phase that is recorded now.
        thread: Whose calls are recorded: a lease renewed beside is not part of the work.
    """

    phases: dict[str, list[Call]] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    current: str | None = None
    thread: int = field(default_factory=threading.get_ident)

    def keep(self, call: Call) -> None:
        """Keep a call of the current phase."""
        if self.current is None or threading.get_ident() != self.thread:
            return
        if isinstance(call.text, str) and call.text.lstrip().startswith(_SETTINGS):
            return
        self.phases.setdefault(self.current, []).append(call)


def recording_engine(engine: Engine, synchronous: str, trace: Trace) -> Engine:
    """Return an engine for the same database whose connections write down what they do."""
    if engine.dialect.name == "sqlite":
        return _recording_sqlite(engine, synchronous, trace)
    address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def connect() -> psycopg.Connection[Any]:
        connection = _RecordingPsycopg.connect(address)
        connection.trace = trace
        return connection

    return create_engine(engine.url, creator=connect)


def _recording_sqlite(engine: Engine, synchronous: str, trace: Trace) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            str(engine.url.database), check_same_thread=False, factory=_RecordingSqlite
        )
        set_pragmas(connection, synchronous)
        connection.trace = trace
        return connection

    return create_engine(engine.url, creator=connect)


def set_pragmas(connection: sqlite3.Connection, synchronous: str) -> None:
    """Set what a service's engine sets."""
    for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


class _RecordingSqlite(sqlite3.Connection):
    trace: Trace | None = None

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_RecordingSqliteCursor)


class _RecordingSqliteCursor(sqlite3.Cursor):
    """Fetches at once, so that it knows how many rows there were."""

    def execute(self, text: str, values: Any = ()) -> Any:
        super().execute(text, values)
        self._rows = None if self.description is None else super().fetchall()
        self._keep("execute", text, dict(values) if isinstance(values, dict) else values)
        return self

    def executemany(self, text: str, values: Any) -> Any:
        values = [dict(each) if isinstance(each, dict) else each for each in values]
        super().executemany(text, values)
        self._rows = None
        self._keep("executemany", text, values)
        return self

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> Any:
        rows, self._rows = self._rows or [], []
        return rows

    def __iter__(self) -> Any:
        return iter(self.fetchall())

    def _keep(self, kind: Kind, text: str, values: Any) -> None:
        trace = self.connection.trace  # type: ignore[attr-defined]
        if trace is not None:
            rows = None if self._rows is None else len(self._rows)
            trace.keep(Call(kind, text, values, rows))


class _RecordingPsycopg(psycopg.Connection[Any]):
    trace: Trace | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = _RecordingPsycopgCursor

    def commit(self) -> None:
        super().commit()
        self._keep("commit")

    def rollback(self) -> None:
        if self.info.transaction_status != TransactionStatus.IDLE:
            self._keep("rollback")
        super().rollback()

    def set_autocommit(self, value: bool) -> None:
        super().set_autocommit(value)
        self._keep("autocommit", value)

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        self._keep("enter pipeline")
        with super().pipeline() as pipeline:
            yield pipeline
        self._keep("leave pipeline")

    def _keep(self, kind: Kind, value: object = None) -> None:
        if self.trace is not None:
            self.trace.keep(Call(kind, values=value))


class _RecordingPsycopgCursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        super().execute(query, params, **options)
        values = dict(params) if isinstance(params, dict) else params
        self._keep("execute", query, values)
        return self

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        values = [dict(each) if isinstance(each, dict) else each for each in params_seq]
        super().executemany(query, values, **options)
        self._keep("executemany", query, values)

    def _keep(self, kind: Kind, query: Any, values: Any) -> None:
        connection = self.connection
        if isinstance(connection, _RecordingPsycopg) and connection.trace is not None:
            in_pipeline = connection.info.pipeline_status.name != "OFF"
            returns = not in_pipeline and self.description is not None and kind == "execute"
            connection.trace.keep(Call(kind, query, values, self.rowcount if returns else None))
