"""Completions, many in one transaction: what completes while one is written goes with the next.

    complete ──► waiting ──► batch (one `complete_jobs`) ──► each attempt gets its own answer

With one job at a time nothing waits; with many short ones a commit serves several of them.
"""

from __future__ import annotations

import asyncio

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.protocols import Completion, WorkQueue

from .lane import Lane
from .lease import UNREACHABLE

__all__ = ["Completions"]


class Completions:
    """Writes the completions of all attempts of a worker.

    Args:
        queue: Where they are written.
        writes: The thread that writes.
    """

    def __init__(self, queue: WorkQueue, writes: Lane) -> None:
        self._queue = queue
        self._writes = writes
        self._waiting: list[tuple[Completion, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def complete(self, completion: Completion) -> None:
        """End a job as completed; when this returns, that is committed.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
            Exception: What the queue raised; called again, it says what became of the job.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((completion, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        while self._waiting:
            # Without those whose attempt does not wait any more: the worker ends.
            batch = [item for item in self._waiting if not item[1].done()]
            self._waiting = []
            await self._write_batch(batch)

    async def _write_batch(self, batch: list[tuple[Completion, asyncio.Future[None]]]) -> None:
        try:
            refused = await self._writes.call(
                self._queue.complete_jobs, [completion for completion, _ in batch]
            )
        except Exception as error:  # noqa: BLE001 - raised again in each attempt that waits for it
            if len(batch) > 1 and not isinstance(error, UNREACHABLE):
                for item in batch:  # one of them is at fault: it shall not cost the others theirs
                    await self._write_batch([item])
                return
            for _, written in batch:
                if not written.done():
                    written.set_exception(error)
            return
        for completion, written in batch:
            if written.done():
                continue
            if completion.claim in refused:
                written.set_exception(ClaimLost(completion.claim.job_id))
            else:
                written.set_result(None)
