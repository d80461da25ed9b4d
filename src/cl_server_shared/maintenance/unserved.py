"""Telling operators of task types that wait and that no worker runs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Callable

from cl_ml_tools.broadcast import to_json

from ..config import Config
from ..outbox import EventPublisher
from ..statistics import JobStatistics

__all__ = ["UNSERVED_SECONDS", "UnservedWatch"]

logger = logging.getLogger(__name__)

# A worker that restarts, or is still loading its modules, is no news.
UNSERVED_SECONDS = 10.0


@dataclass
class _Seen:
    """A task type that nobody serves: since when, and whether that was told."""

    since: float
    is_told: bool = False


class UnservedWatch:
    """Says once that a type waits in vain, and once that it no longer does.

    Each is a log line and a message on `{MQTT_TOPIC}/unserved`. For one process at a time: whoever
    holds the duty of counting.

    Args:
        statistics: Says what waits.
        broadcaster: What messages are published with.
        monotonic: Seconds that never step, for tests.
    """

    def __init__(
        self,
        statistics: JobStatistics,
        broadcaster: EventPublisher,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._statistics = statistics
        self._broadcaster = broadcaster
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}

    def look(self) -> None:
        """Look at what waits now, and tell what has changed for long enough."""
        now = self._monotonic()
        unserved = {each.task_type: each for each in self._statistics.list_unserved_types()}
        for task_type, each in unserved.items():
            seen = self._seen.setdefault(task_type, _Seen(now))
            if now - seen.since < UNSERVED_SECONDS:
                continue
            if not seen.is_told:
                seen.is_told = True
                waited = each.oldest_waiting_seconds
                logger.warning(
                    "jobs of the task %r wait and no worker runs it; the first for %.0f s",
                    task_type,
                    waited,
                )
                self._publish("unserved", task_type, oldest_waiting_seconds=waited)
        for task_type in self._seen.keys() - unserved.keys():
            if self._seen.pop(task_type).is_told:
                logger.warning("no job of the task %r waits in vain any more", task_type)
                self._publish("served", task_type)

    def _publish(self, event_type: str, task_type: str, **more: Any) -> None:
        message = {
            "event_type": event_type,
            "task_type": task_type,
            "timestamp": time.time_ns() // 1_000_000,
            **more,
        }
        self._broadcaster.publish_event(
            topic=f"{Config.MQTT_TOPIC}/unserved", payload=to_json(message), qos=1
        )
