"""From a commit to the broker: who is told, what is marked, and what a broker that is away costs."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from broker_process import BrokerProcess, point_to
from cl_ml_tools import Job, MQTTBroadcaster
from cl_ml_tools.testing import RecordingBroadcaster
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.models import Base, JobEvent
from event_listener import EventListener
from job_backends import Backend, complete, engine_for, wait_until
from ports import free_port


def unmarked(engine: Engine) -> int:
    statement = select(func.count()).where(JobEvent.acknowledged_at.is_(None))
    with Session(engine) as session:
        return session.execute(statement).scalar_one()


def run_one(repository: SQLAlchemyJobRepository, job_id: str) -> None:
    repository.add_job(Job(job_id=job_id, task_type="t"))
    claimed = repository.fetch_next_jobs(["t"], 1)
    repository.report_progress(claimed[0].claim, 50)
    complete(repository, claimed[0].claim, {})


KINDS = ["queued", "started", "progress", "completed"]


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def repository(engine: Engine) -> Iterator[SQLAlchemyJobRepository]:
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    yield repository
    repository.release_instance()
    repository.flush_events(1)


def test_without_a_broker_rows_are_born_marked(
    repository: SQLAlchemyJobRepository, engine: Engine
) -> None:
    before = threading.enumerate()  # an earlier test's may be among them
    run_one(repository, "j")

    assert unmarked(engine) == 0
    assert repository.flush_events(0) is True
    started = set(threading.enumerate()).difference(before)
    assert not [thread for thread in started if thread.name == "cl-outbox"]


def test_what_was_handed_over_is_marked(sql: Backend) -> None:
    assert sql.engine is not None
    repository = sql.make()
    run_one(repository, "j")

    assert repository.flush_events(20) is True
    assert sql.told("j") == KINDS
    assert unmarked(sql.engine) == 0


def test_it_is_marked_without_anyone_asking(
    repository: SQLAlchemyJobRepository, engine: Engine
) -> None:
    repository.broadcaster = RecordingBroadcaster()
    for job_id in ("a", "b"):
        run_one(repository, job_id)
        wait_until(lambda: unmarked(engine) == 0, "the rows are marked")


@pytest.mark.parametrize("answer", [False, ConnectionError("away")])
def test_what_was_not_taken_stays_unmarked(
    repository: SQLAlchemyJobRepository, engine: Engine, answer: object
) -> None:
    class Refusing:
        def publish_event(self, topic: str, payload: str, qos: int = 1) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

    repository.broadcaster = Refusing()
    run_one(repository, "j")
    repository.flush_events(1)

    assert unmarked(engine) == 3


def test_the_broker_gets_all_and_the_rows_are_marked(
    repository: SQLAlchemyJobRepository, engine: Engine, mqtt_environment: BrokerProcess
) -> None:
    listener = EventListener(mqtt_environment, with_progress=True)
    run_one(repository, "a")
    run_one(repository, "b")

    assert repository.flush_events(20) is True
    wait_until(lambda: len(listener.events) >= 6, "the events arrive")
    for job_id in ("a", "b"):
        assert [kind for kind in listener.of(job_id) if kind != "progress"] == [
            "queued",
            "started",
            "completed",
        ]
    assert unmarked(engine) == 0
    listener.client.disconnect()


def test_text_that_is_not_unicode_reaches_the_broker_all_the_same(
    repository: SQLAlchemyJobRepository, engine: Engine, mqtt_environment: BrokerProcess
) -> None:
    listener = EventListener(mqtt_environment, with_progress=True)
    repository.add_job(Job(job_id="j", task_type="t"))

    repository.update_job("j", status="completed", task_output={"file\ud800": "a\udcff.jpg"})

    assert repository.flush_events(20) is True
    wait_until(lambda: len(listener.events) >= 2, "the events arrive")
    assert listener.events[-1]["task_output"] == {"file?": "a?.jpg"}
    assert unmarked(engine) == 0
    listener.client.disconnect()


def test_a_broker_that_is_down_slows_nothing_and_gets_what_waited(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = BrokerProcess(tmp_path, free_port())
    point_to(broker, monkeypatch, topic=f"test/{tmp_path.name}")
    try:
        began = time.monotonic()
        for number in range(30):
            run_one(repository, f"down-{number}")
        assert time.monotonic() - began < 10
        assert repository.flush_events(0.05) is False
        assert unmarked(engine) == 90

        broker.start()
        # Before the repository's own client is back, or just after.
        listener = EventListener(broker, with_progress=True)
        assert repository.flush_events(30) is True
        assert unmarked(engine) == 0

        broker.stop()
        run_one(repository, "down again")
        assert repository.get_job("down again").status == "completed"  # type: ignore[union-attr]
        broker.start()
        wait_until(lambda: listener.client.connected, "the listener is back")
        assert repository.flush_events(30) is True
        assert unmarked(engine) == 0

        run_one(repository, "up")
        wait_until(lambda: "completed" in listener.of("up"), "publishing resumed")
        ids = [event["event_id"] for event in listener.events if event["job_id"] == "up"]
        assert ids == sorted(ids, key=lambda one: (one is None, one)) or None in ids
        listener.client.disconnect()
    finally:
        broker.stop()


def test_what_waited_goes_out_in_order_and_progress_does_not_wait(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = BrokerProcess(tmp_path, free_port())
    point_to(broker, monkeypatch, topic=f"test/{tmp_path.name}")
    heard: list[dict[str, object]] = []
    broadcaster = repository.broadcaster
    assert isinstance(broadcaster, MQTTBroadcaster)
    # On the connection that publishes: it hears everything.
    broadcaster.subscribe(
        os.environ["MQTT_TOPIC"], lambda _, payload: heard.append(json.loads(payload))
    )
    for number in range(5):
        run_one(repository, str(number))
    try:
        broker.start()
        wait_until(lambda: len(heard) == 15, "all that waited arrives")
        assert [event["event_id"] for event in heard] == sorted(
            event["event_id"]  # type: ignore[type-var]
            for event in heard
        )
        wait_until(lambda: unmarked(engine) == 0, "the rows are marked")
    finally:
        broker.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_waits_for_nothing_of_its_parents(
    repository: SQLAlchemyJobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROADCAST_TYPE", "mqtt")
    monkeypatch.setenv("MQTT_PORT", str(free_port()))
    repository.add_job(Job(job_id="waits", task_type="t"))
    assert repository.flush_events(0.05) is False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for the threads
        child = os.fork()
    if child == 0:
        os._exit(0 if repository.flush_events(5) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_many_threads_leave_no_row_unmarked(
    repository: SQLAlchemyJobRepository, engine: Engine
) -> None:
    repository.broadcaster = RecordingBroadcaster()

    def work(number: int) -> None:
        for n in range(10):
            repository.add_job(Job(job_id=f"{number}-{n}", task_type="t"))
            repository.flush_events(0.01)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until(lambda: unmarked(engine) == 0, "every row is marked")
