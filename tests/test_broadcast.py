"""The broadcasters, against a real broker that comes and goes."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_process import BrokerProcess
from cl_ml_tools import MQTTBroadcaster, NoOpBroadcaster, get_broadcaster, shutdown_broadcaster
from cl_ml_tools.broadcast import Broadcaster, job_event, mqtt, to_json
from cl_ml_tools.broadcast.waiting import Message, WaitingMessages
from ports import free_port

WAIT_SECONDS = 15


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker for tests that leave it alone."""
    process = BrokerProcess(tmp_path_factory.mktemp("broker")).start()
    yield process
    process.stop()


@pytest.fixture
def fragile_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of the test's own, not started yet."""
    process = BrokerProcess(tmp_path)
    yield process
    process.stop()


@pytest.fixture
def topic() -> str:
    return f"test/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def _end_broadcaster() -> Iterator[None]:
    yield
    shutdown_broadcaster()


class Listener:
    """Another client of the broker, and what it heard."""

    def __init__(self, broker: BrokerProcess, topic: str) -> None:
        self.messages: queue.Queue[tuple[str, str]] = queue.Queue()
        self.client = MQTTBroadcaster(broker.host, broker.port)
        self.client.subscribe(topic, lambda *message: self.messages.put(message))
        assert self.client.wait_connected(WAIT_SECONDS)
        # Acknowledged after the subscription, which was sent before it.
        assert self.client.publish_tracked(f"sync/{uuid.uuid4()}", "").result(WAIT_SECONDS)

    def next(self) -> tuple[str, str]:
        return self.messages.get(timeout=WAIT_SECONDS)

    def close(self) -> list[tuple[str, str]]:
        """End it and return what it heard and nobody asked for."""
        self.client.disconnect()
        return list(self.messages.queue)


def connect(broker: BrokerProcess) -> MQTTBroadcaster:
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)
    assert broadcaster.wait_connected(WAIT_SECONDS)
    return broadcaster


def wait_for(condition: object, what: str) -> None:
    give_up = time.monotonic() + WAIT_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def test_both_broadcasters_follow_the_protocol() -> None:
    assert isinstance(NoOpBroadcaster(), Broadcaster)
    assert isinstance(MQTTBroadcaster("localhost", 1883), Broadcaster)


def test_anything_but_mqtt_is_no_broker() -> None:
    broadcaster = get_broadcaster("none", "localhost", 1883)

    assert isinstance(broadcaster, NoOpBroadcaster)
    assert broadcaster.publish_event(topic="a", payload="b", qos=1) is True
    assert not broadcaster.connected


def test_there_is_one_per_process_and_other_arguments_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = get_broadcaster("mqtt", "127.0.0.1", 1)
    with caplog.at_level(logging.WARNING):
        assert get_broadcaster("mqtt", "127.0.0.1", 2) is first
        assert get_broadcaster("none", "127.0.0.1", 3) is first
        assert get_broadcaster("mqtt", "127.0.0.1", 1) is first
    assert [record for record in caplog.records if "stays" in record.message] == caplog.records
    assert len(caplog.records) == 1


def test_shutdown_may_be_called_twice_and_a_new_one_is_made_after_it() -> None:
    first = get_broadcaster("mqtt", "127.0.0.1", 1)
    shutdown_broadcaster()
    shutdown_broadcaster()

    second = get_broadcaster("mqtt", "127.0.0.1", 1)
    assert second is not first
    assert first.publish_event(topic="a", payload="b") is False


def test_an_event_reaches_a_subscriber(broker: BrokerProcess, topic: str) -> None:
    listener = Listener(broker, topic)
    event = job_event(7, "job-1", "completed", "completed", "resize", 1, 100, 1, {"width": 3})

    assert connect(broker).publish_event(topic=topic, payload=to_json(event), qos=1) is True

    heard_topic, payload = listener.next()
    assert (heard_topic, json.loads(payload)) == (topic, event)
    assert "error" not in event
    assert listener.close() == []


