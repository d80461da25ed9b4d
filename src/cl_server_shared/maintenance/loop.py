"""The loop that does a service's share of the maintenance, for as long as the service runs."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Optional

from ..duties import Duties, duty_lease_seconds
from ..errors import SharedError
from .plan import MaintenanceDuty, MaintenanceParts, plan_duties

__all__ = ["MaintenanceLoop"]

logger = logging.getLogger(__name__)

# Between two passes of a duty that is behind: others want the database, too.
BREATH_SECONDS = 0.5

RETRY_SECONDS = 5.0

# How long an end waits for passes that are under way, and for the broker.
STOP_SECONDS = 1.0
FLUSH_SECONDS = 0.5


class MaintenanceLoop:
    """Does each duty that no other process holds, on a thread per duty. Nothing in it raises.

    A process needs one. As a context manager it runs for the block.

    Args:
        parts: What the duties work with.
    """

    def __init__(self, parts: MaintenanceParts) -> None:
        self._parts = parts
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def __enter__(self) -> MaintenanceLoop:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin."""
        lease_seconds = duty_lease_seconds(self._parts.lease_seconds)
        duties = Duties(self._parts.database, lease_seconds)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=_Keeper(duty, duties, self._stopping).run,
                name=f"cl-{duty.name}",
                daemon=True,
            )
            for duty in plan_duties(self._parts)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give up every duty, so that others go on at once; a pass that takes long is left alone."""
        self._stopping.set()
        give_up_at = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        self._threads.clear()
        self._parts.flush_events(FLUSH_SECONDS)


class _Keeper:
    """Keeps one duty: takes it when it is free, and does a pass of it whenever it is time.

    not held ── free ──► held ── a pass, from time to time ──► held
        ▲                 │
        └── an error, not wanted here any more, taken by another, the end ──┘
    """

    def __init__(self, duty: MaintenanceDuty, duties: Duties, stopping: threading.Event) -> None:
        self._duty = duty
        self._duties = duties
        self._stopping = stopping
        self._next_at = 0.0
        self._is_failing = False

    def run(self) -> None:
        """Keep the duty until the end."""
        while not self._stopping.is_set():
            self._stopping.wait(self._attend())
        self._give_up()

    def _attend(self) -> float:
        """Do what is to be done now; return for how many seconds there is nothing more."""
        try:
            pause = self._attend_or_raise()
        except SharedError as error:
            if not self._is_failing:
                logger.warning("%s waits for the database: %s", self._duty.name, error)
            return self._fail()
        except Exception:  # it may do better elsewhere, or later
            if not self._is_failing:
                logger.exception("%s failed; trying again", self._duty.name)
            return self._fail()
        self._is_failing = False
        return pause

    def _attend_or_raise(self) -> float:
        duty = self._duty
        look_seconds = min(duty.every_seconds, self._duties.renewal_seconds)
        if not duty.is_wanted():
            self._duties.give_up(duty.name)
            return look_seconds
        if not self._duties.hold(duty.name) or time.monotonic() < self._next_at:
            return look_seconds
        done = duty.run()
        self._next_at = time.monotonic() + (0 if done.more else duty.every_seconds)
        if any(done.counts.values()):
            logger.info("%s: %s", duty.name, dict(done.counts))
        return BREATH_SECONDS if done.more else look_seconds

    def _fail(self) -> float:
        """Let another process try; what is wrong is said once until it is right again."""
        self._is_failing = True
        self._give_up()
        return RETRY_SECONDS

    def _give_up(self) -> None:
        try:
            self._duties.give_up(self._duty.name)
        except SharedError as error:  # it ends by itself
            logger.debug("the duty %s was not given up: %s", self._duty.name, error)
