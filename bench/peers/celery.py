"""Celery on Redis: lists and result keys in memory, no disk is waited for; beside, not equal.

Its worker takes and finishes jobs by itself, so a cycle is: send, and wait for the result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..samples import PARAMS, TASK_OUTPUT, Sample
from .peer import Drained, Peer, PeerQueue

__all__ = ["ADDRESS_VARIABLE", "BEGAN_VARIABLE", "CeleryPeer", "make_app"]

# Where the worker's own process finds the Redis database that is used.
ADDRESS_VARIABLE = "CL_BENCH_CELERY_REDIS"

# Where it writes when each job begins, if anywhere.
BEGAN_VARIABLE = "CL_BENCH_CELERY_BEGAN"

_SECONDS = 60

_QUEUE = "celery"


class CeleryPeer(Peer):
    """Its worker is a process of its own, with as many children as work on the other side."""

    name = "Celery on Redis"
    distribution = "celery"
    module = "celery"
    needs = ("redis",)
    database = "redis"
    writes = "1 list entry pushed and popped, 1 result key; in memory, no history, no events"
    keeps_finished = False
    rounds_at_most = 2  # its worker takes seconds to start and to stop

    def create(self, address: str, sample: Sample) -> None:
        """Have nothing to make: Redis has no tables, and a running worker would take what waits."""

    def open(self, address: str) -> PeerQueue:
        """Connect."""
        return _CeleryQueue(address)

    @contextmanager
    def served(self, address: str, processes: int) -> Iterator[None]:
        """Run its worker."""
        celery = [sys.executable, "-m", "celery", "-A", "bench.peers.celery_worker"]
        options = ["worker", "--loglevel", "ERROR", "--concurrency", str(processes)]
        environment = {**os.environ, ADDRESS_VARIABLE: address}
        quiet = subprocess.DEVNULL
        worker = subprocess.Popen([*celery, *options], env=environment, stdout=quiet, stderr=quiet)
        try:
            # Not from this process, which forks those that add: kombu would hang in them.
            give_up = time.monotonic() + _SECONDS
            ping = [*celery, "inspect", "ping"]
            while subprocess.run(ping, env=environment, stdout=quiet, stderr=quiet).returncode:
                if time.monotonic() > give_up:
                    raise TimeoutError("Celery's worker did not come up")
            yield
        finally:
            worker.terminate()
            worker.wait(_SECONDS)


class _CeleryQueue(PeerQueue):
    def __init__(self, address: str) -> None:
        import redis

        self._app = make_app(address)
        self._task = self._app.tasks["resize"]
        self._redis = redis.Redis.from_url(address)
        self._is_worked_on = True

    def add_one(self) -> None:
        """Add a job; nothing is worked on while jobs are added, until the queue is drained."""
        self._stop_working()
        self._task.delay(PARAMS)

    def add_many(self, count: int) -> None:
        """Add jobs as a group."""
        from celery import group

        self._stop_working()
        group(self._task.s(PARAMS) for _ in range(count)).apply_async()

    def cycle(self) -> None:
        """Send a job and wait for its result."""
        self._task.delay(PARAMS).get(timeout=_SECONDS)

    def drain(self, at_most: int) -> Drained:
        """Let the worker work until nothing waits."""
        self._app.control.add_consumer(_QUEUE)
        self._is_worked_on = True
        give_up = time.monotonic() + _SECONDS
        while self._redis.llen(_QUEUE) or self._redis.hlen("unacked"):
            if time.monotonic() > give_up:
                raise TimeoutError("Celery's worker did not drain the queue")
            time.sleep(0.002)
        return Drained(at_most, time.monotonic())

    def _stop_working(self) -> None:
        if self._is_worked_on:
            self._app.control.cancel_consumer(_QUEUE)
            self._is_worked_on = False

    def close(self) -> None:
        """Close what is open."""
        self._redis.close()
        self._app.close()


def make_app(address: str) -> Any:
    """Return the app, as its first steps have it: Redis as broker and for results."""
    from celery import Celery

    app = Celery("bench", broker=address, backend=address)

    @app.task(name="resize", shared=False)
    def resize(params: dict[str, Any]) -> dict[str, Any]:
        return TASK_OUTPUT

    return app
