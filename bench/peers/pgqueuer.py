"""PgQueuer on PostgreSQL: a queue's row moves to a log; a worker logs what it did in batches."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from datetime import timedelta
from typing import Any

from ..samples import PARAMS, Sample
from .peer import Drained, Peer, PeerQueue, SteppedQueue

__all__ = ["PgQueuerPeer"]

_ENTRYPOINT = "resize"
_PAYLOAD = json.dumps(PARAMS).encode()
_STALE_AFTER = timedelta(seconds=30)  # its own default

_FILL_FINISHED = """
    INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority, aggregated)
    SELECT n, kind::pgqueuer_status, 'resize', 0, TRUE
    FROM generate_series(1, %(count)s) AS n, unnest(ARRAY['queued', 'successful']) AS kind
"""
_FILL_WAITING = """
    INSERT INTO pgqueuer (priority, entrypoint, payload, status)
    SELECT 0, 'resize', '{"width": 512}', 'queued' FROM generate_series(1, %(count)s)
"""


class PgQueuerPeer(Peer):
    """Its queries to add, its `PgQueuer` in drain mode to work.

    Args:
        batch_size: How many jobs its worker takes, and logs, at once.
    """

    distribution = "pgqueuer"
    module = "pgqueuer"
    needs = ("asyncpg",)  # its own first choice, and with psycopg a query waits for its listener
    database = "postgresql"
    writes = "1 row inserted, updated, deleted, a log row each for queued and done; no result"

    def __init__(self, batch_size: int) -> None:
        self.name = f"PgQueuer, batches of {batch_size}"
        self._batch_size = batch_size

    def create(self, address: str, sample: Sample) -> None:
        """Make its schema, with logged and waiting jobs."""
        import psycopg

        queue = _PgQueuerQueue(address, self._batch_size)
        queue.install()
        queue.close()
        with psycopg.connect(address, autocommit=True) as connection:
            if sample.finished:
                connection.execute(_FILL_FINISHED, {"count": sample.finished})
            if sample.waiting:
                connection.execute(_FILL_WAITING, {"count": sample.waiting})
            connection.execute("VACUUM ANALYZE")

    def open(self, address: str) -> PeerQueue:
        """Open a connection on an event loop of this process."""
        return _PgQueuerQueue(address, self._batch_size)


class _PgQueuerQueue(SteppedQueue):
    def __init__(self, address: str, batch_size: int) -> None:
        import asyncpg
        from pgqueuer.queries import Queries

        logging.getLogger("pgqueuer").setLevel(logging.WARNING)
        self._loop = asyncio.new_event_loop()
        self._batch_size = batch_size
        self._connection = self._loop.run_until_complete(asyncpg.connect(address))
        self._queries = Queries.from_asyncpg_connection(self._connection)
        self._queue_manager_id: Any = uuid.uuid4()

    def install(self) -> None:
        """Make its schema."""
        self._loop.run_until_complete(self._queries.install())

    def add_one(self) -> None:
        """Add a job."""
        self._loop.run_until_complete(self._queries.enqueue(_ENTRYPOINT, _PAYLOAD))

    def add_many(self, count: int) -> None:
        """Add jobs in the way that is meant for many."""
        self._loop.run_until_complete(
            self._queries.enqueue([_ENTRYPOINT] * count, [_PAYLOAD] * count, [0] * count)
        )

    def take(self) -> Any:
        """Take the next job."""
        from pgqueuer.ports.repository import EntrypointExecutionParameter
        from pgqueuer.types import QueueEntrypoint

        entrypoints = {
            QueueEntrypoint(_ENTRYPOINT): EntrypointExecutionParameter(concurrency_limit=0)
        }
        jobs = self._loop.run_until_complete(
            self._queries.dequeue(1, entrypoints, self._queue_manager_id, None, _STALE_AFTER)
        )
        return jobs[0] if jobs else None

    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""
        self._loop.run_until_complete(self._queries.log_jobs([(taken, "successful", None)]))

    def drain(self, at_most: int) -> Drained:
        """Take and finish jobs as its worker does."""
        return self._loop.run_until_complete(self._drain(at_most))

    async def _drain(self, at_most: int) -> Drained:
        from pgqueuer import PgQueuer
        from pgqueuer.types import QueueExecutionMode

        queries, done = self._noting_queries(), 0
        worker = PgQueuer(queries.driver, queries=queries)

        @worker.entrypoint(_ENTRYPOINT)
        async def resize(job: Any) -> None:
            nonlocal done
            done += 1
            if done == at_most:
                worker.qm.shutdown.set()

        await worker.qm.run(batch_size=self._batch_size, mode=QueueExecutionMode.drain)
        return Drained(done, queries.logged_at)

    def _noting_queries(self) -> Any:
        """Return its queries that note when jobs were logged, as stopping takes a while more."""
        from pgqueuer.queries import Queries

        class NotingQueries(Queries):
            logged_at = time.monotonic()

            async def log_jobs(self, job_status: Any) -> None:
                await super().log_jobs(job_status)
                self.logged_at = time.monotonic()

        return NotingQueries.from_asyncpg_connection(self._connection)

    def close(self) -> None:
        """Close what is open."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()
