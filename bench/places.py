"""Where a comparison takes place: equal copies of a prepared folder or database, each used once."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psycopg

__all__ = [
    "Folders",
    "Places",
    "PostgresqlDatabases",
    "RedisDatabase",
    "postgresql_url",
    "redis_url",
]


def postgresql_url() -> str:
    """Return the libpq URL of the server that is used; its user may create databases."""
    return os.environ.get("BENCH_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")


def redis_url() -> str:
    """Return the URL of the Redis server that Celery is measured on."""
    return os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379")


class Places(ABC):
    """Places of one kind."""

    @property
    @abstractmethod
    def problem(self) -> str | None:
        """Why there are none; `None`: there are."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The server's version, or the library's."""

    @abstractmethod
    def prepare(self, create: Callable[[str], None]) -> str:
        """Return the name of a new place that `create` has filled, given its address."""

    @abstractmethod
    def address(self, name: str) -> str:
        """Return the address of a prepared place itself."""

    @abstractmethod
    def copy(self, name: str) -> str:
        """Return the address of a copy of a prepared place; `discard` ends it."""

    @abstractmethod
    def discard(self, address: str) -> None:
        """Remove a copy."""

    @abstractmethod
    def analyze(self, address: str) -> None:
        """Do what a database server does by itself within a minute after many rows were written.

        A plan that was made for an empty table serves a full one badly: Procrastinate takes two
        jobs a second then, until its table is analysed.
        """

    @contextmanager
    def copied(self, name: str) -> Iterator[str]:
        """Yield the address of a copy of a prepared place."""
        address = self.copy(name)
        try:
            yield address
        finally:
            self.discard(address)

    @abstractmethod
    def close(self) -> None:
        """Remove everything."""


class Folders(Places):
    """Folders for SQLite's files."""

    problem = None

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="cl-bench-")

    @property
    def version(self) -> str:
        """SQLite's version, of the standard library's module."""
        import sqlite3

        return sqlite3.sqlite_version

    def prepare(self, create: Callable[[str], None]) -> str:
        """Return the name of a new folder that `create` has filled."""
        folder = Path(self._folder.name) / uuid.uuid4().hex
        folder.mkdir()
        create(str(folder))
        return str(folder)

    def address(self, name: str) -> str:
        """Return the folder itself."""
        return name

    def copy(self, name: str) -> str:
        """Copy a folder onto the disk: else a checkpoint that is measured would write it too."""
        copy = Path(self._folder.name) / uuid.uuid4().hex
        shutil.copytree(name, copy)
        for path in copy.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        return str(copy)

    def discard(self, address: str) -> None:
        """Remove a copy."""
        shutil.rmtree(address)

    def analyze(self, address: str) -> None:
        """Do nothing: SQLite counts no rows by itself."""

    def close(self) -> None:
        """Remove everything."""
        self._folder.cleanup()


class PostgresqlDatabases(Places):
    """Databases of a server.

    Args:
        url: A libpq URL of a user who may create databases.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._names: set[str] = set()

    @property
    def problem(self) -> str | None:
        """Why there are none."""
        try:
            with psycopg.connect(self._url, connect_timeout=3):
                return None
        except psycopg.OperationalError:
            return "no PostgreSQL server: BENCH_DATABASE_URL names one"

    @property
    def version(self) -> str:
        """The server's, with what decides how long a commit takes."""
        with psycopg.connect(self._url) as connection:
            names = ("server_version", "fsync", "synchronous_commit")
            values = [connection.execute(f"SHOW {name}").fetchone() for name in names]
        version, fsync, synchronous = (value[0] for value in values if value is not None)
        return f"{version.split()[0]} (fsync={fsync}, synchronous_commit={synchronous})"

    def prepare(self, create: Callable[[str], None]) -> str:
        """Return the name of a new database that `create` has filled."""
        name = self._make("TEMPLATE template0")
        create(self.address(name))
        return name

    def address(self, name: str) -> str:
        """Return the database's own URL."""
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def copy(self, name: str) -> str:
        """Copy a database's files."""
        return self.address(self._make(f"TEMPLATE {name} STRATEGY FILE_COPY"))

    def discard(self, address: str) -> None:
        """Drop a copy."""
        name = urlsplit(address).path.lstrip("/")
        self._run(f"DROP DATABASE {name} WITH (FORCE)")
        self._names.discard(name)

    def analyze(self, address: str) -> None:
        """Count rows anew, as autovacuum does."""
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("ANALYZE")

    def close(self) -> None:
        """Drop all that is left."""
        for name in self._names:
            self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._names.clear()

    def _make(self, how: str) -> str:
        name = f"cl_bench_{uuid.uuid4().hex[:12]}"
        self._run(f"CREATE DATABASE {name} {how}")
        self._names.add(name)
        return name

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement.encode())


class RedisDatabase(Places):
    """An empty numbered database of a Redis server, emptied after each use.

    Args:
        url: Of the server, `redis://HOST:PORT`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def problem(self) -> str | None:
        """Why there is none."""
        parts = urlsplit(self._url)
        try:
            socket.create_connection((parts.hostname or "", parts.port or 6379), 2).close()
        except OSError:
            return "no Redis server: BENCH_REDIS_URL names one"
        try:
            import redis
        except ImportError:
            return "not installed"
        numbers = range(15, -1, -1)
        for number in numbers:
            self._address = f"{self._url}/{number}"
            self._redis = redis.Redis.from_url(self._address)
            if self._redis.dbsize() == 0:
                return None
        return "every database of the Redis server is in use"

    @property
    def version(self) -> str:
        """The server's, with what it writes to disk."""
        about = self._redis.info("persistence")["aof_enabled"]
        return (
            f"{self._redis.info('server')['redis_version']} (appendonly={'yes' if about else 'no'})"
        )

    def prepare(self, create: Callable[[str], None]) -> str:
        """Return the address: there is nothing to copy."""
        create(self._address)
        return self._address

    def address(self, name: str) -> str:
        """Return the address."""
        return name

    def copy(self, name: str) -> str:
        """Return the address."""
        return name

    def discard(self, address: str) -> None:
        """Empty the database, which was empty before."""
        self._redis.flushdb()

    def analyze(self, address: str) -> None:
        """Do nothing: there are no plans."""

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()
