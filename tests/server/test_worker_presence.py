"""What a worker tells through a real broker: its presence, and each step of its jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_harness import Listener, Workshop, wait_until, workshop_in

from broker_process import BrokerProcess

EVENTS, WORKERS = "house/events", "house/workers"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """Not started yet."""
    process = BrokerProcess(tmp_path)
    yield process
    process.stop()


@pytest.fixture
def shop(tmp_path: Path, broker: BrokerProcess) -> Iterator[Workshop]:
    with workshop_in(
        tmp_path,
        BROADCAST_TYPE="mqtt",
        MQTT_BROKER=broker.host,
        MQTT_PORT=str(broker.port),
        MQTT_TOPIC=EVENTS,
        CAPABILITY_TOPIC_PREFIX=WORKERS,
        WORKER_ID="attic",
    ) as shop:
        yield shop


@pytest.fixture
def listen(broker: BrokerProcess) -> Iterator[Callable[[], Listener]]:
    listeners: list[Listener] = []

    def start() -> Listener:
        listeners.append(Listener(broker.port, "house"))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


def presences(listener: Listener) -> set[str]:
    """The topics on which a worker is shown now."""
    topics = {topic for topic, _ in list(listener.messages) if topic.startswith(WORKERS)}
    return {topic for topic in topics if listener.last(topic)}


def test_presence_and_events_of_a_job(
    shop: Workshop, broker: BrokerProcess, listen: Callable[[], Listener]
) -> None:
    broker.start()
    topic = f"{WORKERS}/attic"
    worker = shop.ready_worker(WORKER_CONCURRENCY="2")
    listener = listen()
    wait_until(lambda: any(told["idle_count"] == 2 for told in listener.heard(topic)))
    told = listener.heard(topic)[-1]
    assert told["worker_id"] == told["id"] == "attic"
    assert told["capabilities"] == ["act", "image_conversion", "image_resize"]
    assert abs(told["timestamp"] - time.time() * 1000) < 60_000
    began = time.monotonic()
    job_id = shop.add("count", pause=0.01)
    shop.wait_for_end(job_id)
    took_seconds = time.monotonic() - began
    wait_until(lambda: [e["event_type"] for e in listener.heard(EVENTS)][-1:] == ["completed"])
    events = listener.heard(EVENTS)
    types = [event["event_type"] for event in events]
    assert types[0] == "started" and set(types[1:-1]) == {"progress"}
    progress = [event["progress"] for event in events[1:]]
    assert progress == sorted(progress) and progress[-1] == 100
    assert len(progress) <= 4 * took_seconds + 3  # the first, the last, and the end
    assert {event["event_id"] for event in events[1:-1]} == {None}
    assert events[0]["event_id"] < events[-1]["event_id"]
    assert {event["job_id"] for event in events} == {job_id}
    assert events[-1]["status"] == "completed" and events[-1]["task_output"] == {}
    shop.add("wait")
    wait_until(lambda: listener.heard(topic)[-1]["idle_count"] == 1)
    shop.let_go_on()
    wait_until(lambda: listener.heard(topic)[-1]["idle_count"] == 2)
    fresh = listen()
    wait_until(lambda: presences(fresh) == {topic})  # it is retained
    time.sleep(1)  # into the quiet time between two messages, in which it once missed its end
    assert worker.terminate() == 0
    wait_until(lambda: listener.last(topic) == "")
    worker.assert_calm()


def test_the_topic_of_a_killed_worker_is_emptied(
    shop: Workshop, broker: BrokerProcess, listen: Callable[[], Listener]
) -> None:
    broker.start()
    listener = listen()
    worker = shop.ready_worker()
    wait_until(lambda: presences(listener) == {f"{WORKERS}/attic"})
    worker.signal(signal.SIGKILL)
    wait_until(lambda: presences(listener) == set())
    assert presences(listen()) == set()


def test_two_workers_of_one_name_are_both_shown_and_both_work(
    shop: Workshop, broker: BrokerProcess, listen: Callable[[], Listener]
) -> None:
    broker.start()
    listener = listen()
    workers = [shop.start_worker(), shop.start_worker()]
    for worker in workers:
        worker.wait_for_log("registered as instance")
    wait_until(lambda: len(presences(listener)) == 2, explain=shop.logs)
    job_ids = [shop.add("wait"), shop.add("wait")]
    wait_until(lambda: len(shop.signs("running")) == 2)  # each runs one
    shop.let_go_on()
    for job_id in job_ids:
        assert shop.wait_for_end(job_id)["status"] == "completed"
        assert shop.events(job_id).count("started") == 1
    assert {told["worker_id"] for t in presences(listener) for told in listener.heard(t)[-1:]} == {
        topic.removeprefix(f"{WORKERS}/") for topic in presences(listener)
    }
    workers[0].signal(signal.SIGKILL)
    wait_until(lambda: len(presences(listener)) == 1)
    assert workers[1].terminate() == 0
    wait_until(lambda: presences(listener) == set())
    assert presences(listen()) == set()
    workers[1].assert_calm()


def test_a_broker_that_is_down_slows_nothing_and_is_told_later(
    shop: Workshop, broker: BrokerProcess, listen: Callable[[], Listener]
) -> None:
    job_ids = [shop.add() for _ in range(20)]
    worker = shop.ready_worker()
    began = time.monotonic()
    for job_id in job_ids:
        assert shop.wait_for_end(job_id)["status"] == "completed"
    assert time.monotonic() - began < 20
    broker.start()
    listener = listen()
    wait_until(lambda: presences(listener) == {f"{WORKERS}/attic"})
    wait_until(lambda: len([e for e in listener.heard(EVENTS) if e["status"] == "completed"]) >= 20)
    job_id = shop.add()
    wait_until(
        lambda: (
            [e["event_type"] for e in listener.heard(EVENTS) if e["job_id"] == job_id][-1:]
            == ["completed"]
        )
    )
    broker.stop()
    worker.wait_for_log("ended the connection")
    assert shop.wait_for_end(shop.add())["status"] == "completed"
    assert worker.terminate() == 0
    worker.assert_calm()
