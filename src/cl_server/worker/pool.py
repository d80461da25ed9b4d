"""As many children as the worker's concurrency: warm, each replaced as soon as it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .process import Child, ChildEnded, InstalledModules, ModulesUnusable

__all__ = ["ChildPool"]

logger = logging.getLogger(__name__)

# A child that ends while it loads the modules will mostly do so again.
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0


class ChildPool:
    """The children of one worker.

    Args:
        size: How many.
        spawn: Starts one.
        on_change: Called whenever a child has become idle or has ended.
    """

    def __init__(
        self, size: int, *, spawn: Callable[[], Child], on_change: Callable[[], None]
    ) -> None:
        self.size = size
        self._spawn = spawn
        self._on_change = on_change
        self._children: set[Child] = set()
        self._idle: list[Child] = []
        self._lease_until: float | None = None
        self._first: asyncio.Future[Child] = asyncio.get_running_loop().create_future()

    @property
    def idle_count(self) -> int:
        """How many children could be given a job now."""
        return sum(child.alive for child in self._idle)

    async def keep(self) -> None:
        """Keep all children alive, until it is cancelled."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self.size):
                slots.create_task(self._keep_child())

    async def describe(self) -> InstalledModules:
        """Return what is installed, as the first child that is ready has found it.

        Raises:
            ChildEnded: It could not start.
            ModulesUnusable: Two distributions serve one task type.
        """
        return await (await self._first).describe()

    def take(self, task_type: str) -> Child | None:
        """Return an idle child, one that has run the task before where there is one."""
        idle = [child for child in self._idle if child.alive]
        if not idle:
            return None
        # Else the one that has loaded least, so that the children specialise.
        child = min(idle, key=lambda c: (task_type not in c.task_types, len(c.task_types)))
        self._idle.remove(child)
        self._on_change()
        return child

    def put_back(self, child: Child) -> None:
        """Make a child idle again, unless it has ended meanwhile."""
        if child.alive:
            self._idle.append(child)
            self._on_change()

    def extend_lease(self, until: float) -> None:
        """Tell every child until when jobs may go on, by `time.monotonic`."""
        self._lease_until = until
        for child in self._children:
            child.extend_lease(until)

    def collect_ended(self) -> None:
        """Notice which children have ended; called for every SIGCHLD."""
        for child in list(self._children):
            child.look_whether_ended()

    async def stop(self) -> None:
        """Let every child end; `keep` must have been cancelled."""
        await asyncio.gather(*(child.stop() for child in self._children))

    async def _keep_child(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._run_child()
            except ModulesUnusable as error:
                self._fail_first(error)
                return
            except ChildEnded as error:
                self._fail_first(error)
                logger.error("a child process cannot start: %s; next try in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            else:
                pause = FIRST_PAUSE_SECONDS

    async def _run_child(self) -> None:
        """Start a child, and return when it has ended after it was ready."""
        child = self._spawn()
        self._children.add(child)
        try:
            await child.wait_ready()
            if self._lease_until is not None:
                child.extend_lease(self._lease_until)
            if not self._first.done():
                self._first.set_result(child)
            self.put_back(child)
            await child.wait_ended()
        finally:
            if child.has_ended:  # else this is the end of the worker: `stop` sees to it
                self._children.discard(child)
                if child in self._idle:
                    self._idle.remove(child)
                self._on_change()

    def _fail_first(self, error: Exception) -> None:
        if not self._first.done():
            self._first.set_exception(error)
            self._first.exception()  # seen: perhaps nobody has asked yet
