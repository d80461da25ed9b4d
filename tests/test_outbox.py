"""From a commit to the broker: who is told, what is marked, and what a broker that is away costs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from broker_process import BrokerProcess, free_port, point_to
from cl_ml_tools import Job, MQTTBroadcaster
from cl_ml_tools.broadcast import mqtt
from cl_ml_tools.testing import RecordingBroadcaster
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.models import Base, JobEvent
from job_backends import Backend, engine_for, wait_until


def unmarked(engine: Engine) -> int:
    statement = select(func.count()).where(JobEvent.acknowledged_at.is_(None))
    with Session(engine) as session:
        return session.execute(statement).scalar_one()


def run_one(repository: SQLAlchemyJobRepository, job_id: str) -> None:
    repository.add_job(Job(job_id=job_id, task_type="t"))
    claimed = repository.fetch_next_jobs(["t"], 1)
    repository.report_progress(claimed[0].claim, 50)
    repository.complete_job(claimed[0].claim, {})


KINDS = ["queued", "started", "progress", "completed"]


class Listener:
    """Another client, which keeps what it hears."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.events: list[dict[str, object]] = []
        self.client = MQTTBroadcaster(broker.host, broker.port)
        self.client.subscribe(os.environ["MQTT_TOPIC"], self._hear)
        assert self.client.wait_connected(20)
        assert self.client.publish_tracked("sync", "").result(20)

    def _hear(self, _topic: str, payload: str) -> None:
        self.events.append(json.loads(payload))

    def of(self, job_id: str) -> list[object]:
        return [event["event_type"] for event in self.events if event["job_id"] == job_id]


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
    run_one(repository, "j")

    assert unmarked(engine) == 0
    assert repository.flush_events(0) is True
    assert not [thread for thread in threading.enumerate() if thread.name == "cl-outbox"]


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
    listener = Listener(mqtt_environment)
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


def test_a_broker_that_is_down_slows_nothing_and_gets_what_waited(
    repository: SQLAlchemyJobRepository,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "MAX_RECONNECT_SECONDS", 1)
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
        listener = Listener(broker)  # before the repository's own client is back, or just after
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


def test_what_waited_goes_out_in_order(
    repository: SQLAlchemyJobRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost between the look and the sending: nothing is dropped."""

    class Flaky(MQTTBroadcaster):
        """Refuses each second message, as one whose connection is just lost."""

        def __init__(self) -> None:
            super().__init__("127.0.0.1", free_port())
            self.taken: list[int] = []
            self.tries = 0
            self.up = True

        @property
        def connected(self) -> bool:
            return self.up

        def connect(self) -> None:
            self.up = True

        def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
            return True

        def publish_tracked(self, topic: str, payload: str, qos: int = 1):  # type: ignore[no-untyped-def]
            from concurrent.futures import Future

            future: Future[bool] = Future()
            self.tries += 1
            self.up = self.tries % 2 == 0
            if self.up:
                self.taken.append(json.loads(payload)["event_id"])
            future.set_result(self.up)
            return future

    flaky = Flaky()
    repository.broadcaster = flaky
    for number in range(5):
        run_one(repository, str(number))

    assert repository.flush_events(20) is True
    assert len(flaky.taken) == 15
    assert flaky.taken == sorted(set(flaky.taken))


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
