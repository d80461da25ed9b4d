"""The worker's lease: while it is renewed the worker's claims are its own.

    not held ── register ──► held ── renewed in time, claims compared ──► held
        ▲                     │
        └── not known any more, or not renewed in time: every child is killed ──┘

The worker lets go of its jobs before others may take them: a lease counts from the moment at
which its renewal began, by a clock that nobody sets, and a margin before its end it counts as lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

from cl_ml_tools.protocols import Claim, WorkQueue
from cl_server_shared.errors import SharedError

from .lane import Lane
from .reconciliation import Comparison, compare_claims

__all__ = ["UNREACHABLE", "Lease"]

logger = logging.getLogger(__name__)

# What a queue raises when its database, or the store behind it, cannot be used for the moment.
UNREACHABLE = (SharedError, OSError)

RENEWALS_PER_LEASE = 3
MAX_MARGIN_SECONDS = 10.0
RETRY_SECONDS = 1.0


class Lease:
    """The lease of one worker.

    Args:
        queue: Where it is registered.
        label: `WORKER_ID`.
        capabilities: The JSON Schema of the parameters per task type.
        concurrency: Jobs at once.
        lease_seconds: How long a lease is good for.
        running: Returns the claims of the jobs that run now.
        on_extended: Called with the time, by `time.monotonic`, until which jobs may go on.
        on_taken_away: Called with claims that the database does not know any more.
        on_lost: Called when the claims can no longer be relied on.
    """

    def __init__(
        self,
        queue: WorkQueue,
        *,
        label: str,
        capabilities: Mapping[str, dict[str, Any]],
        concurrency: int,
        lease_seconds: float,
        running: Callable[[], Set[Claim]],
        on_extended: Callable[[float], None],
        on_taken_away: Callable[[Set[Claim]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.instance_id: int | None = None
        self._queue = queue
        self._label = label
        self._capabilities = capabilities
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._running = running
        self._on_extended = on_extended
        self._on_taken_away = on_taken_away
        self._on_lost = on_lost
        self._lane = Lane("lease")
        self._expiry: asyncio.TimerHandle | None = None
        self._seen = Comparison()
        self._given_back: Set[Claim] = frozenset()

    @property
    def held(self) -> bool:
        """Whether claims can be made and relied on."""
        return self.instance_id is not None

    def covers(self, claim: Claim) -> bool:
        """Return whether a claim was made under the lease that is held now, and is still held.

        One that was given back because its answer did not come may still come.
        """
        return claim.instance_id == self.instance_id and claim not in self._given_back

    async def keep(self) -> None:
        """Register and renew, until it is cancelled."""
        while True:
            try:
                if self.held:
                    await self._renew()
                else:
                    await self._register()
            except UNREACHABLE as error:
                logger.warning("the lease cannot be renewed, trying again: %s", error)
                await asyncio.sleep(min(RETRY_SECONDS, self._lease_seconds / 10))
            else:
                await asyncio.sleep(self._lease_seconds / RENEWALS_PER_LEASE if self.held else 0)

    async def release(self) -> None:
        """Give back what is still claimed, and end the instance."""
        if self.held:
            self._end()
            await self._lane.call(self._queue.release_instance)

    async def _register(self) -> None:
        began = time.monotonic()
        instance_id = await self._lane.call(
            self._queue.register_instance, self._label, self._capabilities, self._concurrency
        )
        self.instance_id = instance_id
        self._seen, self._given_back = Comparison(), frozenset()
        self._extend(began)
        logger.info("registered as instance %s of %r", instance_id, self._label)

    async def _renew(self) -> None:
        began, instance_id, ran = time.monotonic(), self.instance_id, self._running()
        known = await self._lane.call(self._queue.renew_lease, len(ran))
        if instance_id != self.instance_id:
            return  # it counted as lost before the answer came
        if known is None:
            self._lose("the database does not know this worker's instance any more")
            return
        self._extend(began)
        self._seen = compare_claims(known, ran=ran, run=self._running(), before=self._seen)
        if self._seen.taken_away:
            self._on_taken_away(self._seen.taken_away)
        await self._give_back(self._seen.never_came)

    async def _give_back(self, never_came: Set[Claim]) -> None:
        """Give back jobs whose claim this worker never heard of: nobody would run them."""
        if never_came:
            self._given_back |= never_came  # first: an answer that comes now comes too late
            await self._lane.call(self._queue.give_back_jobs, list(never_came))
            logger.warning("%d jobs whose claim got lost were given back", len(never_came))

    def _extend(self, began: float) -> None:
        margin = min(MAX_MARGIN_SECONDS, self._lease_seconds / 3)
        until = began + self._lease_seconds - margin
        if self._expiry is not None:
            self._expiry.cancel()
        loop = asyncio.get_running_loop()  # its clock is `time.monotonic`, too
        self._expiry = loop.call_at(until, self._lose, "it could not be renewed in time")
        self._on_extended(until)

    def _lose(self, reason: str) -> None:
        logger.error("the lease is lost, every running job is ended: %s", reason)
        self._end()
        self._on_lost()

    def _end(self) -> None:
        self.instance_id = None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