def test_wildcards_match_and_the_topic_is_told(broker: BrokerProcess, topic: str) -> None:
    listener = Listener(broker, f"{topic}/+/presence")
    broadcaster = connect(broker)
    broadcaster.publish_event(topic=f"{topic}/b/other", payload="no")
    broadcaster.publish_event(topic=f"{topic}/a/presence", payload="yes")

    assert listener.next() == (f"{topic}/a/presence", "yes")
    assert listener.close() == []


def test_a_subscriber_that_fails_loses_one_message_only(
    broker: BrokerProcess, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: queue.Queue[str] = queue.Queue()

    def fail_at_first(_topic: str, payload: str) -> None:
        if payload == "first":
            raise RuntimeError("no")
        heard.put(payload)

    broadcaster = connect(broker)
    broadcaster.subscribe(topic, fail_at_first)
    broadcaster.publish_event(topic=topic, payload="first")
    broadcaster.publish_event(topic=topic, payload="second")

    assert heard.get(timeout=WAIT_SECONDS) == "second"
    assert "a subscriber to" in caplog.text


def test_a_tracked_message_is_done_when_the_broker_has_it(
    broker: BrokerProcess, topic: str
) -> None:
    broadcaster = connect(broker)
    futures = [broadcaster.publish_tracked(topic, str(n)) for n in range(500)]

    assert all(future.result(WAIT_SECONDS) for future in futures)


def test_events_arrive_in_order(broker: BrokerProcess, topic: str) -> None:
    listener = Listener(broker, topic)
    broadcaster = connect(broker)
    for number in range(300):
        broadcaster.publish_event(topic=topic, payload=str(number))

    assert [listener.next()[1] for _ in range(300)] == [str(number) for number in range(300)]
    listener.close()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"topic": ""}, "''"),
        ({"topic": "a/#"}, "'a/#'"),
        ({"topic": "a/+/b"}, "'a/+/b'"),
        ({"topic": "a\0b"}, r"'a\x00b'"),
        ({"topic": "a\nb"}, r"'a\nb'"),
        ({"topic": "a\ud800"}, r"'a\ud800'"),
        ({"topic": "a" * 65_536}, "65535 bytes"),
        ({"topic": None}, "None"),
        ({"payload": {"a": 1}}, "{'a': 1}"),
        ({"payload": "\ud800"}, "surrogates"),
        ({"qos": 3}, "3"),
        ({"qos": "1"}, "'1'"),
    ],
)
def test_what_cannot_be_published_is_said_not_raised_and_holds_nothing_up(
    broker: BrokerProcess,
    topic: str,
    message: dict[str, Any],
    says: str,
    early: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)
    assert early or broadcaster.wait_connected(WAIT_SECONDS)

    assert broadcaster.publish_event(**{"topic": topic, "payload": "x", **message}) is False
    broadcaster.publish_retained(**{"topic": topic, "payload": "x", **message})
    assert caplog.text.count("cannot be published") == 2
    assert caplog.text.count(says) >= 2
    assert broadcaster.publish_tracked(topic, "after").result(WAIT_SECONDS) is True


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("bad_filter", ["", "a/#/b", "a#", "a/b+", "a\0b", "a" * 65_536, None])
def test_what_cannot_be_subscribed_to_is_refused_and_costs_nothing(
    broker: BrokerProcess, topic: str, bad_filter: Any, early: bool
) -> None:
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)
    assert early or broadcaster.wait_connected(WAIT_SECONDS)

    with pytest.raises(ValueError, match=r"topic|filter"):
        broadcaster.subscribe(bad_filter, print)
    assert broadcaster.publish_tracked(topic, "after").result(WAIT_SECONDS) is True


@pytest.mark.parametrize("good_filter", ["#", "+", "/", "a/+/b", "+/#", "a//b"])
def test_what_is_a_filter_is_subscribed_to(broker: BrokerProcess, good_filter: str) -> None:
    connect(broker).subscribe(good_filter, lambda _topic, _payload: None)
    assert connect(broker).publish_tracked("sync", "").result(WAIT_SECONDS)


