"""The connection that a process writes to SQLite with: kept, but never in anybody's way."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from cl_ml_tools import Job
from cl_ml_tools.protocols import Completion
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.engine import create_database_engine, sqlite_module
from cl_server_shared.models import Base
from cl_server_shared.sql import adding

WAIT_SECONDS = 15


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = create_engine(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=5)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA busy_timeout=1234")

    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def repository_on(engine: Engine) -> SQLAlchemyJobRepository:
    return SQLAlchemyJobRepository(sessionmaker(bind=engine))


def add(repository: SQLAlchemyJobRepository, job_id: str) -> None:
    repository.add_job(Job(job_id=job_id, task_type="t"))


def files_of(engine: Engine) -> list[str]:
    path = Path(engine.url.database or "")
    return sorted(file.name for file in path.parent.glob(f"{path.name}*"))


def test_it_takes_no_place_in_the_pool(engine: Engine) -> None:
    repository = repository_on(engine)
    add(repository, "first")
    with Session(engine) as session:
        session.execute(text("SELECT COUNT(*) FROM jobs"))  # it has the pool's one connection
        add(repository, "a")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 1234
        assert connection.execute(text("SELECT COUNT(*) FROM jobs")).scalar() == 2


def test_it_is_closed_as_the_engine_is_disposed_of(engine: Engine) -> None:
    repository = repository_on(engine)
    add(repository, "a")
    assert "media_store.db-wal" in files_of(engine)

    engine.dispose()
    assert files_of(engine) == ["media_store.db"]  # nobody has it open any more

    add(repository, "b")  # an engine may be used again
    assert repository.get_job("a") and repository.get_job("b")


def test_it_is_closed_at_the_end_of_a_transaction_that_the_engine_s_disposal_met(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_on(engine)
    is_writing, may_end = threading.Event(), threading.Event()
    insert = adding.add_job

    def insert_slowly(*arguments: object) -> str:
        added = insert(*arguments)  # type: ignore[arg-type]
        is_writing.set()
        assert may_end.wait(WAIT_SECONDS)
        return added

    monkeypatch.setattr(adding, "add_job", insert_slowly)
    writing = threading.Thread(target=add, args=(repository, "a"))
    writing.start()
    assert is_writing.wait(WAIT_SECONDS)
    engine.dispose()
    may_end.set()
    writing.join(WAIT_SECONDS)

    assert files_of(engine) == ["media_store.db"]
    assert repository.get_job("a") is not None


def test_a_transaction_that_fails_leaves_it_usable(engine: Engine) -> None:
    repository = repository_on(engine)
    add(repository, "a")
    with pytest.raises(ValueError, match="'a'"):
        add(repository, "a")
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE queue_entries RENAME TO elsewhere"))
    with pytest.raises(Exception, match="queue_entries"):
        add(repository, "b")
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO queue_entries"))
    add(repository, "b")

    assert repository.get_job("b") is not None


def test_threads_take_turns_at_it(engine: Engine) -> None:
    repositories = [repository_on(engine), repository_on(engine)]
    failures: list[BaseException] = []

    def add_some(number: int) -> None:
        try:
            for each in range(20):
                add(repositories[number % 2], f"{number}-{each}")
        except BaseException as failure:  # told by the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=add_some, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM queue_entries")).scalar() == 120


def test_a_forked_child_opens_one_of_its_own(engine: Engine) -> None:
    repository = repository_on(engine)
    add(repository, "a")
    opened: list[int] = []
    event.listen(engine, "connect", lambda *_: opened.append(os.getpid()))

    child = os.fork()
    if child == 0:
        try:
            engine.dispose(close=False)
            add(repository_on(engine), "b")  # made here: it does not know that it is in a child
            written_with_its_own = os.getpid() in opened
            add(repository, "c")
            os._exit(0 if written_with_its_own else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    add(repository, "d")

    assert not opened
    assert all(repository.get_job(job_id) for job_id in "abcd")


def test_where_the_pool_keeps_none_it_keeps_none(engine: Engine, sqlite_url: str) -> None:
    engine.dispose()
    unpooled = create_engine(sqlite_url, poolclass=NullPool)
    add(repository_on(unpooled), "a")

    assert files_of(engine) == ["media_store.db"]


def test_the_statements_of_a_job_are_planned_once(sqlite_url: str) -> None:
    """With the services' SQLite, which plans anew for every value of some parameters."""
    engine = create_database_engine(sqlite_url, module=sqlite_module())
    planned: list[int] = []

    @event.listens_for(engine, "connect")
    def count_plans(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_authorizer(lambda action, *_: planned.append(action) or sqlite3.SQLITE_OK)

    Base.metadata.create_all(engine)
    repository = repository_on(engine)

    def run_job(job_id: str) -> None:
        add(repository, job_id)
        (claimed,) = repository.fetch_next_jobs(["t"], 2)
        assert repository.complete_jobs([Completion(claimed.claim, {"a": 1})]) == []

    run_job("first")
    assert planned
    planned.clear()
    for number in range(3):
        run_job(f"again-{number}")
    engine.dispose()
    assert planned == []
