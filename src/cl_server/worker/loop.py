"""The worker's loop: claims as many jobs as children are idle, and gives each to one.

    starting ──► working ──► stopping (running jobs may go on for the grace time) ──► ended

Everything but calls to the queue happens on one event loop, so that what a child says is handled
at once, also while a claim waits for the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cl_ml_tools.broadcast import Broadcaster
from cl_ml_tools.errors import UnknownTask
from cl_ml_tools.protocols import ClaimedJob, FileStorage, WorkQueue

from .attempt import Attempt, Workplace
from .lane import Lane
from .lease import UNREACHABLE, Lease
from .memory import tree_memory_bytes
from .pool import ChildPool
from .presence import Presence, PresenceSettings
from .process import Child, InstalledModules
from .settings import WorkerSettings

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A module that takes a gigabyte a second is caught within a fifth of one.
MEMORY_LOOK_SECONDS = 0.2

RETRY_SECONDS = 1.0

# How long the last outcomes may take to be written, and the claims to be given back: no longer
# than who waits for the worker's end has patience beyond the grace time. A lease does the rest.
SETTLE_SECONDS = 2.0

MEBIBYTE = 1024**2


class Worker:
    """One worker: runs jobs until it is told to stop, or as `WorkerSettings.until` says.

    Args:
        settings: How it runs.
        queue: Where jobs come from and outcomes go.
        storage: Where job workspaces are.
        broadcaster: What its presence is published with.
        presence: Where its presence is published.
        on_ready: Called once, when it is about to claim its first job.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        queue: WorkQueue,
        storage: FileStorage,
        broadcaster: Broadcaster,
        presence: PresenceSettings,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._queue = queue
        self._storage = storage
        self._broadcaster = broadcaster
        self._presence_settings = presence
        self._attempts: dict[Attempt, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._claims = Lane("claims")
        self._writes = Lane("writes")
        self._background: list[asyncio.Task[None]] = []
        self._lease: Lease | None = None
        self._presence: Presence | None = None
        self._breakdown: BaseException | None = None

    async def run(self) -> None:
        """Work until the end.

        Raises:
            UnknownTask: A task type of the settings is not installed.
            ModulesUnusable: Two distributions serve one task type.
            ChildEnded: No child can start.
            Exception: A part of the worker broke down; its claims end with its lease.
        """
        self._pool = ChildPool(
            self._settings.concurrency, spawn=self._spawn, on_change=self._children_changed
        )
        self._listen_to_signals()
        self._in_background(self._pool.keep())
        try:
            installed = await self._unless_stopping(self._pool.describe())
            if installed is not None:
                self._prepare(installed)
                await self._claim_jobs()
                await self._finish_running()
        finally:
            await self._end()
        if self._breakdown is not None:
            raise self._breakdown

    def stop(self) -> None:
        """Stop claiming; running jobs get the grace time. A second call ends them at once."""
        if self._stopping.is_set():
            self._give_back_running()
            return
        running, grace = len(self._attempts), self._settings.grace_seconds
        logger.info("stopping; %d jobs run and have %g seconds to end", running, grace)
        self._stopping.set()
        self._children_changed()

    def _prepare(self, installed: InstalledModules) -> None:
        """Choose what to run, and start what goes on beside the loop."""
        for problem in installed.broken:
            logger.error("%s", problem)
        wanted = self._settings.task_types or tuple(installed.capabilities)
        for task_type in wanted:
            if task_type not in installed.capabilities:
                raise UnknownTask(task_type, list(installed.capabilities))
        self._task_types = list(wanted)
        lease = self._lease = Lease(
            self._queue,
            label=self._settings.worker_id,
            capabilities={name: installed.capabilities[name] for name in wanted},
            concurrency=self._settings.concurrency,
            lease_seconds=self._settings.lease_seconds,
            count_running=lambda: len(self._attempts),
            on_extended=self._lease_extended,
            on_lost=self._lease_lost,
        )
        presence = self._presence = Presence(
            self._broadcaster,
            self._presence_settings,
            task_types=self._task_types,
            concurrency=self._settings.concurrency,
            count_idle=lambda: 0 if self._stopping.is_set() else self._pool.idle_count,
            instance_id=lambda: lease.instance_id,
        )
        self._place = Workplace(
            queue=self._queue,
            storage=self._storage,
            writes=self._writes,
            covers=lease.covers,
            put_back=self._pool.put_back,
            default_timeout_seconds=self._settings.job_timeout_seconds,
        )
        for keeping in (lease.keep(), presence.keep(), self._watch_memory()):
            self._in_background(keeping)
        logger.info(
            "worker %r runs %s, %d jobs at once",
            self._settings.worker_id,
            ", ".join(self._task_types) or "nothing: no task is installed",
            self._settings.concurrency,
        )

    async def _claim_jobs(self) -> None:
        """Claim and start jobs until it is time to stop."""
        while not self._stopping.is_set():
            free = self._free_children()
            if free == 0:
                await self._wait_for_change()
                continue
            try:
                claimed = await self._claim(free)
            except UNREACHABLE as error:
                logger.warning("no job can be claimed, trying again: %s", error)
                await self._unless_stopping(asyncio.sleep(RETRY_SECONDS))
                continue
            for job in claimed:
                self._start(job)
            if self._settings.until == "once" or (
                self._settings.until == "drained" and not claimed and not self._attempts
            ):
                return
            if not claimed and self._settings.until == "drained":
                await self._wait_for_change()  # the end of the last one is the end of all
            elif not claimed:
                await self._wait_for_jobs()

    async def _claim(self, limit: int) -> list[ClaimedJob]:
        """Claim up to `limit` jobs; when it is time to stop, the claim that is under way may end."""
        claim = self._claims.call(self._queue.fetch_next_jobs, self._task_types, limit)
        claiming = asyncio.create_task(claim)
        await self._unless_stopping(asyncio.wait((claiming,)))
        await asyncio.wait((claiming,), timeout=SETTLE_SECONDS)
        return claiming.result() if claiming.done() else []

    def _free_children(self) -> int:
        if self._lease is None or not self._lease.held:
            return 0
        free = self._pool.idle_count
        return min(free, 1) if self._settings.until == "once" else free

    def _start(self, claimed: ClaimedJob) -> None:
        if self._lease is None or not self._lease.covers(claimed.claim):
            logger.warning("job %s was claimed under a lease that is lost", claimed.job.job_id)
            return
        # Without a child it is given back at once.
        child = None if self._stopping.is_set() else self._pool.take(claimed.job.task_type)
        attempt = Attempt(claimed, child, self._place)
        task = self._attempts[attempt] = asyncio.create_task(attempt.run())
        task.add_done_callback(lambda _: self._ended(attempt))

    def _ended(self, attempt: Attempt) -> None:
        self._break_down_with(self._attempts.pop(attempt))
        self._changed.set()

    async def _wait_for_change(self) -> None:
        """Sleep until a child is idle again, the lease is held again, or it is time to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_interval_seconds):
                await self._changed.wait()
        self._changed.clear()

    async def _wait_for_jobs(self) -> None:
        """Sleep until something may have been added, or it is time to stop."""
        interval = self._settings.poll_interval_seconds
        try:
            await self._unless_stopping(self._claims.call(self._queue.wait_for_jobs, interval))
        except UNREACHABLE as error:
            logger.warning("the queue cannot be watched, trying again: %s", error)
            await self._unless_stopping(asyncio.sleep(RETRY_SECONDS))

    async def _finish_running(self) -> None:
        """Let running jobs go on; once it is time to stop, for the grace time."""
        running = list(self._attempts.values())
        if running:
            await self._unless_stopping(asyncio.wait(running))
            await asyncio.wait(running, timeout=self._settings.grace_seconds)

    async def _give_back_rest(self) -> None:
        """Give back what still runs, and wait briefly until the last outcomes are written."""
        self._give_back_running()
        running = list(self._attempts.values())
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=SETTLE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _unless_stopping(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what some work returns, or `None` as soon as it is time to stop."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            return task.result()
        task.cancel()
        return None

    def _give_back_running(self) -> None:
        for attempt in list(self._attempts):
            attempt.give_back()

    async def _end(self) -> None:
        """Leave nothing behind: no child, no claim, no presence."""
        self._stopping.set()
        await self._give_back_rest()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._pool.stop()
        if self._lease is not None and self._breakdown is None:
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._lease.release()
            except (*UNREACHABLE, TimeoutError) as error:
                logger.warning("the instance stays until its lease runs out: %s", error)
        if self._presence is not None:
            await self._presence.clear()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the loop."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._break_down_with)
        self._background.append(task)

    def _break_down_with(self, task: asyncio.Task[None]) -> None:
        """Stop the worker where a part of it ended with an error that nobody foresaw.

        What it claimed is not given back then: it would go on to break worker after worker.
        """
        if task.cancelled() or task.exception() is None:
            return
        self._breakdown = self._breakdown or task.exception()
        logger.critical("the worker cannot go on: %r", task.exception())
        if not self._stopping.is_set():
            self.stop()

    def _spawn(self) -> Child:
        return Child.spawn(
            memory_bytes=self._settings.job_memory_bytes, log_level=self._settings.log_level
        )

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGCHLD, self._pool.collect_ended)

    def _children_changed(self) -> None:
        self._changed.set()
        if self._presence is not None:
            self._presence.idle_changed()

    def _lease_extended(self, until: float) -> None:
        self._pool.extend_lease(until)
        self._changed.set()
        if self._on_ready is not None:
            call, self._on_ready = self._on_ready, None
            call()

    def _lease_lost(self) -> None:
        for attempt in list(self._attempts):
            attempt.drop()

    async def _watch_memory(self) -> None:
        """End jobs whose processes hold more memory than they may."""
        limit = self._settings.job_memory_bytes
        while True:
            await asyncio.sleep(MEMORY_LOOK_SECONDS)
            for attempt in self._attempts:
                held = tree_memory_bytes(attempt.child.pid) if attempt.child is not None else 0
                if held > limit:
                    attempt.fail(
                        f"it took {held // MEBIBYTE} MiB of memory, more than the "
                        f"{limit // MEBIBYTE} MiB that it may take (WORKER_JOB_MEMORY_BYTES)"
                    )