@pytest.mark.parametrize("will", [("a/#", "", 1), ("", "", 1), ("a\0", "", 1), ("a", "", 7)])
def test_a_will_that_is_none_is_refused_and_costs_nothing(
    broker: BrokerProcess, topic: str, will: tuple[str, str, int]
) -> None:
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)

    with pytest.raises(ValueError, match=r"topic|quality"):
        broadcaster.set_will(*will)
    assert broadcaster.publish_tracked(topic, "after").result(WAIT_SECONDS) is True


@pytest.mark.parametrize("address", [("", 1883), ("localhost", 0), ("localhost", 65_536)])
def test_an_address_that_is_none_is_refused(address: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=repr(address[1])):
        get_broadcaster("mqtt", *address)


def test_a_broker_that_is_down_costs_nothing(topic: str) -> None:
    broadcaster = get_broadcaster("mqtt", "127.0.0.1", free_port())
    assert isinstance(broadcaster, MQTTBroadcaster)

    began = time.monotonic()
    assert not any(broadcaster.publish_event(topic=topic, payload="x") for _ in range(1000))
    waiting = broadcaster.publish_tracked(topic, "x")
    assert not waiting.done()
    broadcaster.publish_retained(topic, "x")
    shutdown_broadcaster()
    assert waiting.result(0) is False
    assert broadcaster.publish_tracked(topic, "x").result(0) is False
    assert time.monotonic() - began < 20


def test_what_is_published_before_the_connection_arrives(broker: BrokerProcess, topic: str) -> None:
    listener = Listener(broker, topic)
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)

    broadcaster.publish_event(topic=topic, payload="first")
    assert broadcaster.publish_tracked(topic, "second").result(WAIT_SECONDS) is True

    assert [listener.next()[1] for _ in range(2)] == ["first", "second"]
    assert listener.close() == []


def test_too_many_waiting_drop_the_oldest_with_one_line(
    fragile_broker: BrokerProcess,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mqtt, "MAX_WAITING", 5)
    broadcaster = get_broadcaster("mqtt", fragile_broker.host, fragile_broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)
    heard: queue.Queue[str] = queue.Queue()
    broadcaster.subscribe(topic, lambda _topic, payload: heard.put(payload))
    futures = [broadcaster.publish_tracked(topic, str(number)) for number in range(8)]

    assert [future.done() and not future.result() for future in futures] == [True] * 3 + [False] * 5
    assert caplog.text.count("the oldest are dropped") == 1
    fragile_broker.start()
    assert all(future.result(WAIT_SECONDS) for future in futures[3:])
    assert [heard.get(timeout=WAIT_SECONDS) for _ in range(5)] == ["3", "4", "5", "6", "7"]


