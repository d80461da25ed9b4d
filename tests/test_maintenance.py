"""Maintenance as library users and services run it: relay, rescue, counting; with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from broker_process import BrokerProcess, point_to
from cl_ml_tools import Job, MQTTBroadcaster
from cl_ml_tools.broadcast import mqtt
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository, outbox
from cl_server_shared.database import Database
from cl_server_shared.maintenance import (
    MaintenanceLoop,
    MaintenanceParts,
    RetentionLimits,
    relay,
    run_maintenance_once,
)
from cl_server_shared.models import Base, Duty, JobEvent, WorkerInstance
from cl_server_shared.sql.events import read_unacknowledged
from event_listener import EventListener
from job_backends import engine_for, wait_until
from ports import free_port

HOUR_MS = 3600 * 1000


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = engine_for(database_url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def repository(engine: Engine) -> SQLAlchemyJobRepository:
    return SQLAlchemyJobRepository(sessionmaker(bind=engine))


@pytest.fixture
def maintainers(database_url: str) -> Iterator[Maintainers]:
    maintainers = Maintainers(database_url)
    yield maintainers
    maintainers.kill_all()


class Maintainers:
    """Processes that run the maintenance loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, lease_seconds: float = 2.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "tests/maintaining_process.py", self._url, str(lease_seconds)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        return process

    def kill_all(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def unmarked(engine: Engine) -> int:
    statement = select(func.count()).where(JobEvent.acknowledged_at.is_(None))
    with Session(engine) as session:
        return session.execute(statement).scalar_one()


def make_older(engine: Engine, hours: float) -> None:
    with Session(engine) as session:
        session.execute(
            update(JobEvent).values(created_at=JobEvent.created_at - round(hours * HOUR_MS))
        )
        session.commit()


def holder_of(engine: Engine, name: str) -> int | None:
    with Session(engine) as session:
        duty = session.get(Duty, name)
        return duty.holder if duty is not None and duty.expires_at > 0 else None


DYING = """
import os, sys
from sqlalchemy.orm import sessionmaker
from cl_ml_tools import Job
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository, outbox
from job_backends import engine_for
repository = SQLAlchemyJobRepository(sessionmaker(bind=engine_for(sys.argv[1])))
for number in range(5):
    job_id = f"{sys.argv[2]}-{number}"
    repository.add_job(Job(job_id=job_id, task_type="t"))
    repository.update_job(job_id, status="cancelled")
os._exit(9)
"""


def add_and_die(url: str, name: str) -> None:
    """Commit ten events in a process that dies before any is published."""
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, tests])}
    died = subprocess.run(
        [sys.executable, "-c", DYING, url, name], env=environment, check=False, timeout=60
    )
    assert died.returncode == 9


def test_what_was_dropped_beside_a_slow_broker_is_relayed_by_the_same_process(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "MAX_UNACKNOWLEDGED", 2)
    monkeypatch.setattr(mqtt, "MAX_WAITING", 2)
    broker = BrokerProcess(tmp_path, free_port()).start()
    point_to(broker, monkeypatch, topic=f"test/{tmp_path.name}")
    try:
        broadcaster = repository.broadcaster
        assert isinstance(broadcaster, MQTTBroadcaster) and broadcaster.wait_connected(20)
        broker.freeze()
        for number in range(10):
            repository.add_job(Job(job_id=str(number), task_type="t"))
        broker.thaw()
        wait_until(lambda: unmarked(engine) == 6, "the four that were kept are acknowledged")

        database = Database(sessionmaker(bind=engine))
        again = outbox.Outbox(database)
        for _ in range(3):  # of six at once, two are dropped again
            relay.relay_events(database, again, min_age_ms=0)
            assert again.flush(20)
        assert unmarked(engine) == 0
    finally:
        broker.stop()


