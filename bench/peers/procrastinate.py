"""Procrastinate on PostgreSQL: a job's row stays, triggers write an event for each change."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ..samples import PARAMS, Sample
from .peer import Drained, Peer, PeerQueue, SteppedQueue

__all__ = ["ProcrastinatePeer"]

# A worker's coroutines that run at once, as its page on concurrency has it for short async tasks.
_CONCURRENCY = 10

_PATIENCE_SECONDS = 10

_FILL_FINISHED = """
    INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, attempts)
    SELECT 'default', 'resize', '{"width": 512}', 'succeeded', 1 FROM generate_series(1, %(count)s)
"""
_FILL_EVENTS = """
    INSERT INTO procrastinate_events (job_id, type)
    SELECT id, kind::procrastinate_job_event_type
    FROM procrastinate_jobs, unnest(ARRAY['started', 'succeeded']) AS kind
    WHERE status = 'succeeded'
"""
_FILL_WAITING = """
    INSERT INTO procrastinate_jobs (queue_name, task_name, args)
    SELECT 'default', 'resize', '{"params": {"width": 512}}' FROM generate_series(1, %(count)s)
"""


class ProcrastinatePeer(Peer):
    """Its asynchronous app and worker, which keep finished jobs unless told otherwise."""

    name = "Procrastinate"
    distribution = "procrastinate"
    module = "procrastinate"
    database = "postgresql"
    writes = "1 row inserted, updated twice, 3 events; no result"

    def create(self, address: str, sample: Sample) -> None:
        """Make its schema, with finished and waiting jobs."""
        import psycopg
        from procrastinate import App, SyncPsycopgConnector

        with App(connector=SyncPsycopgConnector(conninfo=address)).open() as app:
            app.schema_manager.apply_schema()
        with psycopg.connect(address, autocommit=True) as connection:
            if sample.finished:
                connection.execute(_FILL_FINISHED, {"count": sample.finished})
                connection.execute(_FILL_EVENTS)
            if sample.waiting:
                connection.execute(_FILL_WAITING, {"count": sample.waiting})
            connection.execute("VACUUM ANALYZE")

    def open(self, address: str) -> PeerQueue:
        """Open its app on an event loop of this process."""
        return _ProcrastinateQueue(address)


class _ProcrastinateQueue(SteppedQueue):
    def __init__(self, address: str) -> None:
        from procrastinate import App, PsycopgConnector

        logging.getLogger("procrastinate").setLevel(logging.WARNING)
        self._loop = asyncio.new_event_loop()
        self._app = App(connector=PsycopgConnector(conninfo=address))
        self._left = 0
        self._worker: asyncio.Task[None] | None = None
        self._loop.run_until_complete(self._app.open_async())
        manager = self._app.job_manager
        self._worker_id = self._loop.run_until_complete(manager.register_worker())

        @self._app.task(name="resize")
        async def resize(params: dict[str, Any]) -> None:
            self._left -= 1
            if self._left == 0 and self._worker is not None:
                self._worker.cancel()  # it lets what runs end

        self._resize = resize

    def add_one(self) -> None:
        """Add a job."""
        self._loop.run_until_complete(self._resize.defer_async(params=PARAMS))

    def add_many(self, count: int) -> None:
        """Add jobs in the way that is meant for many."""
        jobs = [{"params": PARAMS}] * count
        self._loop.run_until_complete(self._resize.batch_defer_async(*jobs))

    def take(self) -> Any:
        """Take the next job."""
        manager = self._app.job_manager
        return self._loop.run_until_complete(manager.fetch_job(None, self._worker_id))

    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""
        from procrastinate.jobs import Status

        manager = self._app.job_manager
        self._loop.run_until_complete(
            manager.finish_job(taken, status=Status.SUCCEEDED, delete_job=False)
        )

    def drain(self, at_most: int) -> Drained:
        """Take and finish jobs as its worker does."""
        return self._loop.run_until_complete(self._drain(at_most))

    async def _drain(self, at_most: int) -> Drained:
        self._left = at_most
        self._worker = asyncio.create_task(
            self._app.run_worker_async(
                wait=False, concurrency=_CONCURRENCY, install_signal_handlers=False
            )
        )
        # Once in a while it does not end when it is told to as it begins: then it is told again.
        while not (await asyncio.wait([self._worker], timeout=_PATIENCE_SECONDS))[0]:
            self._worker.cancel()
        self._worker = None
        return Drained(at_most - self._left, time.monotonic())

    def close(self) -> None:
        """Close what is open."""
        manager = self._app.job_manager
        self._loop.run_until_complete(manager.unregister_worker(self._worker_id))
        self._loop.run_until_complete(self._app.close_async())
        self._loop.close()
