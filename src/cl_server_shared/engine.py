"""Engines for our own services and `run_compute_job`: pragmas, and which SQLite.

Two SQLite modules in one process drop each other's POSIX locks on a file they both have open (a
committed row was lost that way), so a process chooses one and keeps to it: the services
pysqlite3, which brings an SQLite that is safe with several writers; a compute module's process
the standard one, as the module's own code does.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from types import ModuleType
from typing import Any, Literal, Optional

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from .errors import DatabaseUnavailable

__all__ = ["KEEPING_ALIVE", "create_database_engine", "create_session_factory", "sqlite_module"]

logger = logging.getLogger(__name__)

# Below this, processes that write and checkpoint at once can corrupt a WAL file: sqlite.org,
# "Write-Ahead Logging", section "The WAL-reset bug".
SAFE_SQLITE = (3, 51, 3)

BUSY_TIMEOUT_MS = 10_000

# A connection that was used a moment ago is not tested before it is used again.
REST_SECONDS = 1.0
_RESTED_SINCE = "cl_server_shared.rested_since"

# A PostgreSQL whose machine or network is gone without a word is noticed within half a minute; by
# the system's own defaults a statement would wait for its answer for two hours.
KEEPING_ALIVE = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

URL_EXPECTED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"


def sqlite_module() -> ModuleType:
    """Return pysqlite3 where it is installed, else the standard library's sqlite3 with a warning."""
    try:
        import pysqlite3  # type: ignore[import-untyped]
    except ImportError:
        import sqlite3

        if sqlite3.sqlite_version_info < SAFE_SQLITE:
            logger.warning(
                "SQLite %s can corrupt a database that several processes write to; "
                "pip install 'cl-server-shared[server]' brings a newer one",
                sqlite3.sqlite_version,
            )
        return sqlite3
    module: ModuleType = pysqlite3
    return module


def create_database_engine(
    url: str,
    *,
    module: Optional[ModuleType] = None,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
) -> Engine:
    """Return an engine for a database of ours.

    An SQLite file that is not there yet is made for its owner only (0600): it holds hashes of
    passwords, and what people keep private. SQLite gives its other files the same mode.

    Args:
        url: A SQLAlchemy URL; `postgresql://` means psycopg 3. What it says of time-outs holds.
        module: The SQLite module of this process; `None`: the standard library's.
        synchronous: SQLite's. `FULL`: a commit survives loss of power; `NORMAL`: it may roll back.

    Raises:
        DatabaseUnavailable: The URL is malformed, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "postgresql":
            arguments = {k: value for k, value in KEEPING_ALIVE.items() if k not in parsed.query}
            return _tested_after_rest(create_engine(parsed, connect_args=arguments))
    except (ArgumentError, ValueError) as error:  # it may quote the URL, and its password
        raise DatabaseUnavailable(f"{URL_EXPECTED} is expected") from error
    except ImportError as error:
        raise DatabaseUnavailable(
            f"the database's driver is missing ({error}): pip install 'cl-server-shared[postgres]'"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        raise DatabaseUnavailable(f"{URL_EXPECTED} is expected")
    options: dict[str, Any] = {"module": module} if module is not None else {}
    engine = create_engine(parsed, connect_args={"check_same_thread": False}, **options)

    @event.listens_for(engine, "do_connect")
    def make_private(_dialect: Any, _record: Any, arguments: list[Any], _options: Any) -> None:
        file = str(arguments[0])
        if file != ":memory:" and not file.startswith("file:"):
            with suppress(OSError):  # it is there; or it cannot be made, and SQLite says why
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.close()

    return engine


def _tested_after_rest(engine: Engine) -> Engine:
    """Have connections of the pool tested where they have rested.

    `pool_pre_ping` tests each time, and a claim is one round trip: it would take two.
    """

    @event.listens_for(engine, "checkin")
    def note_time(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_RESTED_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def test(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        rested_since = record.info.get(_RESTED_SINCE, time.monotonic())
        if time.monotonic() - rested_since < REST_SECONDS:
            return
        try:
            alive = engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from error
        if not alive:
            raise DisconnectionError("the connection was lost")

    return engine


def create_session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return the session factory that `SQLAlchemyJobRepository` takes."""
    return sessionmaker(bind=engine)
