"""Another client of the broker, which keeps the events that it hears."""

from __future__ import annotations

import json
import os
from typing import Any

from broker_process import BrokerProcess
from cl_ml_tools import MQTTBroadcaster

__all__ = ["EventListener"]


class EventListener:
    """Listens from its making on.

    Args:
        broker: Where.
        with_progress: Whether progress is kept, which is no row of the database.

    Attributes:
        events: What it heard, in order.
    """

    def __init__(self, broker: BrokerProcess, *, with_progress: bool = False) -> None:
        self.events: list[dict[str, Any]] = []
        self.client = MQTTBroadcaster(broker.host, broker.port)
        self._with_progress = with_progress
        self.client.subscribe(os.environ["MQTT_TOPIC"], self._hear)
        assert self.client.wait_connected(20)
        assert self.client.publish_tracked("sync", "").result(20)

    def ids(self) -> list[int]:
        """Return the ids of the events."""
        return [event["event_id"] for event in self.events]

    def of(self, job_id: str) -> list[str]:
        """Return what was heard of one job."""
        return [event["event_type"] for event in self.events if event["job_id"] == job_id]

    def _hear(self, _topic: str, payload: str) -> None:
        event = json.loads(payload)
        if self._with_progress or event["event_id"] is not None:
            self.events.append(event)
