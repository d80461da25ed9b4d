"""The relay: what stays unacknowledged is republished, so that no event is lost, whatever dies."""

from __future__ import annotations

import time
from typing import Callable

from ..database import Database
from ..outbox import Outbox
from ..sql.events import read_unacknowledged
from .passes import Pass

__all__ = ["SteadyConnection", "any_stranded", "relay_events"]

# Whoever made a younger event is just publishing it.
MIN_AGE_MS = 5_000

EVENTS_AT_ONCE = 200
EVENTS_PER_PASS = 2_000

# After a broker came back every process sends what it let wait; what is left then is the dead's.
STEADY_SECONDS = 3.0


class SteadyConnection:
    """Says whether the broker has been there for a moment; connects where it has not.

    Args:
        outbox: What would publish.
        monotonic: Seconds that never step.
    """

    def __init__(self, outbox: Outbox, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._outbox = outbox
        self._monotonic = monotonic
        self._since = float("inf")

    def __call__(self) -> bool:
        """Return whether relaying would reach the broker, and would not be too early."""
        now = self._monotonic()
        self._outbox.connect()
        self._since = min(self._since, now) if self._outbox.connected else float("inf")
        return now - self._since >= STEADY_SECONDS


def relay_events(database: Database, outbox: Outbox, *, min_age_ms: int = MIN_AGE_MS) -> Pass:
    """Publish again what no broker has acknowledged, in the order of its ids; nothing while it is away.

    Args:
        database: Where the events are.
        outbox: Publishes them, and marks them once they are acknowledged.
        min_age_ms: How old they must be.
    """
    relayed, after, page_is_full = 0, 0, True
    while page_is_full and relayed < EVENTS_PER_PASS and outbox.connected:
        published = outbox.published()  # before the look: an event may be marked during it
        with database.reading() as transaction:
            events = read_unacknowledged(transaction, after, EVENTS_AT_ONCE, min_age_ms)
        stranded = [event for event in events if event["event_id"] not in published]
        outbox.publish(stranded)
        relayed += len(stranded)
        page_is_full = len(events) == EVENTS_AT_ONCE
        after = events[-1]["event_id"] if events else after
    return Pass({"events_relayed": relayed}, more=relayed >= EVENTS_PER_PASS)


def any_stranded(database: Database, outbox: Outbox) -> bool:
    """Return whether there is something to relay, were the broker there."""
    if outbox.without_broker:
        return False
    with database.reading() as transaction:
        return bool(read_unacknowledged(transaction, 0, 1, MIN_AGE_MS))
