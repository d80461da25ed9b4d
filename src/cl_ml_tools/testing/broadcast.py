"""A broadcaster that keeps what it is given."""

from __future__ import annotations

import json
from typing import Any

from ..broadcast import NoOpBroadcaster

__all__ = ["RecordingBroadcaster"]


class RecordingBroadcaster(NoOpBroadcaster):
    """A broadcaster that keeps what was published."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.retained: dict[str, str] = {}

    def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
        """Keep the event, parsed."""
        self.events.append(json.loads(payload))
        return True

    def publish_retained(self, topic: str, payload: str, qos: int = 1) -> None:
        """Keep the topic's retained message."""
        self.retained[topic] = payload

    def clear_retained(self, topic: str) -> None:
        """Forget the topic's retained message."""
        self.retained.pop(topic, None)
