"""The way of events to the broker: published after the commit, marked once acknowledged.

A job never waits for the broker. What the broker cannot take now waits here, in order, and goes
out when it is back; a row is marked only when the broker has acknowledged it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Optional, Protocol

from sqlalchemy.event import contains, listen
from sqlalchemy.orm import Session

from cl_ml_tools import MQTTBroadcaster, NoOpBroadcaster, get_broadcaster
from cl_ml_tools.broadcast import to_json

from .config import Config
from .database import Database
from .errors import SharedError
from .sql.events import MARK_ACKNOWLEDGED, is_recorded

__all__ = ["EventPublisher", "Outbox"]

logger = logging.getLogger(__name__)

# How many events wait here while the broker is away; older ones stay in the table alone.
MAX_WAITING = 10_000

# How many may be on their way to the broker: well below what the broadcaster takes at once.
MAX_IN_FLIGHT = 10_000

# How long acknowledgements gather before they are marked in one transaction.
MARK_EVERY_SECONDS = 0.2


class EventPublisher(Protocol):
    """Whatever events are published with: a broadcaster, or a test's own object."""

    def publish_event(self, topic: str, payload: str, qos: int = 1) -> Any:
        """Hand one message over; False where it was not taken."""
        ...


class Outbox:
    """Publishes committed events and marks those that the broker has acknowledged.

    Args:
        database: Where the event rows are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._broadcaster: Optional[EventPublisher] = None
        self._found: Optional[EventPublisher] = None
        self._found_by_pid = 0
        # `_lock` keeps what is sent in order. `_acks_lock` is taken on paho's thread, which holds
        # locks that sending needs too: nothing else is ever taken inside it.
        self._lock = threading.Lock()
        self._acks_lock = threading.Lock()
        self._marking_lock = threading.Lock()
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MAX_WAITING)
        self._in_flight = 0
        self._acknowledged: list[int] = []
        self._thread: Optional[threading.Thread] = None

    @property
    def broadcaster(self) -> EventPublisher:
        """What events are published with: the process's broadcaster, until it is replaced."""
        if self._broadcaster is not None:
            return self._broadcaster
        if self._found is None or self._found_by_pid != os.getpid():
            self._found = _process_broadcaster()
            self._found_by_pid = os.getpid()  # a forked child has one of its own
        return self._found

    @broadcaster.setter
    def broadcaster(self, broadcaster: EventPublisher) -> None:
        self._broadcaster = broadcaster

    @property
    def without_broker(self) -> bool:
        """Whether nobody will ever acknowledge: then rows are born acknowledged."""
        return type(self.broadcaster) is NoOpBroadcaster  # a recording one may derive from it

    def publish(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish events whose transaction is committed; never raises, never waits."""
        if not events or self.without_broker:
            return
        with self._lock:
            self._waiting.extend(events)
        self._send_waiting()
        if self._database.in_memory:
            self._mark()
        else:
            self._watch_acknowledgements()

    def publish_after_commit(self, session: Session, events: Sequence[dict[str, Any]]) -> None:
        """Publish events once the caller's transaction is committed; none that it rolled back."""

        session.info.setdefault(self, []).extend(events)
        if not contains(session, "after_commit", self._publish_committed):
            listen(session, "before_commit", self._keep_recorded)
            listen(session, "after_commit", self._publish_committed)

    def _keep_recorded(self, session: Session) -> None:
        """Forget the events of a savepoint, or of an earlier transaction, that was rolled back."""
        if session.in_nested_transaction() or not session.info.get(self):
            return
        with self._database.joined(session) as transaction:
            session.info[self] = [
                event for event in session.info[self] if is_recorded(transaction, event)
            ]

    def _publish_committed(self, session: Session) -> None:
        if not session.in_nested_transaction():
            events = session.info.pop(self, [])
            self.publish(list({event["event_id"]: event for event in events}.values()))

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all is acknowledged and marked, or the time is over; return whether it is."""
        give_up = time.monotonic() + timeout_seconds
        while self._busy() and time.monotonic() < give_up:
            self._send_waiting()
            time.sleep(0.01)
        return self._mark() and not self._busy()

    def _busy(self) -> bool:
        with self._acks_lock:
            return bool(self._waiting or self._in_flight or self._acknowledged)

    def _send_waiting(self) -> None:
        broadcaster = self.broadcaster
        if isinstance(broadcaster, MQTTBroadcaster) and not broadcaster.connected:
            broadcaster.connect()
            return
        with self._lock:
            while self._waiting and self._in_flight < MAX_IN_FLIGHT:
                if not self._send(broadcaster, self._waiting[0]):
                    return
                self._waiting.popleft()

    def _send(self, broadcaster: EventPublisher, event: dict[str, Any]) -> bool:
        """Hand one event over; False where the connection was lost just now: it waits on."""
        topic, payload, event_id = Config.MQTT_TOPIC, to_json(event), event["event_id"]
        if isinstance(broadcaster, MQTTBroadcaster) and event_id is not None:
            future = broadcaster.publish_tracked(topic, payload)
            if future.done() and not future.result() and not broadcaster.connected:
                return False
            with self._acks_lock:
                self._in_flight += 1
            future.add_done_callback(partial(self._on_done, event_id))
            return True
        try:
            taken = broadcaster.publish_event(topic=topic, payload=payload, qos=1)
        except Exception:  # a caller's own object must not fail the job
            logger.exception("publishing an event of job %s failed", event["job_id"])
            return True
        if taken is not False and event_id is not None:
            with self._acks_lock:
                self._acknowledged.append(event_id)
        return True

    def _on_done(self, event_id: int, future: Future[bool]) -> None:
        acknowledged = not future.cancelled() and future.exception() is None and future.result()
        with self._acks_lock:
            self._in_flight -= 1
            if acknowledged:
                self._acknowledged.append(event_id)

    def _watch_acknowledgements(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a fork leaves it behind
                self._thread = threading.Thread(target=self._run, name="cl-outbox", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Mark what is acknowledged until nothing is left to wait for."""
        while True:
            with self._lock:
                if not self._busy():
                    self._thread = None
                    return
            time.sleep(MARK_EVERY_SECONDS)
            self._send_waiting()
            self._mark()

    def _mark(self) -> bool:
        """Mark what is acknowledged; False where the database does not take it now."""
        with self._marking_lock:
            with self._acks_lock:
                event_ids = list(self._acknowledged)
            if not event_ids:
                return True
            try:
                with self._database.transaction() as transaction:
                    transaction.run(MARK_ACKNOWLEDGED, {"event_ids": json.dumps(event_ids)})
            except SharedError as error:
                logger.warning("events stay unmarked until the next try: %s", error)
                return False
            with self._acks_lock:
                del self._acknowledged[: len(event_ids)]
            return True


def _process_broadcaster() -> EventPublisher:
    return get_broadcaster(
        Config.BROADCAST_TYPE,
        Config.MQTT_BROKER,
        Config.MQTT_PORT,
        username=Config.MQTT_USERNAME,
        password=Config.MQTT_PASSWORD,
        tls=Config.MQTT_TLS,
    )
