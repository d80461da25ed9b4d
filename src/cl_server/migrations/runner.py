"""Looking at a database's schema, and bringing it to the newest one."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DatabaseError, InterfaceError

from cl_server_shared.errors import DatabaseUnavailable

from .backup import back_up
from .errors import SchemaTooNew

__all__ = ["SchemaState", "Service", "migrate", "schema_state"]

logger = logging.getLogger(__name__)

Service = Literal["auth", "store"]
SchemaState = Literal["current", "behind", "missing", "newer"]

FOLDER = Path(__file__).parent

# By these a database is recognised that `Base.metadata.create_all` made: it has no version table.
LIBRARY_TABLES: dict[Service, frozenset[str]] = {
    "auth": frozenset({"users"}),
    "store": frozenset(
        {
            "jobs",
            "queue_entries",
            "job_options",
            "job_events",
            "workers",
            "job_attempts",
            "task_settings",
            "duties",
            "job_counts",
        }
    ),
}

# How long one starting service waits for another one's changes and backup.
LOCK_TIMEOUT_MS = 600_000


def schema_state(service: Service, engine: Engine) -> SchemaState:
    """Say how a database's schema stands to what this program expects. Changes nothing.

    Args:
        service: Whose tables.
        engine: The database.

    Returns:
        `current`; `behind`: `migrate` has something to do; `missing`: there is nothing yet;
        `newer`: a newer program has changed it. One that `create_all` made is `current` where it
        has the service's tables.

    Raises:
        DatabaseUnavailable: The database does not answer, or is none.
    """
    with _connected(service, engine) as connection:
        return _state(service, connection)


def migrate(service: Service, engine: Engine) -> None:
    """Bring a database's schema to the newest revision; returns at once where it is there already.

    All in one transaction, under a lock that other starting services wait for. An SQLite database
    that has tables is copied first, beside itself.

    Args:
        service: Whose tables.
        engine: The database.

    Raises:
        SchemaTooNew: A newer program has changed it.
        ForeignTable: A table has one of our names and other columns.
        BackupFailed: The copy cannot be written; nothing was changed.
        DatabaseUnavailable: The database does not answer, or is none.
    """
    with _connected(service, engine) as connection:
        if _revision(service, connection) == _newest(service):
            return
    with _connected(service, engine) as connection:
        _lock(connection)
        found = _revision(service, connection)
        if found == _newest(service):
            return
        if _state(service, connection) == "newer":
            raise SchemaTooNew(
                f"the {service} database is at revision {found!r}, which this program does not "
                "know: a newer CL Server has used it. Install that version again, or restore the "
                "copy that it made beside the database."
            )
        if _has_tables(connection):
            back_up(engine, _newest(service))
        _upgrade(service, connection)
        connection.commit()
    logger.info("the %s database is now at revision %s", service, _newest(service))


@contextmanager
def _connected(service: Service, engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    except (DatabaseError, InterfaceError) as error:
        url = engine.url.render_as_string(hide_password=True)
        raise DatabaseUnavailable(
            f"the {service} database {url} cannot be used: {error.orig}"
        ) from error


def _state(service: Service, connection: Connection) -> SchemaState:
    revision = _revision(service, connection)
    if revision is None:
        ours = LIBRARY_TABLES[service].intersection(inspect(connection).get_table_names())
        if not ours:
            return "missing"
        return "current" if ours == LIBRARY_TABLES[service] else "behind"
    if revision == _newest(service):
        return "current"
    return "behind" if revision in _revisions(service) else "newer"


def _revisions(service: Service) -> list[str]:
    """The revisions in their order. Read from the file names: importing Alembic takes 0.3 s."""
    return sorted(path.stem for path in (FOLDER / service / "versions").glob("[0-9]*.py"))


def _newest(service: Service) -> str:
    return _revisions(service)[-1]


def _version_table(service: Service) -> str:
    return f"alembic_version_{service}"


def _revision(service: Service, connection: Connection) -> str | None:
    table = _version_table(service)
    if not inspect(connection).has_table(table):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - a name of ours
    return revision


def _has_tables(connection: Connection) -> bool:
    return bool(inspect(connection).get_table_names())


def _lock(connection: Connection) -> None:
    """Begin the transaction in which everything happens, once no other process is in its own."""
    if connection.dialect.name == "sqlite":
        # The long time-out ends with this connection, which the pool does not get back.
        connection.detach()
        connection.exec_driver_sql(f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        key = zlib.crc32(b"cl-server migrations")
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _upgrade(service: Service, connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Alembic's options are interpolated; a folder may have a percent sign in its name.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option(
        "version_locations", str(FOLDER / service / "versions").replace("%", "%%")
    )
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _version_table(service)
    command.upgrade(config, "head")
