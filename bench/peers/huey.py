"""Huey on SQLite: its own table, a result per task; finished tasks leave no other trace."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..samples import PARAMS, TASK_OUTPUT, Sample
from .peer import Peer, PeerQueue, SteppedQueue

__all__ = ["HueyPeer"]


class HueyPeer(Peer):
    """`SqliteHuey`; work is done as its consumer's worker does it: dequeue, then execute.

    Args:
        synchronous: SQLite's, `NORMAL` or `FULL`.
    """

    name = "huey"
    distribution = "huey"
    module = "huey"
    database = "sqlite"
    writes = "1 row inserted and deleted, 1 result inserted; no history, no events"
    keeps_finished = False

    def __init__(self, synchronous: str) -> None:
        self._synchronous = synchronous

    def create(self, address: str, sample: Sample) -> None:
        """Make its tables and the jobs that wait."""
        queue = _HueyQueue(address, self._synchronous)
        queue.add_many(sample.waiting)
        queue.close()

    def open(self, address: str) -> PeerQueue:
        """Open its file."""
        return _HueyQueue(address, self._synchronous)


class _HueyQueue(SteppedQueue):
    def __init__(self, folder: str, synchronous: str) -> None:
        from huey import SqliteHuey

        logging.getLogger("huey").setLevel(logging.WARNING)
        self._huey = SqliteHuey("bench", filename=str(Path(folder) / "huey.db"), timeout=10)
        # `fsync` knows only OFF and FULL: so the pragma by hand, on its one connection.
        self._huey.storage.conn.execute(f"PRAGMA synchronous={synchronous}")

        @self._huey.task()
        def resize(params: dict[str, Any]) -> dict[str, Any]:
            return TASK_OUTPUT

        self._resize = resize

    def add_one(self) -> None:
        """Add a job."""
        self._resize(PARAMS)

    def add_many(self, count: int) -> None:
        """Add jobs in the way that is meant for many."""
        for _ in range(count):  # it has no way to add many
            self._resize(PARAMS)

    def take(self) -> Any:
        """Take the next job."""
        return self._huey.dequeue()

    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""
        self._huey.execute(taken)

    def close(self) -> None:
        """Close what is open."""
        self._huey.storage.close()
