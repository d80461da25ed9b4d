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
from collections.abc import Callable, Coroutine, Sequence, Set
from typing import Any, TypeVar

from cl_ml_tools.broadcast import Broadcaster
from cl_ml_tools.errors import UnknownTask
from cl_ml_tools.protocols import Claim, ClaimedJob, FileStorage, WorkQueue

from .attempt import Attempt, Workplace
from .completions import Completions
from .lane import Lane
from .lease import UNREACHABLE, Lease
from .metrics import WorkerMetrics
from .pool import ChildPool
from .presence import Presence, PresenceSettings
from .process import Child, InstalledModules
from .settings import WorkerSettings
from .watching import watch_cancel_requests, watch_memory

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 1.0

# How long the last outcomes may take to be written, and the claims to be given back: no longer
# than who waits for the worker's end has patience beyond the grace time. A lease does the rest.
SETTLE_SECONDS = 2.0


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
        self._is_fetching = False
        self._background: list[asyncio.Task[None]] = []
        self._lease: Lease | None = None
        self._presence: Presence | None = None
        self._breakdown: BaseException | None = None
        self._metrics = WorkerMetrics()

    async def run(self) -> None:
        """Work until the end.

        Raises:
            UnknownTask: A task type of the settings is not installed.
            ModulesUnusable: Two distributions serve one task type.
            ChildEnded: No child can start.
            Exception: A part of the worker broke down; its claims end with its lease.
        """
        self._loop = asyncio.get_running_loop()
        self._pool = ChildPool(
            self._settings.concurrency, spawn=self._spawn, on_change=self._children_changed
        )
        self._listen_to_signals()
        self._stop_wish = asyncio.create_task(self._stopping.wait())
        self._in_background(self._pool.keep())
        with self._metrics.serving(self._settings.metrics_port):
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
            running=lambda: {attempt.claimed.claim for attempt in self._attempts},
            on_extended=self._lease_extended,
            on_taken_away=self._claims_taken_away,
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
            completions=Completions(self._queue, self._writes),
            covers=lease.covers,
            put_back=self._pool.put_back,
            default_timeout_seconds=self._settings.job_timeout_seconds,
            metrics=self._metrics,
        )
        for keeping in (
            lease.keep(),
            presence.keep(),
            watch_memory(self._attempts.keys, self._settings.job_memory_bytes),
            watch_cancel_requests(self._attempts.keys, self._queue, self._writes),
        ):
            self._in_background(keeping)
        logger.info(
            "worker %r runs %s, %d jobs at once",
            self._settings.worker_id,
            ", ".join(self._task_types) or "nothing: no task is installed",
            self._settings.concurrency,
        )

    async def _claim_jobs(self) -> None:
        """Claim and start jobs until it is time to stop."""
        is_idle = False
        while not self._stopping.is_set():
            free = self._free_children()
            if free == 0:
                await self._wait_for_change()
                continue
            try:
                claimed = await self._claim(free, wait=is_idle)
            except UNREACHABLE as error:
                logger.warning("no job can be claimed, trying again: %s", error)
                await self._unless_stopping(asyncio.sleep(RETRY_SECONDS))
                continue
            if self._settings.until == "once" or (
                self._settings.until == "drained" and not claimed and not self._attempts
            ):
                return
            is_idle = not claimed
            if is_idle and self._settings.until == "drained":
                await self._wait_for_change()  # the end of the last one is the end of all
                is_idle = False

    async def _claim(self, limit: int, *, wait: bool) -> list[ClaimedJob]:
        """Claim and start up to `limit` jobs, once there may be one or the poll interval is over.

        When it is time to stop, a claim that is under way may end.

        Args:
            limit: How many.
            wait: Whether nothing was there a moment ago.
        """
        self._is_fetching = False
        claiming = self._claims.call(self._fetch, limit, wait)
        await asyncio.wait((claiming, self._stop_wish), return_when=asyncio.FIRST_COMPLETED)
        if self._is_fetching:
            await asyncio.wait((claiming,), timeout=SETTLE_SECONDS)
        if claiming.done():
            return claiming.result()
        claiming.cancel()
        return []

    def _fetch(self, limit: int, wait: bool) -> list[ClaimedJob]:
        """Wait and claim, on the lane: going back to the event loop in between would take longer."""
        if wait:  # until there may be a job; releasing the instance ends it, too
            self._queue.wait_for_jobs(self._settings.poll_interval_seconds)
            limit = self._free_children()  # children, and the lease, may have ended meanwhile
        # Before the look at `_stopping`: one of the two sides sees the other.
        self._is_fetching = True
        if self._stopping.is_set():
            return []
        claimed = self._queue.fetch_next_jobs(self._task_types, limit)
        # Not left to who waits for this call: that is woken some rounds of the event loop later.
        self._loop.call_soon_threadsafe(self._start_all, claimed)
        return claimed

    def _free_children(self) -> int:
        if self._lease is None or not self._lease.held:
            return 0
        free = self._pool.idle_count
        return min(free, 1) if self._settings.until == "once" else free

    def _start_all(self, claimed: Sequence[ClaimedJob]) -> None:
        for job in claimed:
            try:
                self._start(job)
            except Exception as error:  # noqa: BLE001 - a mistake of ours, which must not go unseen
                self._break_down(error)

    def _start(self, claimed: ClaimedJob) -> None:
        if self._lease is None or not self._lease.covers(claimed.claim):
            logger.warning("the claim on job %s is lost already", claimed.job.job_id)
            return
        # Without a child it is given back at once.
        child = None if self._stopping.is_set() else self._pool.take(claimed.job.task_type)
        attempt = Attempt(claimed, child, self._place)
        attempt.begin()
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
        await asyncio.wait((task, self._stop_wish), return_when=asyncio.FIRST_COMPLETED)
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
        # A connection that is in use could not be closed, and SQLite's -wal file would stay.
        await self._claims.settle(SETTLE_SECONDS)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the loop."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._break_down_with)
        self._background.append(task)

    def _break_down_with(self, task: asyncio.Task[None]) -> None:
        """Stop the worker where a part of it ended with an error that nobody foresaw."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break_down(error)

    def _break_down(self, error: BaseException) -> None:
        """Stop the worker; what it claimed is not given back: it would break worker after worker."""
        self._breakdown = self._breakdown or error
        logger.critical("the worker cannot go on: %r", error)
        if not self._stopping.is_set():
            self.stop()

    def _spawn(self) -> Child:
        return Child.spawn(
            memory_bytes=self._settings.job_memory_bytes, log_level=self._settings.log_level
        )

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        self._loop.add_signal_handler(signal.SIGCHLD, self._pool.collect_ended)

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

    def _claims_taken_away(self, claims: Set[Claim]) -> None:
        for attempt in list(self._attempts):
            if attempt.claimed.claim in claims:
                attempt.drop()
