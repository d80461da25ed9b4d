"""The way of events to the broker: published after the commit, marked once acknowledged.

A job never waits for the broker. What the broker cannot take now waits in the broadcaster, in
order; a row is marked only when the broker has acknowledged it, and what nobody marks is
republished by the relay (`maintenance.relay`).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Optional, Protocol
from weakref import WeakKeyDictionary

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

# How long acknowledgements gather before they are marked in one transaction.
MARK_EVERY_SECONDS = 0.2

# When the database did not take the marks.
RETRY_SECONDS = 1.0

# Per database of this process: the events that need no relay, since they are on their way from
# here, or were and nobody can take them. A forked child has published nothing yet.
_published: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_published.clear)


class EventPublisher(Protocol):
    """Whatever events are published with: a broadcaster, or a test's own object."""

    def publish_event(self, topic: str, payload: str, qos: int) -> Any:
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
        self._start_anew()

    def _start_anew(self) -> None:
        # `_acks_lock` is taken on paho's thread, which holds locks that sending needs too: nothing
        # else is ever taken inside it.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._acks_lock = threading.Lock()
        self._marking_lock = threading.Lock()
        self._in_flight = 0
        self._acknowledged: list[int] = []
        self._settled = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def _after_fork(self) -> None:
        """Leave to the parent what the parent published."""
        if self._pid != os.getpid():
            self._found = None
            self._start_anew()

    @property
    def broadcaster(self) -> EventPublisher:
        """What events are published with: the process's broadcaster, until it is replaced."""
        if self._broadcaster is not None:
            return self._broadcaster
        self._after_fork()  # a forked child has one of its own
        if self._found is None:
            self._found = _process_broadcaster()
        return self._found

    @broadcaster.setter
    def broadcaster(self, broadcaster: EventPublisher) -> None:
        self._broadcaster = broadcaster

    @property
    def without_broker(self) -> bool:
        """Whether nobody will ever acknowledge: then rows are born acknowledged."""
        return type(self.broadcaster) is NoOpBroadcaster  # a recording one may derive from it

    @property
    def connected(self) -> bool:
        """Whether the broker would get a message now; an object that is no client always may."""
        broadcaster = self.broadcaster
        return not isinstance(broadcaster, MQTTBroadcaster) or broadcaster.connected

    def connect(self) -> None:
        """Start connecting in the background, where there is a broker."""
        broadcaster = self.broadcaster
        if isinstance(broadcaster, MQTTBroadcaster):
            broadcaster.connect()

    def wait_connected(self, timeout_seconds: float) -> bool:
        """Connect, and wait until that is done or the time is over; return whether it is."""
        broadcaster = self.broadcaster
        if isinstance(broadcaster, MQTTBroadcaster):
            broadcaster.wait_connected(timeout_seconds)
        return self.connected

    def publish(self, events: Sequence[dict[str, Any]]) -> None:
        """Publish events whose transaction is committed; never raises, never waits."""
        if not events or self.without_broker:
            return
        self._after_fork()
        broadcaster = self.broadcaster
        for event in events:
            self._publish(broadcaster, event)
        if self._database.in_memory:
            self._mark()
        else:
            self._watch_acknowledgements()

    def published(self) -> frozenset[int]:
        """Return the unmarked events that need no relay: this process has published them itself."""
        return frozenset(self._published)

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
        """Wait until all that was published is acknowledged and marked; return whether it is.

        Args:
            timeout_seconds: How long to wait at most.
        """
        self._after_fork()
        give_up = time.monotonic() + timeout_seconds
        while self._in_flight and time.monotonic() < give_up:
            time.sleep(0.01)
        return self._mark() and not self._busy()

    @property
    def _published(self) -> set[int]:
        return _published.setdefault(self._database.bind, set())

    def _busy(self) -> bool:
        with self._acks_lock:
            return bool(self._in_flight or self._acknowledged)

    def _publish(self, broadcaster: EventPublisher, event: dict[str, Any]) -> None:
        topic, payload, event_id = Config.MQTT_TOPIC, to_json(event), event["event_id"]
        if isinstance(broadcaster, MQTTBroadcaster):
            if event_id is not None:
                with self._acks_lock:
                    self._in_flight += 1
                self._published.add(event_id)
                future = broadcaster.publish_tracked(topic, payload)
                # At once, and with a connection: it can never be sent. The relay need not try.
                is_refused = future.done() and not future.result() and broadcaster.connected
                future.add_done_callback(partial(self._on_done, event_id, is_refused))
            elif broadcaster.connected:  # progress that waited would be none any more
                broadcaster.publish_event(topic=topic, payload=payload)
            return
        try:
            taken = broadcaster.publish_event(topic=topic, payload=payload, qos=1)
        except Exception:  # a caller's own object must not fail the job
            logger.exception("publishing an event of job %s failed", event["job_id"])
            return
        if taken is not False and event_id is not None:
            with self._acks_lock:
                self._acknowledged.append(event_id)
            self._settled.set()

    def _on_done(self, event_id: int, is_refused: bool, future: Future[bool]) -> None:
        acknowledged = future.result()
        with self._acks_lock:
            self._in_flight -= 1
            if acknowledged:
                self._acknowledged.append(event_id)
        if not acknowledged and not is_refused:
            self._published.discard(event_id)  # dropped, as too much waited: the relay's now
        self._settled.set()

    def _watch_acknowledgements(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cl-outbox", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Mark what is acknowledged until nothing is left to wait for."""
        while True:
            with self._lock:
                if not self._busy():
                    self._thread = None
                    return
            self._settled.wait()
            self._settled.clear()
            time.sleep(MARK_EVERY_SECONDS)
            if not self._mark():
                time.sleep(RETRY_SECONDS)
                self._settled.set()

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
            self._published.difference_update(event_ids)
            self._settled.set()
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
