"""One attempt of one job, from its claim to its end.

    prepare ──► run in a child ──► settle: completed | failed | given back | dropped

A child may be killed under an attempt: for its time or memory (the attempt has failed), because
the worker stops (the job is given back at no cost), or because the claim is lost (it is dropped:
whoever holds the job now decides). The child is dead before the job is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.executor import Outcome
from cl_ml_tools.protocols import Claim, ClaimedJob, FileStorage, WorkQueue
from cl_ml_tools.workspace import discard_attempt, publish_attempt, start_attempt
from cl_server.logs import bind_log_context

from .lane import Lane
from .lease import UNREACHABLE
from .process import Child

__all__ = ["Attempt", "Workplace"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Four times a second: as smooth as an eye wants it, and no load on the database.
PROGRESS_SECONDS = 0.25

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

MAX_ERROR_CHARACTERS = 2000


@dataclass(frozen=True)
class Workplace:
    """What every attempt of a worker works with.

    Attributes:
        queue: Where outcomes are written.
        storage: Where the job's files are.
        writes: The thread that writes.
        covers: Whether a claim was made under the lease that is held now.
        put_back: Takes the child when the attempt no longer needs it.
        default_timeout_seconds: For a job that has none of its own.
    """

    queue: WorkQueue
    storage: FileStorage
    writes: Lane
    covers: Callable[[Claim], bool]
    put_back: Callable[[Child], None]
    default_timeout_seconds: float


class _Fate(Enum):
    """What becomes of the job when the child has ended."""

    SETTLED = auto()
    GIVEN_BACK = auto()
    DROPPED = auto()


class Attempt:
    """One attempt of a claimed job.

    Args:
        claimed: The job and its claim.
        child: What runs it, put back when it is free again; `None`: there is none any more, and
            the job is given back.
        place: What the attempt works with.

    Attributes:
        child: What runs it; `None` once it has ended.
    """

    def __init__(self, claimed: ClaimedJob, child: Child | None, place: Workplace) -> None:
        self.claimed = claimed
        self.child = child
        self._place = place
        self._fate = _Fate.GIVEN_BACK if child is None else _Fate.SETTLED
        self._job_path: Path | None = None
        self._progress = self._written_progress = 0
        self._progress_writer: asyncio.Task[None] | None = None
        self._child_done = asyncio.Event()

    async def run(self) -> None:
        """Run the job and write how it ended."""
        with bind_log_context(job_id=self.claimed.job.job_id):
            try:
                outcome = await self._run()
            finally:
                self._free_child()
            try:
                await self._settle(outcome)
            except ClaimLost:
                logger.warning("the claim was lost: what this attempt did is discarded")
                await self._discard()
            except UNREACHABLE as error:
                logger.error("the outcome cannot be written, the job will run again: %s", error)
                await self._discard()

    def give_back(self) -> None:
        """Kill the child and queue the job again at no cost: the worker stops."""
        self._end(_Fate.GIVEN_BACK, "the worker stopped")

    def drop(self) -> None:
        """Kill the child and write nothing: the claim is lost."""
        self._end(_Fate.DROPPED, "the claim on the job was lost")

    def fail(self, reason: str) -> None:
        """Kill the child; the attempt has failed.

        Args:
            reason: The sentence that becomes the job's error.
        """
        self._end(_Fate.SETTLED, reason)

    def _end(self, fate: _Fate, reason: str) -> None:
        if self.child is not None and self.child.alive:  # else its end is decided already
            self._fate = fate
            self.child.kill(reason)

    async def _run(self) -> Outcome:
        """Run the job in the child; what keeps it from running is an outcome, too."""
        job, number = self.claimed.job, self.claimed.attempt
        if self.child is None:
            return Outcome(ok=False)
        logger.info("%s: attempt %d begins", job.task_type, number)
        try:
            self._job_path = self._place.storage.get_job_path(job.job_id)
            output_path = await asyncio.to_thread(start_attempt, self._job_path, number)
        except ValueError as error:  # a job added through the library may have any id
            return Outcome(ok=False, error=str(error), retryable=False)
        except OSError as error:
            return Outcome(ok=False, error=f"the job's folder cannot be made: {error}")
        limit = self.claimed.timeout_seconds or self._place.default_timeout_seconds
        reason = f"it took longer than the {limit:g} seconds that it may take"
        timer = asyncio.get_running_loop().call_later(limit, self.fail, reason)
        try:
            return await self.child.run(
                job,
                job_path=self._job_path,
                output_path=output_path,
                on_progress=self._take_progress,
            )
        finally:
            timer.cancel()

    def _free_child(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            self._place.put_back(child)

    def _take_progress(self, progress: int) -> None:
        self._progress = progress
        if self._progress_writer is None or self._progress_writer.done():
            self._progress_writer = asyncio.create_task(self._write_progress())

    async def _write_progress(self) -> None:
        """Write the newest progress, now and then the last one, for as long as there is news."""
        while self._written_progress != self._progress and self._fate is _Fate.SETTLED:
            progress = self._written_progress = self._progress
            try:
                await self._place.writes.call(
                    self._place.queue.report_progress, self.claimed.claim, progress
                )
            except ClaimLost:
                self.drop()
            except UNREACHABLE as error:
                logger.debug("progress %d is not stored: %s", progress, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_SECONDS):
                    await self._child_done.wait()

    async def _settle(self, outcome: Outcome) -> None:
        """Write how the attempt ended.

        Raises:
            ClaimLost: The claim is not held any more.
            SharedError, OSError: The outcome could not be written while the lease was held.
        """
        self._child_done.set()
        if self._progress_writer is not None:
            await self._progress_writer
        queue, claim = self._place.queue, self.claimed.claim
        if outcome.ok and self._fate is not _Fate.DROPPED:
            await self._write(lambda: queue.complete_job(claim, outcome.task_output))
            await self._publish()
            return
        await self._discard()  # before the job is let go: the next attempt may have this number
        if self._fate is _Fate.DROPPED:
            logger.warning("dropped: the claim was lost")
        elif self._fate is _Fate.GIVEN_BACK:
            await self._write(lambda: queue.give_back_job(claim))
            logger.info("given back at no cost")
        else:
            await self._fail(outcome)

    async def _fail(self, outcome: Outcome) -> None:
        error = _storable(outcome.error or "the module gave no reason")
        status = await self._write(
            lambda: self._place.queue.fail_job(
                self.claimed.claim, error, retryable=outcome.retryable
            )
        )
        then = "it will run again" if status == "queued" else "it has failed for good"
        logger.warning(
            "attempt %d failed, %s: %s%s",
            self.claimed.attempt,
            then,
            error,
            f"\n{outcome.traceback}" if outcome.traceback else "",
        )

    async def _write(self, write: Callable[[], T]) -> T:
        """Call the queue, again and again while it cannot be reached and the lease is held."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._place.writes.call(write)
            except UNREACHABLE as error:
                if not self._place.covers(self.claimed.claim):
                    raise
                logger.warning("the outcome waits for the database: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _publish(self) -> None:
        logger.info("completed")
        assert self._job_path is not None
        try:
            await asyncio.to_thread(publish_attempt, self._job_path, self.claimed.attempt)
        except OSError as error:  # the job is completed; whoever reads its output tries again
            logger.error("the output cannot be moved to its place: %s", error)

    async def _discard(self) -> None:
        if self._job_path is not None:
            await asyncio.to_thread(discard_attempt, self._job_path, self.claimed.attempt)


def _storable(error: str) -> str:
    """Return an error as every database stores it: no NUL, no half characters, not endless."""
    text = error.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 3] + "..."