def test_events_of_a_dead_process_reach_the_broker_when_it_is_back(
    database_url: str,
    engine: Engine,
    maintainers: Maintainers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = BrokerProcess(tmp_path, free_port())
    point_to(broker, monkeypatch, topic=f"test/{tmp_path.name}")
    add_and_die(database_url, "lost")
    assert unmarked(engine) == 10
    make_older(engine, hours=1)
    maintainers.start()
    maintainers.start()
    try:
        broker.start()
        listener = EventListener(broker)
        wait_until(lambda: unmarked(engine) == 0, "the relay has published them")
        wait_until(lambda: len(listener.events) >= 10, "they are heard")
        assert listener.ids() == sorted(set(listener.ids()))
        kinds = [event["event_type"] for event in listener.events]
        assert kinds == ["queued", "cancelled"] * 5
        listener.client.disconnect()
    finally:
        broker.stop()


def test_a_killed_holder_is_replaced(
    database_url: str,
    engine: Engine,
    maintainers: Maintainers,
    mqtt_environment: BrokerProcess,
) -> None:
    first = maintainers.start()
    wait_until(lambda: holder_of(engine, "relay") is not None, "the relay is held")
    before = holder_of(engine, "relay")
    maintainers.start()
    first.send_signal(signal.SIGKILL)
    first.wait()
    add_and_die(database_url, "later")
    make_older(engine, hours=1)

    wait_until(lambda: holder_of(engine, "relay") != before, "another holds it")
    wait_until(lambda: unmarked(engine) == 0, "and relays")


def test_a_clean_end_gives_every_duty_up(
    engine: Engine, maintainers: Maintainers, mqtt_environment: BrokerProcess
) -> None:
    process = maintainers.start(lease_seconds=60)
    names = ["relay", "rescue", "retention"]
    wait_until(lambda: all(holder_of(engine, name) for name in names), "all are held")
    process.communicate("", timeout=20)

    assert process.returncode == 0
    assert [holder_of(engine, name) for name in names] == [None] * 3


def test_what_waits_in_this_process_is_not_relayed_as_well(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = BrokerProcess(tmp_path, free_port())
    point_to(broker, monkeypatch, topic=f"test/{tmp_path.name}")
    heard: list[str] = []
    broadcaster = repository.broadcaster
    assert isinstance(broadcaster, MQTTBroadcaster)
    broadcaster.subscribe(os.environ["MQTT_TOPIC"], lambda _, payload: heard.append(payload))
    for number in range(20):
        repository.add_job(Job(job_id=str(number), task_type="t"))
    make_older(engine, hours=1)
    try:
        broker.start()
        assert broadcaster.wait_connected(20)
        while unmarked(engine):
            run_maintenance_once(sessionmaker(bind=engine))
        assert broadcaster.publish_tracked("sync", "").result(20)
        assert len(heard) == 20
    finally:
        broker.stop()


def test_what_is_marked_during_the_look_is_not_relayed(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    tmp_path: Path,
    mqtt_environment: BrokerProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []

    def look_and_mark(database: Any, after: int, limit: int, min_age_ms: int) -> Any:
        events = read_unacknowledged(database, after, limit, min_age_ms)
        if limit > 1:  # with one it is only asked whether there is any
            seen.extend(events)
            assert repository.flush_events(20)
        return events

    broadcaster = repository.broadcaster
    assert isinstance(broadcaster, MQTTBroadcaster)
    assert broadcaster.wait_connected(20)
    monkeypatch.setattr(outbox, "MARK_EVERY_SECONDS", 60)
    repository.add_job(Job(job_id="a", task_type="t"))
    make_older(engine, hours=1)
    monkeypatch.setattr(relay, "read_unacknowledged", look_and_mark)

    done = run_maintenance_once(sessionmaker(bind=engine))
    assert [event["job_id"] for event in seen] == ["a"]
    assert done.counts["events_relayed"] == 0


def test_a_young_event_is_left_to_who_made_it(
    repository: SQLAlchemyJobRepository, engine: Engine, mqtt_environment: BrokerProcess
) -> None:
    repository.broadcaster = Refusing()
    repository.add_job(Job(job_id="young", task_type="t"))

    assert run_maintenance_once(sessionmaker(bind=engine)).counts["events_relayed"] == 0
    assert unmarked(engine) == 1


@pytest.mark.parametrize("hours", [1, -1], ids=["old", "from the future: the clock was put back"])
def test_an_event_of_another_time_is_relayed(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    mqtt_environment: BrokerProcess,
    hours: int,
) -> None:
    listener = EventListener(mqtt_environment)
    repository.broadcaster = Refusing()
    repository.add_job(Job(job_id="other", task_type="t"))
    make_older(engine, hours)

    report = run_maintenance_once(sessionmaker(bind=engine))

    assert report.counts["events_relayed"] == 1
    assert report.held_elsewhere == ()
    assert unmarked(engine) == 0
    wait_until(lambda: len(listener.events) == 1, "it is heard")
    assert listener.events[0]["job_id"] == "other"
    listener.client.disconnect()


class Refusing:
    """A broadcaster that takes nothing."""

    def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
        return False


def test_a_broker_that_is_away_ends_the_pass(
    repository: SQLAlchemyJobRepository, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.broadcaster = Refusing()
    repository.add_job(Job(job_id="waits", task_type="t"))
    make_older(engine, hours=1)
    monkeypatch.setenv("BROADCAST_TYPE", "mqtt")
    monkeypatch.setenv("MQTT_PORT", str(free_port()))
    monkeypatch.setattr("cl_server_shared.maintenance.once.CONNECT_SECONDS", 0.1)

    assert run_maintenance_once(sessionmaker(bind=engine)).counts["events_relayed"] == 0
    assert unmarked(engine) == 1


def test_many_stranded_events_go_out_in_order(
    repository: SQLAlchemyJobRepository, engine: Engine, mqtt_environment: BrokerProcess
) -> None:
    listener = EventListener(mqtt_environment)
    repository.broadcaster = Refusing()
    for number in range(450):
        repository.add_job(Job(job_id=str(number), task_type="t"))
    make_older(engine, hours=1)

    assert run_maintenance_once(sessionmaker(bind=engine)).counts["events_relayed"] == 450
    wait_until(lambda: len(listener.events) == 450, "they are heard")
    assert [event["job_id"] for event in listener.events] == [str(n) for n in range(450)]
    assert unmarked(engine) == 0
    listener.client.disconnect()


def test_the_page_of_unacknowledged_events_is_read_by_its_index(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    read: list[str] = []
    with Database(sessionmaker(bind=engine)).reading() as transaction:
        transaction.cursor.connection.set_trace_callback(read.append)
        read_unacknowledged(transaction, 0, 10, 5000)
        plan = transaction.cursor.execute(f"EXPLAIN QUERY PLAN {read[-1]}").fetchall()
    assert any("ix_job_events_unacknowledged" in row[3] for row in plan), plan
    engine.dispose()


def test_a_library_user_rescues_the_jobs_of_the_dead(
    repository: SQLAlchemyJobRepository, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_LEASE_SECONDS", "1")
    factory = sessionmaker(bind=engine)
    dead = SQLAlchemyJobRepository(factory, lease_seconds=1)
    dead.register_instance("dead", {}, 1)
    repository.add_job(Job(job_id="j", task_type="t"))
    assert dead.fetch_next_job(["t"]) is not None

    def rescue() -> bool:
        report = run_maintenance_once(factory)
        assert report.held_elsewhere == ()
        return report.counts["jobs_rescued"] == 1

    wait_until(rescue, "the job is taken back")
    job = repository.get_job("j")
    assert job is not None and job.status == "queued"
    assert run_maintenance_once(factory).counts["jobs_rescued"] == 0


def test_a_held_rescue_is_left_to_its_holder(
    engine: Engine, maintainers: Maintainers, repository: SQLAlchemyJobRepository
) -> None:
    """Also by a repository object that claims by itself, and renews its lease by a thread."""
    maintainers.start(lease_seconds=60)
    wait_until(lambda: holder_of(engine, "rescue") is not None, "it is held")

    assert "rescue" in run_maintenance_once(sessionmaker(bind=engine)).held_elsewhere
    plain = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=0.3)
    plain.fetch_next_job(["t"])
    rescues: list[None] = []
    plain.rescue_expired_jobs = lambda: rescues.append(None) or 0  # type: ignore[method-assign]
    renewed = _renewals(engine)
    wait_until(lambda: _renewals(engine) - renewed > 500, "it has renewed its lease")
    assert rescues == []
    plain.release_instance()


def _renewals(engine: Engine) -> int:
    with Session(engine) as session:
        return session.scalars(select(func.max(WorkerInstance.renewed_at))).one()


def test_a_repository_that_claims_by_itself_rescues_where_nobody_does(engine: Engine) -> None:
    factory = sessionmaker(bind=engine)
    dead = SQLAlchemyJobRepository(factory, lease_seconds=0.5)
    dead.register_instance("dead", {}, 1)
    dead.add_job(Job(job_id="j", task_type="t"))
    assert dead.fetch_next_job(["t"]) is not None
    plain = SQLAlchemyJobRepository(factory, lease_seconds=0.5)
    plain.fetch_next_job(["t"])

    def status() -> str:
        job = plain.get_job("j")
        assert job is not None
        return job.status

    wait_until(lambda: status() == "queued", "the job is taken back")
    plain.release_instance()


def test_events_get_their_places_while_nobody_reads(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    factory = sessionmaker(bind=engine)
    SQLAlchemyJobRepository(factory).add_job(Job(job_id="j", task_type="t"))
    run_maintenance_once(factory)

    with Session(engine) as session:
        assert session.scalars(select(JobEvent.position)).one() is not None
    engine.dispose()


def test_an_error_is_said_once_and_ends_nothing(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_server_shared.maintenance.loop.RETRY_SECONDS", 0.02)
    engine = engine_for(sqlite_url)
    parts = MaintenanceParts(
        sessionmaker(bind=engine), lease_seconds=60, limits=RetentionLimits(24, 0)
    )
    with MaintenanceLoop(parts):
        wait_until(lambda: caplog.text.count("waits for the database") == 3, "it is said")
        Base.metadata.create_all(engine)
        wait_until(lambda: holder_of(engine, "rescue") is not None, "it goes on")
    assert caplog.text.count("waits for the database") == 3
    assert holder_of(engine, "rescue") is None
    engine.dispose()


def test_a_duty_that_fails_is_left_to_others(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)

    def refuse() -> None:
        raise RuntimeError("the disk is not there")

    parts = MaintenanceParts(
        sessionmaker(bind=engine),
        lease_seconds=60,
        limits=RetentionLimits(24, 0),
        storage=FileStorageService(tmp_path),
        check_storage=refuse,
    )
    with MaintenanceLoop(parts):
        wait_until(lambda: "workspaces failed" in caplog.text, "it is said")
        wait_until(lambda: holder_of(engine, "workspaces") is None, "it is given up")
        wait_until(lambda: holder_of(engine, "retention") is not None, "the others go on")
    assert "the disk is not there" in caplog.text
    engine.dispose()


def test_what_was_acknowledged_is_not_relayed(
    repository: SQLAlchemyJobRepository, engine: Engine, mqtt_environment: BrokerProcess
) -> None:
    repository.add_job(Job(job_id="j", task_type="t"))
    assert repository.flush_events(20)
    make_older(engine, hours=1)

    began = time.monotonic()
    assert run_maintenance_once(sessionmaker(bind=engine)).counts["events_relayed"] == 0
    assert time.monotonic() - began < 5
