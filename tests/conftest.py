"""What all tests share: an environment of their own, databases, a broker.

Nothing here outlives the test that asked for it, but the PostgreSQL server and the broker, of which
each process of the test run has one of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_process import BrokerProcess, point_to
from cl_ml_tools import shutdown_broadcaster
from cl_server_shared import Config
from job_backends import Backend, memory_backend, sql_backend
from postgresql_server import PostgresqlServer, ReusedDatabase, running_postgresql

# The services need 3.11; on less, the two libraries are tested.
collect_ignore_glob = ["server/*"] if sys.version_info < (3, 11) else []

BACKENDS = ("memory", "sqlite-memory", "sqlite-file", "postgresql")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test an environment without our settings, and no broker unless it asks for one.

    Without this, tests would publish to whatever listens on port 1883 of the machine.
    """
    for name in Config.settings():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BROADCAST_TYPE", "none")
    yield
    shutdown_broadcaster()


@pytest.fixture
def server_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`CL_SERVER_DIR`, a new folder."""
    folder = tmp_path / "cl-server"
    folder.mkdir()
    monkeypatch.setenv("CL_SERVER_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server: one per process of the test run, or that of `TEST_DATABASE_URL`."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def _reused_database(postgresql_server: PostgresqlServer) -> Iterator[ReusedDatabase]:
    with postgresql_server.database() as url:
        database = ReusedDatabase(url)
        yield database
        database.close()


@pytest.fixture
def postgresql_url(_reused_database: ReusedDatabase) -> Iterator[str]:
    """The URL of a PostgreSQL database that has the repository's tables, and nothing in them."""
    yield _reused_database.url
    _reused_database.empty()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path}/media_store.db"


@pytest.fixture(params=["sqlite-file", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that several processes can open, once per engine."""
    name = "sqlite_url" if request.param == "sqlite-file" else "postgresql_url"
    url: str = request.getfixturevalue(name)
    return url


def _backend(name: str, request: pytest.FixtureRequest) -> Iterator[Backend]:
    if name == "memory":
        yield memory_backend()
        return
    url = {
        "sqlite-memory": lambda: "sqlite:///:memory:",
        "sqlite-file": lambda: request.getfixturevalue("sqlite_url"),
        "postgresql": lambda: request.getfixturevalue("postgresql_url"),
    }[name]()
    with sql_backend(name, url) as backend:
        yield backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each implementation of `JobRepository` and `WorkQueue`."""
    yield from _backend(request.param, request)


@pytest.fixture(params=BACKENDS[1:])
def sql(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each database on which the repository in SQL runs."""
    yield from _backend(request.param, request)


@pytest.fixture(params=BACKENDS[2:])
def shared_sql(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each database that several processes share."""
    yield from _backend(request.param, request)


@pytest.fixture(scope="session")
def _session_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(tmp_path_factory.mktemp("session-broker")).start()
    yield process
    process.stop()


@pytest.fixture
def mqtt_environment(
    _session_broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BrokerProcess:
    """A running broker to which `Config` points, on a topic of the test's own."""
    point_to(_session_broker, monkeypatch, topic=f"test/{os.getpid()}/{tmp_path.name}")
    return _session_broker
