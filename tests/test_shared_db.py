"""The repository in SQL as services make it: any engine, any session factory, its rows."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from cl_ml_tools import Job, JobRepository, NoOpBroadcaster, get_broadcaster
from cl_ml_tools.errors import ClaimLost, DuplicateJob
from cl_ml_tools.testing import RecordingBroadcaster
from cl_server_shared import Job as JobRow
from cl_server_shared import QueueEntry, SQLAlchemyJobRepository
from cl_server_shared.errors import DatabaseBusy, DatabaseUnavailable, SharedError
from cl_server_shared.models import Base, JobEvent, JobOptions, WorkerInstance
from cl_server_shared.sql import outcomes
from job_backends import Backend, complete, engine_for
from postgresql_server import PostgresqlServer

JOB_COLUMNS = [
    "id",
    "job_id",
    "task_type",
    "params",
    "status",
    "progress",
    "created_at",
    "started_at",
    "completed_at",
    "task_output",
    "error_message",
    "retry_count",
    "max_retries",
    "created_by",
]


@pytest.fixture
def engine() -> Any:
    """The engine of the contract, in memory."""
    engine = create_engine(
        "sqlite:///:memory:", connect_args={"check_same_thread": False}, poolclass=StaticPool
    )
    Base.metadata.create_all(bind=engine)
    yield engine
    engine.dispose()


@pytest.fixture
def repository(engine: Engine) -> SQLAlchemyJobRepository:
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.broadcaster = RecordingBroadcaster()
    return repository


def job(job_id: str = "j", task_type: str = "t", **params: Any) -> Job:
    return Job(job_id=job_id, task_type=task_type, params=params)


def row_of(engine: Engine, job_id: str = "j") -> JobRow:
    with Session(engine) as session:
        row = session.scalars(select(JobRow).where(JobRow.job_id == job_id)).one()
        session.expunge(row)
        return row


def told(repository: SQLAlchemyJobRepository) -> list[str]:
    broadcaster = repository.broadcaster
    assert isinstance(broadcaster, RecordingBroadcaster)
    return [event["event_type"] for event in broadcaster.events]


def count_rows(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            table: connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one()
            for table in ("jobs", "queue_entries", "job_options", "job_events", "workers")
        }


# In-memory, by the contract's "Tests".


def test_the_repository_follows_the_protocol(repository: SQLAlchemyJobRepository) -> None:
    assert isinstance(repository, JobRepository)


def test_a_job_goes_its_way(repository: SQLAlchemyJobRepository, engine: Engine) -> None:
    before = time.time_ns() // 1_000_000
    assert repository.add_job(job(a=1), created_by="user-1", priority=8) == "j"
    row = row_of(engine)
    assert (row.status, row.created_by, row.started_at, row.completed_at) == (
        "queued",
        "user-1",
        None,
        None,
    )
    assert json.loads(row.params) == {"a": 1}
    assert before <= row.created_at <= time.time_ns() // 1_000_000
    with Session(engine) as session:
        entry = session.scalars(select(QueueEntry)).one()
        assert (entry.id, entry.job_id, entry.priority) == (row.id, "j", 8)
        assert entry.enqueued_at == row.created_at

    claimed = repository.fetch_next_job(["t"])
    assert claimed == Job(job_id="j", task_type="t", params={"a": 1}, status="processing")
    row = row_of(engine)
    assert row.status == "processing" and row.started_at is not None

    assert repository.update_job("j", progress=40)
    assert repository.update_job("j", status="completed", task_output={"b": 2})
    row = row_of(engine)
    assert (row.status, row.progress, row.retry_count, row.max_retries) == ("completed", 100, 0, 3)
    assert row.completed_at is not None and row.completed_at >= (row.started_at or 0)
    assert json.loads(row.task_output or "") == {"b": 2}
    assert count_rows(engine)["queue_entries"] == 0
    assert told(repository) == ["queued", "started", "progress", "completed"]


def test_started_at_is_set_once(sql: Backend) -> None:
    assert sql.engine is not None
    repository = sql.make()
    job_id = sql.add(repository)
    repository.update_job(job_id, status="processing")
    first = row_of(sql.engine, job_id).started_at
    sql.clock.advance(5)
    repository.update_job(job_id, status="queued")
    repository.update_job(job_id, status="processing")

    assert row_of(sql.engine, job_id).started_at == first == sql.clock.ms - 5000


@pytest.mark.parametrize(
    "name", [":memory:", "", "file::memory:?uri=true", "file:m?mode=memory&cache=shared&uri=true"]
)
def test_in_memory_starts_no_thread(name: str) -> None:
    engine = create_engine(
        f"sqlite:///{name}", connect_args={"check_same_thread": False}, poolclass=StaticPool
    )
    Base.metadata.create_all(bind=engine)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.broadcaster = RecordingBroadcaster()
    before = set(threading.enumerate())
    repository.add_job(job())
    repository.fetch_next_job(["t"])
    repository.update_job("j", status="completed")

    assert set(threading.enumerate()) <= before
    engine.dispose()


def test_deleting_removes_every_row(sql: Backend) -> None:
    assert sql.engine is not None
    repository = sql.make()
    empty = count_rows(sql.engine)
    kept = sql.add(repository, priority=9, idempotency_key="kept")
    with_one = count_rows(sql.engine)
    for status in ("queued", "processing", "completed"):
        job_id = sql.add(repository, priority=3, idempotency_key=status)
        if status != "queued":
            repository.update_job(job_id, status=status)
        assert repository.delete_job(job_id)
    with sql.engine.begin() as connection:
        connection.execute(text("DELETE FROM workers"))

    assert count_rows(sql.engine) == with_one
    repository.delete_job(kept)
    assert count_rows(sql.engine) == empty


def test_ids_are_never_given_twice(sql: Backend) -> None:
    assert sql.engine is not None
    repository = sql.make()
    first = sql.add(repository)
    first_id = row_of(sql.engine, first).id
    repository.delete_job(first)

    assert row_of(sql.engine, sql.add(repository)).id > first_id


def test_wishes_have_a_row_and_defaults_have_none(sql: Backend) -> None:
    assert sql.engine is not None
    repository = sql.make()
    sql.add(repository)
    assert count_rows(sql.engine)["job_options"] == 0
    wished = sql.add(repository, priority=7, timeout_seconds=3, idempotency_key="k")

    with Session(sql.engine) as session:
        options = session.scalars(select(JobOptions)).one()
        assert (options.priority, options.timeout_seconds, options.idempotency_key) == (7, 3, "k")
    assert row_of(sql.engine, wished).max_retries == 3


# Models.


def test_jobs_has_exactly_its_fourteen_columns() -> None:
    assert [column.name for column in JobRow.__table__.columns] == JOB_COLUMNS


@pytest.mark.parametrize("name", ["job_id", "status", "created_at", "created_by"])
def test_what_is_looked_for_in_jobs_is_indexed(engine: Engine, name: str) -> None:
    indexes = {tuple(one["column_names"]): one for one in inspect(engine).get_indexes("jobs")}

    assert (name,) in indexes
    assert bool(indexes[(name,)]["unique"]) == (name == "job_id")


@pytest.mark.parametrize("name", ["job_id", "enqueued_at"])
def test_what_is_looked_for_in_the_queue_is_indexed(engine: Engine, name: str) -> None:
    indexes = {tuple(one["column_names"]) for one in inspect(engine).get_indexes("queue_entries")}

    assert (name,) in indexes


def test_the_claims_index_holds_only_what_waits(shared_sql: Backend) -> None:
    assert shared_sql.engine is not None
    catalogue = "pg_indexes" if shared_sql.name == "postgresql" else "sqlite_master"
    column, key = ("indexdef", "indexname") if shared_sql.name == "postgresql" else ("sql", "name")
    with shared_sql.engine.connect() as connection:
        definition = connection.execute(
            text(f"SELECT {column} FROM {catalogue} WHERE {key} = 'ix_queue_entries_claim'")
        ).scalar_one()
    assert "claimed_by IS NULL" in definition and "rank IS NOT NULL" in definition


def test_rows_made_by_hand_get_the_defaults_of_the_contract(engine: Engine) -> None:
    with Session(engine) as session:
        row = JobRow(job_id="j", task_type="t", created_at=1)
        session.add(row)
        session.flush()
        session.add(QueueEntry(id=row.id, job_id="j", task_type="t", enqueued_at=1, rank=1))
        session.commit()
        assert (row.status, row.progress, row.retry_count, row.max_retries, row.params) == (
            "queued",
            0,
            0,
            3,
            "{}",
        )
        assert session.scalars(select(QueueEntry)).one().priority == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "done"},
        {"progress": 101},
        {"progress": -1},
        {"status": "completed"},
        {"completed_at": 5},
        {"status": "processing"},
        {"retry_count": 4},
        {"max_retries": 51},
        {"max_retries": -1},
    ],
)
def test_the_table_defends_itself(sql: Backend, wrong: dict[str, Any]) -> None:
    with Session(sql.engine) as session:
        session.add(JobRow(job_id="j", task_type="t", created_at=1, **wrong))
        with pytest.raises(IntegrityError):
            session.commit()


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": 11, "rank": 1},
        {"priority": -1, "rank": 1},
        {"rank": None},
        {"rank": 1, "available_at": 1},
        {"rank": None, "available_at": 1, "claimed_by": 1},
        {"rank": 1, "timeout_seconds": 0},
    ],
)
def test_the_queue_defends_itself(sql: Backend, wrong: dict[str, Any]) -> None:
    with Session(sql.engine) as session:
        row = JobRow(job_id="j", task_type="t", created_at=1)
        session.add(row)
        session.flush()
        session.add(QueueEntry(id=row.id, job_id="j", task_type="t", enqueued_at=1, **wrong))
        with pytest.raises(IntegrityError):
            session.commit()


def test_a_users_own_model_may_inherit_from_base(engine: Engine) -> None:
    class Album(Base):
        __tablename__ = "albums_of_a_test"
        id = Column(Integer, primary_key=True)

    try:
        Base.metadata.create_all(bind=engine)
        with Session(engine) as session:
            session.add(Album())
            session.commit()
    finally:
        Base.metadata.remove(Base.metadata.tables["albums_of_a_test"])
        Base.registry._dispose_cls(Album)
    assert not [c for c in JobRow.__table__.constraints if isinstance(c, UniqueConstraint)]


# Session factories and engines.


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"autoflush": False},
        {"expire_on_commit": False},
        {"autoflush": False, "expire_on_commit": False, "autobegin": True},
        {"autocommit": False},
    ],
)
def test_any_flags_of_the_session_factory_do(engine: Engine, flags: dict[str, Any]) -> None:
    try:
        factory = sessionmaker(bind=engine, **flags)
        factory().close()
    except TypeError:
        pytest.skip("this SQLAlchemy knows no such flag")
    repository = SQLAlchemyJobRepository(factory)
    repository.add_job(job())
    assert repository.fetch_next_job(["t"]) is not None
    assert repository.update_job("j", status="completed")


def test_a_factory_with_binds_of_its_own_does(engine: Engine) -> None:
    factory = sessionmaker(binds={Base: engine})
    repository = SQLAlchemyJobRepository(factory)
    repository.add_job(job())
    with factory() as session:
        repository.add_job(job("k"), session=session)
        session.commit()

    assert repository.get_job("k") is not None


def test_a_scoped_session_keeps_what_is_pending_in_it(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(bind=engine))
    sessions.add(JobRow(job_id="mine", task_type="t", created_at=1))
    repository = SQLAlchemyJobRepository(sessions)
    repository.broadcaster = RecordingBroadcaster()

    assert repository.get_job("j") is None
    repository.add_job(job(), session=sessions())
    sessions.commit()

    assert repository.get_job("mine") is not None
    assert told(repository) == ["queued"]
    sessions.remove()


def test_a_session_that_is_bound_to_a_connection_is_joined(shared_sql: Backend) -> None:
    assert shared_sql.engine is not None
    with shared_sql.engine.connect() as connection:
        outer = connection.begin()
        factory = sessionmaker(bind=connection)
        repository = SQLAlchemyJobRepository(factory)
        repository.add_job(job())
        claimed = repository.fetch_next_jobs(["t"], 1)
        complete(repository, claimed[0].claim, {})
        assert repository.get_job("j") is not None
        outer.rollback()

    assert shared_sql.make().get_job("j") is None


def test_threads_share_one_connection_through_static_pool(engine: Engine) -> None:
    repositories = [SQLAlchemyJobRepository(sessionmaker(bind=engine)) for _ in range(2)]
    errors: list[BaseException] = []
    ended: list[str] = []

    def work(number: int) -> None:
        repository = repositories[number % 2]
        try:
            for n in range(25):
                job_id = f"{number}-{n}"
                repository.add_job(job(job_id))
                assert repository.get_job(job_id) is not None
                claimed = repository.fetch_next_job(["t"])
                if claimed is not None:
                    repository.update_job(claimed.job_id, progress=50)
                    repository.update_job(claimed.job_id, status="completed")
                    ended.append(claimed.job_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(ended) == len(set(ended)) == 150


def test_a_plain_caller_on_a_file_renews_its_lease_by_itself(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=0.3)
    rescuer = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=0.3)
    repository.add_job(job())
    assert repository.fetch_next_job(["t"]) is not None
    give_up = time.monotonic() + 1.2
    while time.monotonic() < give_up:
        assert rescuer.rescue_expired_jobs() == 0
        time.sleep(0.05)

    assert repository.update_job("j", status="completed")
    repository.release_instance()
    engine.dispose()


def test_a_plain_caller_that_is_gone_is_not_kept_alive(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    rescuer = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=0.2)
    gone = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=0.2)
    gone.add_job(job())
    gone.fetch_next_job(["t"])
    del gone

    give_up = time.monotonic() + 20
    while not rescuer.rescue_expired_jobs():
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert row_of(engine).status == "queued"
    engine.dispose()


# The caller's transaction.


def test_a_job_joins_the_callers_transaction(sql: Backend) -> None:
    repository = sql.make()
    factory = sessionmaker(bind=sql.engine)
    with factory() as session:
        assert repository.add_job(job("no"), session=session) == "no"
        session.rollback()
    assert repository.get_job("no") is None
    assert sql.broadcaster.events == []

    with factory() as session:
        repository.add_job(job("yes"), session=session)
        assert sql.broadcaster.events == []
        session.commit()
    assert repository.get_job("yes") is not None
    assert sql.told("yes") == ["queued"]


def test_a_session_that_goes_on_tells_each_job_once(sql: Backend) -> None:
    repository = sql.make()
    with sessionmaker(bind=sql.engine)() as session:
        repository.add_job(job("a"), session=session)
        repository.add_job(job("b"), session=session)
        session.commit()
        repository.add_job(job("a2"), session=session)
        session.rollback()
        repository.add_job(job("a2"), session=session)
        session.commit()
        session.execute(text("SELECT 1"))
        session.commit()

    assert [event["job_id"] for event in sql.broadcaster.events] == ["a", "b", "a2"]


def test_a_savepoint_that_is_rolled_back_takes_its_job_along(sql: Backend) -> None:
    repository = sql.make()
    with sessionmaker(bind=sql.engine)() as session:
        repository.add_job(job("before"), session=session)
        with session.begin_nested():
            repository.add_job(job("kept"), session=session)
        assert sql.broadcaster.events == []
        nested = session.begin_nested()
        repository.add_job(job("undone"), session=session)
        nested.rollback()
        session.commit()

    assert repository.get_job("undone") is None
    assert [event["job_id"] for event in sql.broadcaster.events] == ["before", "kept"]


def test_a_rolled_back_block_publishes_nothing(sql: Backend) -> None:
    repository = sql.make()
    with pytest.raises(ZeroDivisionError), sessionmaker(bind=sql.engine).begin() as session:
        repository.add_job(job(), session=session)
        _ = 1 / 0

    assert repository.get_job("j") is None
    assert sql.broadcaster.events == []
    repository.add_job(job())
    assert sql.told("j") == ["queued"]


def test_a_duplicate_leaves_the_callers_transaction_usable(sql: Backend) -> None:
    repository = sql.make()
    repository.add_job(job("taken"))
    with sessionmaker(bind=sql.engine).begin() as session:
        with pytest.raises(DuplicateJob):
            repository.add_job(job("taken"), session=session)
        repository.add_job(job("other"), session=session)

    assert repository.get_job("other") is not None


def test_two_transactions_with_one_id_make_one_job(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    results: list[object] = []

    def add() -> None:
        try:
            results.append(repository.add_job(job()))
        except DuplicateJob as error:
            results.append(error)

    with Session(engine) as session:
        repository.add_job(job(), session=session)
        thread = threading.Thread(target=add)
        thread.start()
        thread.join(0.2)
        assert results == []  # it waits for the first to be decided
        session.commit()
        thread.join(20)

    assert [type(result) for result in results] == [DuplicateJob]
    engine.dispose()


# Broadcaster.


def test_the_broadcaster_is_that_of_the_process(repository: SQLAlchemyJobRepository) -> None:
    own = SQLAlchemyJobRepository(repository._database._session_factory)

    assert isinstance(own.broadcaster, NoOpBroadcaster)
    assert own.broadcaster is get_broadcaster("none", "localhost", 1883)


def test_the_broadcaster_is_made_when_it_is_first_needed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_PORT", "no port")
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))  # reads nothing

    with pytest.raises(ValueError, match="MQTT_PORT"):
        _ = repository.broadcaster


def test_the_broadcaster_may_be_replaced_at_any_time(engine: Engine) -> None:
    class Mine:
        def __init__(self) -> None:
            self.calls: list[dict[str, Any]] = []

        def publish_event(self, topic: str, payload: str, qos: int) -> None:
            self.calls.append({"topic": topic, "payload": json.loads(payload), "qos": qos})

    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.add_job(job("before"))
    mine = Mine()
    repository.broadcaster = mine
    repository.add_job(job("after"))

    assert [(call["topic"], call["payload"]["job_id"], call["qos"]) for call in mine.calls] == [
        ("inference/events", "after", 1)
    ]


# Trouble.


def test_a_database_without_tables_is_said(tmp_path: Path) -> None:
    engine = engine_for(f"sqlite:///{tmp_path}/empty.db")
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    with pytest.raises(DatabaseUnavailable, match="no such table"):
        repository.add_job(job())
    engine.dispose()


@pytest.mark.parametrize("good_bytes", [0, 4096])
def test_a_file_that_is_damaged_or_no_database_is_said(sqlite_url: str, good_bytes: int) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    path = Path(sqlite_url.partition("///")[2])
    path.write_bytes(path.read_bytes()[:good_bytes] + b"no database" * 10_000)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    for use in (lambda: repository.get_job("j"), lambda: repository.add_job(job())):
        with pytest.raises(DatabaseUnavailable, match=r"not a database|malformed"):
            use()
    engine.dispose()


def test_a_postgresql_database_without_tables_is_said(
    postgresql_server: PostgresqlServer,
) -> None:
    with postgresql_server.database(with_tables=False) as url:
        engine = engine_for(url)
        with pytest.raises(DatabaseUnavailable, match="tables"):
            SQLAlchemyJobRepository(sessionmaker(bind=engine)).add_job(job())
        engine.dispose()


def test_a_pool_of_one_connection_does_for_the_callers_transaction(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=60)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    began = time.monotonic()
    with sessionmaker(bind=engine).begin() as session:
        repository.add_job(job("j"), session=session)

    assert time.monotonic() - began < 20
    assert repository.fetch_next_job(["t"]) is not None
    repository.release_instance()
    engine.dispose()


def test_a_pool_that_keeps_no_connection_does(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url, poolclass=NullPool)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    assert repository.add_job(job("j")) == "j"
    with sessionmaker(bind=engine).begin() as session:
        repository.add_job(job("k"), session=session)
    claimed = repository.fetch_next_job(["t"])
    assert claimed is not None and claimed.job_id == "j"
    assert repository.update_job("j", status="queued")
    assert repository.wait_for_jobs(5)

    repository.release_instance()
    engine.dispose()


@pytest.mark.parametrize("use", ["get_job", "delete_job"])
def test_a_connection_that_is_lost_is_told_once(
    postgresql_url: str, use: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(postgresql_url, pool_size=1)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with create_engine(postgresql_url, poolclass=NullPool).connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    with pytest.raises(DatabaseUnavailable):
        getattr(repository, use)("j")
    assert caplog.records == []  # the pool's own would be a traceback
    getattr(repository, use)("j")
    engine.dispose()


def test_an_engine_that_commits_by_itself_keeps_to_it(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT", pool_size=1)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.add_job(job())  # one statement
    assert repository.get_job("j") is not None
    with engine.connect() as connection:
        connection.execute(text("UPDATE jobs SET progress = 7"))
    assert row_of(engine).progress == 7

    def fail(*_: Any) -> None:
        raise RuntimeError("cut off")

    monkeypatch.setattr(outcomes, "_write_end", fail)
    with pytest.raises(RuntimeError):
        repository.update_job("j", status="cancelled")  # several
    assert count_rows(engine)["queue_entries"] == 1
    engine.dispose()


def test_a_server_that_is_away_is_said() -> None:
    engine = create_engine("postgresql+psycopg://postgres@127.0.0.1:1/nothing")
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    with pytest.raises(DatabaseUnavailable):
        repository.get_job("j")
    with Session(engine) as session, pytest.raises(DatabaseUnavailable):
        repository.add_job(job("j"), session=session)
    engine.dispose()


def test_a_pool_without_a_free_connection_is_said(database_url: str) -> None:
    engine = create_engine(
        database_url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.1
    )
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    with engine.connect():
        for call in (repository.add_job, lambda wanted: repository.get_job(wanted.job_id)):
            with pytest.raises(DatabaseUnavailable, match="QueuePool"):
                call(job())
    engine.dispose()


def test_a_commit_of_a_bound_connection_that_fails_is_said(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with engine.connect() as connection:
        repository = SQLAlchemyJobRepository(sessionmaker(bind=connection))
        assert connection.connection.driver_connection is not None

        @event.listens_for(engine, "commit")
        def lose(lost: Any) -> None:
            lost.connection.driver_connection.close()

        with pytest.raises(DatabaseUnavailable):
            repository.add_job(job("j"))
    engine.dispose()


def test_a_lock_that_is_held_for_too_long_is_said(tmp_path: Path) -> None:
    engine = engine_for(f"sqlite:///{tmp_path}/a.db")
    Base.metadata.create_all(engine)

    @event.listens_for(engine, "connect")
    def impatient(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA busy_timeout=100")

    engine.dispose()
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy):
        repository.add_job(job())
    assert repository.get_job("j") is None  # readers wait for nobody
    other.execute("COMMIT")
    other.close()

    repository.add_job(job())  # and the connection works on
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA busy_timeout")).scalar_one() == 100
    engine.dispose()


def test_a_failure_in_the_middle_leaves_nothing(
    sql: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = sql.make()
    assert sql.engine is not None
    before = count_rows(sql.engine)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr("cl_server_shared.shared_db.adding._insert", fail)
        with pytest.raises(RuntimeError, match="power"):
            repository.add_job(job())

    assert count_rows(sql.engine) == before
    assert sql.broadcaster.events == []
    repository.add_job(job())


def test_a_commit_that_fails_publishes_nothing(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        # A deferred foreign key fails at COMMIT, as a full disk may.
        connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        connection.execute(
            text(
                "CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER fail AFTER INSERT ON jobs BEGIN INSERT INTO children VALUES (7); END"
            )
        )

    @event.listens_for(engine, "connect")
    def enforce(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    engine.dispose()
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.broadcaster = RecordingBroadcaster()
    with pytest.raises((sqlite3.IntegrityError, SharedError)):
        repository.add_job(job())

    assert told(repository) == []
    assert repository.get_job("j") is None
    engine.dispose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_is_an_instance_of_its_own(shared_sql: Backend) -> None:
    parent = shared_sql.make()
    assert shared_sql.engine is not None
    mine, other = shared_sql.add(parent), shared_sql.add(parent)
    assert parent.update_job(mine, status="processing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for the threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                parent.update_job(mine, status="completed")  # it is the parent's
            except ClaimLost:
                code = 0
            if parent.update_job(other, status="processing"):
                parent.update_job(other, status="completed")
            parent.release_instance()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0

    assert row_of(shared_sql.engine, other).status == "completed"
    assert row_of(shared_sql.engine, mine).status == "processing"
    assert parent.update_job(mine, status="completed")
    with Session(shared_sql.engine) as session:
        assert len(session.scalars(select(WorkerInstance)).all()) == 1
        assert len(session.scalars(select(JobEvent)).all()) == 6


def test_a_first_connection_that_is_cut_off_is_a_database_that_is_away(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url)

    @event.listens_for(engine, "connect")
    def cut(*_: Any) -> None:
        # As SQLAlchemy raises what happens while it asks a server for its version.
        raise OperationalError("select version()", {}, sqlite3.OperationalError("it is gone"))

    with pytest.raises(DatabaseUnavailable, match="it is gone"):
        SQLAlchemyJobRepository(sessionmaker(bind=engine)).get_job("a")
    engine.dispose()
