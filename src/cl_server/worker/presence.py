"""The worker's presence: a retained message that says what it runs and how much is idle.

It stands on `{prefix}/{worker_id}` and is emptied by the last will, or at a clean stop. Several
workers may share a worker id: whoever started later finds the topic taken by another that lives,
and stands beside it on `{prefix}/{worker_id}-{process id}`.

The first last will is the command line's to set, before the connection is made: set later, it
costs that connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cl_ml_tools.broadcast import Broadcaster

__all__ = ["Presence", "PresenceSettings"]

logger = logging.getLogger(__name__)

# Long enough for a broker to send what is retained, short enough not to be missed.
LOOK_SECONDS = 0.3

# A change of the number of idle children is told soon, but no more often than this.
MIN_INTERVAL_SECONDS = 0.5

# What keeps a child busy goes to that child first.
GATHER_SECONDS = 0.02

# A message that was not renewed for this many heartbeats is of a worker that is gone.
FRESH_HEARTBEATS = 3


@dataclass(frozen=True)
class PresenceSettings:
    """Where and how often a worker tells of itself.

    Attributes:
        topic_prefix: `CAPABILITY_TOPIC_PREFIX`.
        worker_id: What people call it.
        heartbeat_seconds: How often it says that it is there.
    """

    topic_prefix: str
    worker_id: str
    heartbeat_seconds: float

    @property
    def topic(self) -> str:
        """Where the message stands, unless another worker's does."""
        return f"{self.topic_prefix}/{self.worker_id}"


class Presence:
    """The presence of one worker.

    Args:
        broadcaster: What publishes it.
        settings: Where and how often.
        task_types: What the worker runs.
        concurrency: Jobs at once.
        count_idle: Returns how many more jobs it could run now.
        instance_id: Returns the instance as which it is registered.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        settings: PresenceSettings,
        *,
        task_types: Sequence[str],
        concurrency: int,
        count_idle: Callable[[], int],
        instance_id: Callable[[], int | None],
    ) -> None:
        self._broadcaster = broadcaster
        self._settings = settings
        self._task_types = list(task_types)
        self._concurrency = concurrency
        self._count_idle = count_idle
        self._instance_id = instance_id
        self._name = settings.worker_id
        self._started_at = _now_ms()
        # Not the worker's instance id, which changes when its lease was lost.
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._published: int | None = None
        self._news = asyncio.Event()
        self._moving: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def topic(self) -> str:
        """Where the message stands."""
        return f"{self._settings.topic_prefix}/{self._name}"

    def idle_changed(self) -> None:
        """Say that the number of idle children may have changed."""
        if self._count_idle() != self._published:
            self._news.set()

    async def keep(self) -> None:
        """Publish the presence, until it is cancelled."""
        loop = asyncio.get_running_loop()

        def take(topic: str, payload: str) -> None:  # on the broadcaster's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._look_at, topic, payload)

        await asyncio.to_thread(self._broadcaster.subscribe, self.topic, take)
        await asyncio.sleep(LOOK_SECONDS)
        while True:
            if self._moving is not None:
                await self._moving
            self._news.clear()
            self._publish()
            await asyncio.sleep(MIN_INTERVAL_SECONDS)
            # Not `wait_for`, which on 3.11 swallows a cancellation that comes together with news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.heartbeat_seconds):
                    await self._news.wait()
                    await asyncio.sleep(GATHER_SECONDS)

    async def clear(self) -> None:
        """Empty the topic: the worker ends."""
        self._ended = True
        await asyncio.to_thread(self._broadcaster.clear_retained, self.topic)

    def _publish(self) -> None:
        self._published = self._count_idle()
        message = {
            "worker_id": self._name,
            "id": self._name,
            "capabilities": self._task_types,
            "idle_count": self._published,
            "concurrency": self._concurrency,
            "instance": self._instance_id(),
            "process": self._process,
            "started_at": self._started_at,
            "timestamp": _now_ms(),
        }
        self._broadcaster.publish_retained(self.topic, json.dumps(message))

    def _look_at(self, topic: str, payload: str) -> None:
        """Leave the topic to another worker that lives and was there first, else keep it."""
        if topic != self.topic or self._ended:
            return
        other = _parse(payload)
        if other is None:
            if not payload and self._published is not None:  # another one that left has emptied it
                self._news.set()
            return
        age_ms = _now_ms() - other["timestamp"]
        if (
            other["process"] == self._process
            or age_ms > FRESH_HEARTBEATS * self._settings.heartbeat_seconds * 1000
        ):
            return
        if (other["started_at"], other["process"]) < (self._started_at, self._process):
            self._moving = asyncio.create_task(self._move())
        self._news.set()

    async def _move(self) -> None:
        """Go on beside the other worker, with a last will to match."""
        taken, self._name = self.topic, f"{self._settings.worker_id}-{os.getpid()}"
        logger.warning("another worker is shown as %r: this one as %r", taken, self.topic)
        if self._published is not None:  # over the other's message; who then puts it back
            await asyncio.to_thread(self._broadcaster.clear_retained, taken)
        await asyncio.to_thread(self._broadcaster.set_will, self.topic, "")


def _parse(payload: str) -> dict[str, Any] | None:
    """Return a presence message; `None` for what is none, or comes from another kind of worker."""
    try:
        message = json.loads(payload)
    except ValueError:
        return None
    wanted = {"process": str, "started_at": int, "timestamp": int}
    if not isinstance(message, dict):
        return None
    return message if all(isinstance(message.get(k), t) for k, t in wanted.items()) else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