def test_more_than_the_broker_may_owe_waits_its_turn(
    broker: BrokerProcess, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MAX_UNACKNOWLEDGED", 3)
    listener = Listener(broker, topic)
    broadcaster = connect(broker)
    futures = [broadcaster.publish_tracked(topic, str(number)) for number in range(400)]

    assert all(future.result(WAIT_SECONDS) for future in futures)
    assert [listener.next()[1] for _ in range(400)] == [str(number) for number in range(400)]
    listener.close()


def test_what_waits_is_sent_though_the_last_acknowledgement_came_as_it_was_added(
    fragile_broker: BrokerProcess, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MAX_UNACKNOWLEDGED", 1)
    broadcaster = connect(fragile_broker.start())
    fragile_broker.freeze()
    first = broadcaster.publish_tracked(topic, "first")
    add = WaitingMessages.add

    def add_late(waiting: WaitingMessages, message: Message) -> None:
        fragile_broker.thaw()
        assert first.result(WAIT_SECONDS)
        time.sleep(0.05)  # until the connection's thread has looked at what waits
        add(waiting, message)

    monkeypatch.setattr(WaitingMessages, "add", add_late)
    assert broadcaster.publish_tracked(topic, "second").result(WAIT_SECONDS)


def test_publishing_resumes_when_the_broker_comes_back(
    fragile_broker: BrokerProcess,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mqtt, "MAX_RECONNECT_SECONDS", 1)
    caplog.set_level(logging.INFO)
    broadcaster = get_broadcaster("mqtt", fragile_broker.host, fragile_broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)
    heard: queue.Queue[str] = queue.Queue()
    broadcaster.subscribe(topic, lambda _topic, payload: heard.put(payload))
    broadcaster.publish_retained(f"{topic}/presence", "here")
    for number in range(3):
        assert not broadcaster.publish_event(topic=topic, payload=f"waited {number}")

    for life in ("first", "second"):
        fragile_broker.start()
        wait_for(lambda: broadcaster.connected, "it did not connect by itself")
        assert broadcaster.publish_event(topic=topic, payload=life) is True
        in_order = [*(f"waited {number}" for number in range(3)), life]
        assert [heard.get(timeout=WAIT_SECONDS) for _ in range(4)] == in_order
        listener = Listener(fragile_broker, f"{topic}/presence")
        assert listener.next() == (f"{topic}/presence", "here")
        listener.close()
        fragile_broker.stop()
        wait_for(lambda: not broadcaster.connected, "it did not notice")
        for number in range(3):
            assert not broadcaster.publish_event(topic=topic, payload=f"waited {number}")

    # Logged by paho's thread, a moment after the state that it tells of.
    wait_for(lambda: caplog.text.count("trying again by itself") >= 3, "it did not say so")
    assert caplog.text.count("trying again by itself") == 3
    assert caplog.text.count("is there again") == 2


def test_what_is_published_once_it_is_connected_waits_behind_nothing(
    fragile_broker: BrokerProcess, topic: str
) -> None:
    broadcaster = get_broadcaster("mqtt", fragile_broker.host, fragile_broker.port)
    assert isinstance(broadcaster, MQTTBroadcaster)
    heard: queue.Queue[str] = queue.Queue()
    broadcaster.subscribe(topic, lambda _topic, payload: heard.put(payload))
    for number in range(2000):
        assert not broadcaster.publish_event(topic=topic, payload=f"waited {number}")

    fragile_broker.start()
    while not broadcaster.connected:  # not a moment later
        pass
    assert broadcaster.publish_event(topic=topic, payload="new") is True
    in_order = [*(f"waited {number}" for number in range(2000)), "new"]
    assert [heard.get(timeout=WAIT_SECONDS) for _ in range(2001)] == in_order


def test_what_was_not_acknowledged_is_sent_again(
    fragile_broker: BrokerProcess, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MAX_RECONNECT_SECONDS", 1)
    fragile_broker.start()
    broadcaster = connect(fragile_broker)
    futures = []
    fragile_broker.stop()
    while broadcaster.connected:  # handed over, but the broker is dead already
        futures.append(broadcaster.publish_tracked(topic, "x"))
    fragile_broker.start()

    assert all(future.result(WAIT_SECONDS) for future in futures)


def test_a_newer_retained_value_is_never_overwritten_by_an_older_one(
    fragile_broker: BrokerProcess, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MAX_RECONNECT_SECONDS", 1)
    fragile_broker.start()
    broadcaster = connect(fragile_broker)
    fragile_broker.stop()
    for number in range(50):
        broadcaster.publish_retained(topic, str(number))
    wait_for(lambda: not broadcaster.connected, "it did not notice")
    broadcaster.publish_retained(topic, "newest")
    fragile_broker.start()
    wait_for(lambda: broadcaster.connected, "it did not connect again")
    assert broadcaster.publish_tracked(f"{topic}/sync", "").result(WAIT_SECONDS)

    listener = Listener(fragile_broker, topic)
    assert listener.next() == (topic, "newest")
    assert listener.close() == []


def test_a_retained_message_can_be_cleared(broker: BrokerProcess, topic: str) -> None:
    broadcaster = connect(broker)
    broadcaster.publish_retained(topic, "here")
    listener = Listener(broker, topic)
    assert listener.next() == (topic, "here")

    broadcaster.clear_retained(topic)

    assert listener.next() == (topic, "")
    listener.close()
    late = Listener(broker, topic)
    assert late.close() == []


def test_clearing_without_a_connection_is_done_at_the_next_one(
    broker: BrokerProcess, topic: str
) -> None:
    connect(broker).publish_retained(topic, "left behind")
    shutdown_broadcaster()
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    broadcaster.clear_retained(topic)
    assert isinstance(broadcaster, MQTTBroadcaster)
    assert broadcaster.wait_connected(WAIT_SECONDS)
    assert broadcaster.publish_tracked(f"{topic}/sync", "").result(WAIT_SECONDS)

    assert Listener(broker, topic).close() == []


WILL = """
import sys, time
from cl_ml_tools import get_broadcaster
broadcaster = get_broadcaster("mqtt", "127.0.0.1", int(sys.argv[1]))
if sys.argv[3] == "late":
    assert broadcaster.wait_connected(10)
broadcaster.set_will(sys.argv[2], "", retain=True)
broadcaster.publish_retained(sys.argv[2], "alive")
time.sleep(60)
"""


@pytest.mark.parametrize("order", ["early", "late"])
def test_the_will_is_published_when_the_process_vanishes(
    broker: BrokerProcess, topic: str, order: str
) -> None:
    listener = Listener(broker, topic)
    process = subprocess.Popen([sys.executable, "-c", WILL, str(broker.port), topic, order])
    try:
        assert listener.next() == (topic, "alive")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert listener.next() == (topic, "")
    listener.close()


def test_a_clean_end_does_not_publish_the_will(broker: BrokerProcess, topic: str) -> None:
    listener = Listener(broker, topic)
    broadcaster = get_broadcaster("mqtt", broker.host, broker.port)
    broadcaster.set_will(topic, "vanished")
    assert isinstance(broadcaster, MQTTBroadcaster)
    assert broadcaster.wait_connected(WAIT_SECONDS)
    broadcaster.publish_event(topic=topic, payload="said before the end")
    shutdown_broadcaster()

    assert listener.next() == (topic, "said before the end")
    assert listener.close() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_has_a_connection_of_its_own(broker: BrokerProcess, topic: str) -> None:
    listener = Listener(broker, topic)
    parents = connect(broker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for the threads
        child = os.fork()
    if child == 0:
        childs = get_broadcaster("mqtt", broker.host, broker.port)
        was_connected = parents.connected or childs is parents
        connected = childs.wait_connected(WAIT_SECONDS)
        childs.publish_event(topic=topic, payload=f"child {was_connected} {connected}")
        shutdown_broadcaster()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert listener.next() == (topic, "child False True")

    assert parents.connected
    assert parents.publish_event(topic=topic, payload="parent")
    assert listener.next() == (topic, "parent")
    listener.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_has_none_of_what_its_parent_lets_wait(
    fragile_broker: BrokerProcess, topic: str
) -> None:
    parents = get_broadcaster("mqtt", fragile_broker.host, fragile_broker.port)
    assert isinstance(parents, MQTTBroadcaster)
    waiting = parents.publish_tracked(topic, "parent")
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for the threads
        child = os.fork()
    if child == 0:
        os.read(reading, 1)
        acknowledged = parents.publish_tracked(topic, "child").result(WAIT_SECONDS)
        os._exit(0 if acknowledged else 1)
    shutdown_broadcaster()
    assert waiting.result(0) is False
    fragile_broker.start()
    listener = Listener(fragile_broker, topic)
    os.write(writing, b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert listener.next() == (topic, "child")
    assert listener.close() == []
    os.close(reading)
    os.close(writing)


def test_without_the_extra_one_line_names_it(tmp_path: Path) -> None:
    (tmp_path / "paho").mkdir()
    (tmp_path / "paho" / "__init__.py").write_text("raise ImportError('not installed')")
    code = (
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "from cl_ml_tools import get_broadcaster, MQTTBroadcaster, shutdown_broadcaster\n"
        "broadcaster = get_broadcaster('mqtt', 'localhost', 1883)\n"
        "broadcaster.publish_event(topic='a', payload='b')\n"
        "print(type(broadcaster).__name__); shutdown_broadcaster()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "NoOpBroadcaster"
    (line,) = done.stderr.strip().splitlines()
    assert "cl-server-shared[mqtt]" in line
