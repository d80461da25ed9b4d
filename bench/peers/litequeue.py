"""litequeue: one table, a message's row changes its status and stays until it is pruned."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from ..samples import PARAMS, Sample
from .peer import Peer, PeerQueue, SteppedQueue

__all__ = ["LitequeuePeer"]

_MESSAGE = json.dumps(PARAMS)

_FILL = """
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
    INSERT INTO [Queue] (data, message_id, status, in_time, lock_time, done_time)
    SELECT :data, printf('00000000-%08d', n), :status, n, n, n FROM numbers
"""


class LitequeuePeer(Peer):
    """`LiteQueue`; it sets WAL and synchronous=NORMAL by itself.

    Args:
        synchronous: SQLite's, `NORMAL` or `FULL`.
    """

    name = "litequeue"
    distribution = "litequeue"
    module = "litequeue"
    database = "sqlite"
    writes = "1 row inserted, updated twice; no result, no events"

    def __init__(self, synchronous: str) -> None:
        self._synchronous = synchronous

    def create(self, address: str, sample: Sample) -> None:
        """Make its table, with finished and waiting messages."""
        self.open(address).close()
        with sqlite3.connect(_file(address)) as connection:
            for count, status in ((sample.finished, 2), (sample.waiting, 0)):
                if count:
                    values = {"count": count, "data": _MESSAGE, "status": status}
                    connection.execute(_FILL, values)
        connection.close()

    def open(self, address: str) -> PeerQueue:
        """Open its file."""
        return _LiteQueue(address, self._synchronous)


class _LiteQueue(SteppedQueue):
    def __init__(self, folder: str, synchronous: str) -> None:
        from litequeue import LiteQueue

        self._queue = LiteQueue(_file(folder), timeout=10)
        self._queue.conn.execute(f"PRAGMA synchronous={synchronous}")

    def add_one(self) -> None:
        """Add a job."""
        self._queue.put(_MESSAGE)

    def add_many(self, count: int) -> None:
        """Add jobs in the way that is meant for many."""
        with self._queue.transaction():
            for _ in range(count):
                self._queue.put(_MESSAGE)

    def take(self) -> Any:
        """Take the next job."""
        return self._queue.pop()

    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""
        self._queue.done(taken.message_id)

    def close(self) -> None:
        """Close what is open."""
        self._queue.close()


def _file(folder: str) -> str:
    return str(Path(folder) / "litequeue.db")
