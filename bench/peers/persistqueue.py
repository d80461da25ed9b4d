"""persist-queue's acknowledged queue on SQLite: one table, acknowledged rows stay until cleared."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from ..samples import PARAMS, Sample
from .peer import Peer, PeerQueue, SteppedQueue

__all__ = ["PersistQueuePeer"]

_FILL = """
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
    INSERT INTO ack_queue_default (data, timestamp, status) SELECT :data, n, 0 FROM numbers
"""


class PersistQueuePeer(Peer):
    """`SQLiteAckQueue`: put, get, ack; the one of its queues that survives a worker's end.

    Args:
        synchronous: SQLite's, `NORMAL` or `FULL`.
    """

    name = "persist-queue"
    distribution = "persist-queue"
    module = "persistqueue"
    database = "sqlite"
    writes = "1 row inserted, updated twice; no result, no events"
    # Each `get` reads all that was acknowledged: 100,000 of them are for `clear_acked_data`.
    keeps_finished = False
    # It reads the next item before it marks it: two processes would get the same one.
    is_shared = False

    def __init__(self, synchronous: str) -> None:
        self._synchronous = synchronous

    def create(self, address: str, sample: Sample) -> None:
        """Make its table, with waiting items."""
        import persistqueue.serializers.pickle as pickle

        self.open(address).close()
        if sample.waiting:
            values = {"count": sample.waiting, "data": pickle.dumps(PARAMS)}
            with sqlite3.connect(Path(address) / "data.db") as connection:
                connection.execute(_FILL, values)
            connection.close()

    def open(self, address: str) -> PeerQueue:
        """Open its folder."""
        return _PersistQueue(address, self._synchronous)


class _PersistQueue(SteppedQueue):
    def __init__(self, folder: str, synchronous: str) -> None:
        from persistqueue import SQLiteAckQueue

        self._queue = SQLiteAckQueue(folder)
        # It has no setting for this, and is to be measured as the others are.
        self._queue._putter.execute(f"PRAGMA synchronous={synchronous}")

    def add_one(self) -> None:
        """Add a job."""
        self._queue.put(PARAMS)

    def add_many(self, count: int) -> None:
        """Add jobs in the way that is meant for many."""
        for _ in range(count):  # it has no way to add many
            self._queue.put(PARAMS)

    def take(self) -> Any:
        """Take the next job."""
        from persistqueue.exceptions import Empty

        try:
            return self._queue.get(block=False, raw=True)
        except Empty:
            return None

    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""
        self._queue.ack(taken)

    def close(self) -> None:
        """Close what is open."""
        self._queue.close()
