"""What may end an attempt from outside while it runs: the memory it takes, a wish to cancel it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from cl_ml_tools.protocols import WorkQueue

from .attempt import Attempt
from .lane import Lane
from .lease import UNREACHABLE
from .memory import tree_memory_bytes

__all__ = ["watch_cancel_requests", "watch_memory"]

logger = logging.getLogger(__name__)

# A module that takes a gigabyte a second is caught within a fifth of one.
MEMORY_LOOK_SECONDS = 0.2

# Who cancels a job waits for its end; a look is one read by an index.
CANCEL_LOOK_SECONDS = 0.3

MEBIBYTE = 1024**2


async def watch_memory(running: Callable[[], Collection[Attempt]], limit_bytes: int) -> None:
    """End attempts whose processes hold more memory than they may, until it is cancelled.

    Args:
        running: Returns the attempts to look at.
        limit_bytes: How much one may hold.
    """
    while True:
        await asyncio.sleep(MEMORY_LOOK_SECONDS)
        for attempt in running():
            held = tree_memory_bytes(attempt.child.pid) if attempt.child is not None else 0
            if held > limit_bytes:
                attempt.fail(
                    f"it took {held // MEBIBYTE} MiB of memory, more than the "
                    f"{limit_bytes // MEBIBYTE} MiB that it may take (WORKER_JOB_MEMORY_BYTES)",
                    "crash",
                )


async def watch_cancel_requests(
    running: Callable[[], Collection[Attempt]], queue: WorkQueue, lane: Lane
) -> None:
    """End attempts whose jobs somebody wants cancelled, until it is cancelled itself.

    While nothing runs the queue is left alone.

    Args:
        running: Returns the attempts to look after.
        queue: What is asked.
        lane: The thread on which it is asked.
    """
    while True:
        await asyncio.sleep(CANCEL_LOOK_SECONDS)
        if not running():
            continue
        try:
            wanted = await lane.call(queue.cancel_requests)
        except UNREACHABLE as error:
            logger.debug("nobody knows whether a job is to be cancelled: %s", error)
            continue
        for attempt in running():
            if attempt.claimed.claim in wanted:
                attempt.cancel()
