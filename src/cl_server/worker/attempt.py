"""One attempt of one job, from its claim to its end.

    prepare ──► run in a child ──► settle: completed | failed | postponed | cancelled | given back
                                           | dropped

A child may be killed under an attempt: for its time or memory (the attempt has failed), because
somebody cancelled the job, because the worker stops (the job is given back at no cost), or because
the claim is lost (it is dropped: whoever holds the job now decides). The child is dead before the
job is let go, and gets its next job only once this one's end is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.executor import Outcome
from cl_ml_tools.protocols import (
    AttemptLog,
    Claim,
    ClaimedJob,
    Completion,
    FailureOutcome,
    FileStorage,
    WorkQueue,
)
from cl_ml_tools.workspace import discard_attempt, publish_attempt
from cl_server.logs import bind_log_context

from .completions import Completions
from .lane import Lane
from .lease import UNREACHABLE
from .metrics import WorkerMetrics
from .process import Child, ChildEnded

__all__ = ["Attempt", "Workplace"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Four times a second: as smooth as an eye wants it, and no load on the database.
PROGRESS_SECONDS = 0.25

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0

MAX_ERROR_CHARACTERS = 2000
MAX_TRACEBACK_CHARACTERS = 64 * 1024

# What follows from a failed attempt, by the status that the job has then.
_THEN = {
    "queued": "it will run again",
    "error": "it has failed for good",
    "cancelled": "and the job was cancelled",
}


@dataclass(frozen=True)
class Workplace:
    """What every attempt of a worker works with.

    Attributes:
        queue: Where outcomes are written.
        storage: Where the job's files are.
        writes: The thread that writes.
        completions: What writes completions, on that thread.
        covers: Whether a claim was made under the lease that is held now.
        put_back: Takes the child when the attempt no longer needs it.
        default_timeout_seconds: For a job that has none of its own.
        metrics: Where each attempt's duration is counted.
    """

    queue: WorkQueue
    storage: FileStorage
    writes: Lane
    completions: Completions
    covers: Callable[[Claim], bool]
    put_back: Callable[[Child], None]
    default_timeout_seconds: float
    metrics: WorkerMetrics


class _Fate(Enum):
    """What becomes of the job when the child has ended; `SETTLED`: as its outcome says."""

    SETTLED = ""
    CANCELLED = "cancelled"
    GIVEN_BACK = "given back"
    DROPPED = "dropped"


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
        self._failure: FailureOutcome = "error"
        self._killed_for: FailureOutcome = "crash"
        self._log = AttemptLog(started_at=time.time_ns() // 1_000_000)
        self._job_path: Path | None = None
        self._running: Awaitable[Outcome] | None = None
        self._hindrance = Outcome(ok=False)  # why it does not run, where it does not
        self._progress = self._written_progress = 0
        self._progress_writer: asyncio.Task[None] | None = None
        self._child_done = asyncio.Event()

    def begin(self) -> None:
        """Give the job to the child, at once; `run` sees to all that follows."""
        if self.child is None:
            return
        job = self.claimed.job
        try:
            self._job_path = self._place.storage.get_job_path(job.job_id)
        except ValueError as error:  # a job added through the library may have any id
            self._hindrance = Outcome(ok=False, error=str(error), retryable=False)
            return
        except OSError as error:
            self._hindrance = Outcome(ok=False, error=f"the job's folder cannot be found: {error}")
            return
        self._running = self.child.run(
            job,
            attempt=self.claimed.attempt,
            job_path=self._job_path,
            on_progress=self._take_progress,
        )

    async def run(self) -> None:
        """Wait for the job's end and write how it ended."""
        with bind_log_context(job_id=self.claimed.job.job_id):
            child, started_at = self.child, time.monotonic()
            try:
                try:
                    outcome = await self._run()
                finally:
                    self.child = None  # from here on its end is decided
                self._count(outcome, time.monotonic() - started_at)
                await self._settle(outcome)
            except ClaimLost:
                logger.warning("the claim was lost: what this attempt did is discarded")
                await self._discard()
            except UNREACHABLE as error:
                logger.error("the outcome cannot be written, the job will run again: %s", error)
                await self._discard()
            finally:
                if child is not None:
                    self._place.put_back(child)

    def cancel(self) -> None:
        """Kill the child and end the job as cancelled."""
        self._end(_Fate.CANCELLED, "the job was cancelled")

    def give_back(self) -> None:
        """Kill the child and queue the job again at no cost: the worker stops."""
        self._end(_Fate.GIVEN_BACK, "the worker stopped")

    def drop(self) -> None:
        """Kill the child and write nothing: the claim is lost."""
        self._end(_Fate.DROPPED, "the claim on the job was lost")

    def fail(self, reason: str, failure: FailureOutcome) -> None:
        """Kill the child; the attempt has failed.

        Args:
            reason: The sentence that becomes the job's error.
            failure: What kind of failure it is.
        """
        self._end(_Fate.SETTLED, reason, failure)

    def _end(self, fate: _Fate, reason: str, failure: FailureOutcome = "crash") -> None:
        if self.child is not None and self.child.alive:  # else its end is decided already
            self._fate, self._killed_for = fate, failure
            self.child.kill(reason)

    async def _run(self) -> Outcome:
        """Return how the job ended in the child; what kept it from running is an outcome, too."""
        if self._running is None:
            return self._hindrance
        logger.info("%s: attempt %d begins", self.claimed.job.task_type, self.claimed.attempt)
        self._count_wait()
        limit = self.claimed.timeout_seconds or self._place.default_timeout_seconds
        reason = f"it took longer than the {limit:g} seconds that it may take"
        timer = asyncio.get_running_loop().call_later(limit, self.fail, reason, "timeout")
        try:
            outcome = await self._running
        except ChildEnded as error:
            self._failure = self._killed_for
            outcome = Outcome(ok=False, error=str(error))
        finally:
            timer.cancel()
        self._keep_log(outcome)
        return outcome

    def _keep_log(self, outcome: Outcome) -> None:
        traceback = outcome.traceback[-MAX_TRACEBACK_CHARACTERS:] if outcome.traceback else None
        output = self.child.job_output if self.child is not None else None
        self._log = replace(self._log, traceback=traceback, output=output or None)

    def _count_wait(self) -> None:
        if self.claimed.claim.claim_seq == 1:
            seconds = self.claimed.waited_ms / 1000
            self._place.metrics.observe_wait(self.claimed.job.task_type, seconds)

    def _count(self, outcome: Outcome, seconds: float) -> None:
        if self._job_path is None:
            return  # it never began
        said = "postponed" if outcome.delay_seconds is not None else "failed"
        word = self._fate.value or ("completed" if outcome.ok else said)
        self._place.metrics.observe_run(self.claimed.job.task_type, word, seconds)

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
            log = self._log if self._log.output else None
            completion = Completion(claim, outcome.task_output, log)
            await self._until_reached(lambda: self._place.completions.complete(completion))
            await self._publish()
            return
        await self._discard()  # before the job is let go: the next attempt may have this number
        if self._fate is _Fate.DROPPED:
            logger.warning("dropped: the claim was lost")
        elif self._fate is _Fate.GIVEN_BACK:
            await self._write(lambda: queue.give_back_jobs([claim]))
            logger.info("given back at no cost")
        elif self._fate is _Fate.CANCELLED:
            await self._write(lambda: queue.end_cancelled_job(claim, log=self._log))
            logger.info("cancelled")
        elif outcome.delay_seconds is not None:
            await self._postpone(outcome.delay_seconds)
        else:
            await self._fail(outcome)

    async def _postpone(self, delay_seconds: float) -> None:
        await self._write(
            lambda: self._place.queue.postpone_job(self.claimed.claim, delay_seconds, log=self._log)
        )
        logger.info("postponed by the module, for %g seconds", delay_seconds)

    async def _fail(self, outcome: Outcome) -> None:
        error = _storable(outcome.error or "the module gave no reason")
        status = await self._write(
            lambda: self._place.queue.fail_job(
                self.claimed.claim,
                error,
                retryable=outcome.retryable,
                outcome=self._failure,
                log=self._log,
            )
        )
        logger.warning(
            "attempt %d failed, %s: %s%s",
            self.claimed.attempt,
            _THEN[status],
            error,
            f"\n{outcome.traceback}" if outcome.traceback else "",
        )

    async def _write(self, write: Callable[[], T]) -> T:
        """Call the queue on the thread that writes, until it is reached."""
        return await self._until_reached(lambda: self._place.writes.call(write))

    async def _until_reached(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, again and again while the queue cannot be reached and the lease is held."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await write()
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
