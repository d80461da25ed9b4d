"""The broadcaster that speaks MQTT 3.1.1, through paho: the only file that imports it.

Paho's own thread connects, reconnects and receives. Two rules keep what arrives in order and
bounded: nothing is handed to paho while it is disconnected, it waits here; and at a reconnect what
was not yet acknowledged is sent again from here, not by paho (which would send it after what is
newer), then what waited, then what is new.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional
from weakref import WeakSet

from ..errors import MissingExtra
from .base import MessageCallback
from .topics import check_address, check_filter, check_message
from .waiting import Message, UnacknowledgedMessages, WaitingMessages

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

__all__ = ["MQTTBroadcaster"]

logger = logging.getLogger(__name__)

MIN_RECONNECT_SECONDS = 1
MAX_RECONNECT_SECONDS = 2  # a try costs next to nothing, and events wait for it
KEEPALIVE_SECONDS = 30
SHUTDOWN_SECONDS = 2.0

# How many messages wait for a connection; with events about jobs, a few megabytes.
MAX_WAITING = 10_000

# MQTT's message ids are 16 bits; what the broker is too slow for waits as well.
MAX_UNACKNOWLEDGED = 20_000
MQTT_QUEUE_FULL = 15  # paho's MQTT_ERR_QUEUE_SIZE: it still uses the message id that came next


class MQTTBroadcaster:
    """A connection to an MQTT broker that opens itself again whenever it is lost.

    Its methods never raise for want of a broker and never wait for one, and may be called from
    any thread. A forked child's copy starts anew, with a connection of its own. After
    `disconnect` only `connect` opens it again.

    Args:
        broker: The broker's host.
        port: The broker's port.
        username: `None`: the broker asks for none.
        password: With the user name.
        tls: Whether to connect through TLS, checked against the system's certificates.

    Raises:
        MissingExtra: The `mqtt` extra is not installed.
        ValueError: No broker can have that address.
    """

    def __init__(
        self,
        broker: str,
        port: int,
        *,
        username: Optional[str] = None,
        password: Optional[str] = None,
        tls: bool = False,
    ) -> None:
        try:
            import paho.mqtt.client  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise MissingExtra("mqtt", "publishing to an MQTT broker") from error
        check_address(broker, port)
        self._broker = broker
        self._port = port
        self._username = username
        self._password = password
        self._tls = tls
        self._start_anew()
        _instances.add(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()  # orders what is handed to paho
        self._client: Optional[Client] = None
        self._closed = False
        self._online = threading.Event()
        self._said_down = False
        self._waiting = WaitingMessages(MAX_WAITING)
        self._unacknowledged = UnacknowledgedMessages()
        self._retained: dict[str, Message] = {}
        self._will: Optional[Message] = None
        self._callbacks: dict[str, list[MessageCallback]] = {}

    @property
    def connected(self) -> bool:
        """Whether a message would be handed over now."""
        return self._online.is_set()

    def connect(self) -> None:
        """Start connecting in the background; it goes on trying until `disconnect`."""
        with self._locked():
            self._closed = False
            self._open()

    def wait_connected(self, timeout_seconds: float) -> bool:
        """Connect, and wait until that is done or the time is over; return whether it is."""
        self.connect()
        return self._online.wait(timeout_seconds)

    def disconnect(self) -> None:
        """Wait at most two seconds for what is not yet acknowledged, then end the connection.

        What waited for a connection is dropped.
        """
        with self._lock:
            self._closed = True
            self._waiting.drop_all()
        self._drain()
        with self._lock:
            self._close()

    def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
        """Hand one message over; without a connection it waits for one here, in order.

        Returns:
            Whether it was handed over to a connection. False: it waits (do not repeat it; of
            10,000 the oldest is dropped), or it can never be sent: topic, payload or qos is
            none, which a line in the log says, or `disconnect` was called.
        """
        return self._publish(Message(topic, payload, qos, retain=False))

    def publish_tracked(self, topic: str, payload: str, qos: int = 1) -> Future[bool]:
        """Publish as `publish_event` does; return a future: True once the broker acknowledged it.

        It becomes False for what can never be sent, for what was dropped because too much waited,
        and at `disconnect` for what was not acknowledged by then. Its callbacks run on the
        connection's own thread, or on the caller's: they must not publish or wait.
        """
        message = Message(topic, payload, qos, retain=False)
        self._publish(message)
        return message.acknowledged

    def publish_retained(self, topic: str, payload: str, qos: int = 1) -> None:
        """Set a topic's retained message. The last one of each topic is sent at every (re)connect."""
        message = Message(topic, payload, qos, retain=True)
        if not message.can_be_sent():
            return
        with self._locked():
            self._retained[topic] = message
            self._open()
            if self._client is not None and self._online.is_set():
                self._send(self._client, message)
                if not payload:  # the topic is empty: whose it is from now on is not known here
                    del self._retained[topic]

    def clear_retained(self, topic: str) -> None:
        """Empty a topic's retained message, at the next connect where there is none now."""
        self.publish_retained(topic, "")

    def set_will(self, topic: str, payload: str, qos: int = 1, retain: bool = True) -> None:
        """Set what the broker publishes when this process vanishes.

        Call it before connecting: a connection that is open is ended and opened again with it.

        Raises:
            ValueError: It can never be published; nothing was changed.
        """
        check_message(topic, payload, qos)
        with self._lock:
            self._will = Message(topic, payload, qos, retain)
            if self._client is None:
                return
        self._drain()
        with self._lock:
            self._close()
            self._open()

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """Call `callback(topic, payload)` for each message; renewed at every reconnect.

        Args:
            topic: A topic, or a filter with `+` and `#`.
            callback: Runs on the connection's own thread, so it must not block.

        Raises:
            ValueError: The topic is none; nothing was changed.
        """
        check_filter(topic)
        with self._locked():
            self._callbacks.setdefault(topic, []).append(callback)
            self._open()
            if self._client is not None:
                self._client.message_callback_add(topic, self._deliver_for(topic))
                if self._online.is_set():
                    self._client.subscribe(topic, qos=1)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, then send what an acknowledgement that came meanwhile made room for."""
        with self._lock:
            yield
        self._send_waiting()

    def _publish(self, message: Message) -> bool:
        """Send a message, or let it wait; return whether it was sent."""
        sendable = message.can_be_sent()
        with self._locked():
            if self._closed or not sendable:
                message.settle(False)
                return False
            self._open()
            client = self._client if self._online.is_set() and not self._waiting else None
            if client is not None and self._has_room() and self._send(client, message):
                return True
            self._waiting.add(message)
            return False

    def _can_send_waiting(self) -> bool:
        return bool(self._waiting) and self._online.is_set() and self._has_room()

    def _has_room(self) -> bool:
        return len(self._unacknowledged) < MAX_UNACKNOWLEDGED

    def _send_waiting(self) -> None:
        """Hand over what waits, as much as there is room for, unless the lock's holder will."""
        # Never waited for: paho's thread comes here with a lock that the holder may wait for.
        while self._can_send_waiting() and self._lock.acquire(blocking=False):
            try:
                client = self._client
                if client is None or not self._can_send_waiting():
                    return
                if self._send(client, self._waiting.first):
                    self._waiting.remove_first()
            finally:
                self._lock.release()

    def _send(self, client: Client, message: Message) -> bool:
        """Give a message to paho; False where it has no id free. The caller holds `_lock`."""
        sent = client.publish(message.topic, message.payload, message.qos, message.retain)
        if sent.rc == MQTT_QUEUE_FULL:
            return False
        self._unacknowledged.add(sent.mid, message)
        return True

    def _open(self) -> None:
        """Make the client and its thread, once; the caller holds `_lock`."""
        if self._client is not None or self._closed:
            return
        self._client = self._make_client()
        self._client.connect_async(self._broker, self._port, keepalive=KEEPALIVE_SECONDS)
        self._client.loop_start()

    def _make_client(self) -> Client:
        from paho.mqtt.client import Client, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        # A broker ends the older of two connections with one id, so each start has its own.
        client_id = f"cl-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv311)
        client.reconnect_delay_set(MIN_RECONNECT_SECONDS, MAX_RECONNECT_SECONDS)
        client.max_inflight_messages_set(0)  # no limit: ours is MAX_UNACKNOWLEDGED
        client.username_pw_set(self._username, self._password)
        if self._tls:
            client.tls_set()
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        for topic in self._callbacks:
            client.message_callback_add(topic, self._deliver_for(topic))
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _drain(self) -> None:
        """Take nothing more, and wait briefly for what the broker has not acknowledged."""
        with self._lock:
            was_online = self._online.is_set()
            self._online.clear()
            pending = self._unacknowledged.futures()
        if was_online:
            wait(pending, timeout=SHUTDOWN_SECONDS)

    def _close(self) -> None:
        """End the client and its thread; the caller holds `_lock`."""
        client, self._client = self._client, None
        if client is None:
            return
        was_online = client.is_connected()
        self._online.clear()
        client.disconnect()
        # Without a connection paho's thread sleeps between two attempts; nobody need wait for that.
        stopping = threading.Thread(target=client.loop_stop, daemon=True)
        stopping.start()
        stopping.join(SHUTDOWN_SECONDS if was_online else 0.05)
        for message in self._unacknowledged.take_all():
            message.settle(False)

    def _on_connect(
        self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._say_down(f"refuses the connection ({reason}): see MQTT_USERNAME, MQTT_PASSWORD")
            return
        with self._lock:
            if client is not self._client:
                client.disconnect()  # it was ended while it was connecting
                return
            for topic in self._callbacks:
                client.subscribe(topic, qos=1)
            client.drop_out_messages()
            for message in self._unacknowledged.take_all():
                if not (message.retain and message.topic in self._retained):
                    self._send(client, message)
            for message in self._retained.values():
                self._send(client, message)
            self._retained = {t: kept for t, kept in self._retained.items() if kept.payload}
            while self._waiting and self._has_room() and self._send(client, self._waiting.first):
                self._waiting.remove_first()
            self._online.set()  # last: what is published from here on need not wait behind anything
        if self._said_down:
            logger.info("the broker at %s:%s is there again", self._broker, self._port)
            self._said_down = False

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._say_down("cannot be reached")

    def _on_disconnect(
        self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if client is self._client:
            self._online.clear()
            self._say_down(f"ended the connection ({reason})")

    def _on_publish(
        self, client: Client, _data: Any, message_id: int, _reason: Any, _properties: Any
    ) -> None:
        if client is self._client:
            self._unacknowledged.acknowledge(message_id)
            self._send_waiting()

    def _say_down(self, what: str) -> None:
        """Log that there is no connection, once until there is one again."""
        if not self._said_down:
            self._said_down = True
            logger.warning(
                "the broker at %s:%s %s; trying again by itself", self._broker, self._port, what
            )

    def _deliver_for(self, topic: str) -> Any:
        def deliver(_client: Client, _data: Any, message: MQTTMessage) -> None:
            payload = message.payload.decode("utf-8", "replace")
            for callback in list(self._callbacks.get(topic, ())):
                try:
                    callback(message.topic, payload)
                except Exception:  # raised into paho's loop it would end its thread
                    logger.exception("a subscriber to %r failed", topic)

        return deliver

    def _forget_parent(self) -> None:
        """Start anew in a forked child, without a word on the connection that is the parent's."""
        client = self._client
        self._start_anew()
        connection = client.socket() if client is not None else None
        if connection is not None:
            connection.close()  # else the broker would not see the parent die before the child


def _send_at_once(_client: Client, _data: Any, connection: Any) -> None:
    # Nagle's algorithm and delayed acknowledgements make some messages wait 40 ms otherwise.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_instances: WeakSet[MQTTBroadcaster] = WeakSet()


def _forget_parents() -> None:
    for broadcaster in list(_instances):
        broadcaster._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
