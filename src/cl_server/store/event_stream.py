"""`/events`: what happens to jobs, as Server-Sent Events, without a gap.

One look at the database serves all streams of a process: `EventFeed` sees that there is news and
wakes them. Each then reads on from its own place, by its own filter, so a slow one holds up no
other and misses nothing. Progress has no place of its own: it is made from the live jobs' rows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from cl_ml_tools.broadcast import job_event, to_json
from cl_ml_tools.jobs import TERMINAL_STATUSES
from cl_server_shared.errors import SharedError
from cl_server_shared.event_log import EventLog

from .plain_json import as_plain_json
from .repository import JobReader, LiveProgress

__all__ = ["EventFeed", "EventFilter"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 0.5  # at most two for each job in a second
COMMENT_SECONDS = 15.0  # proxies and clients cut what is silent for longer
RETRY_SECONDS = 2.0  # after the database did not answer

EVENTS_AT_ONCE = 200

# Jobs whose end a stream has told: no progress of theirs, seen a moment earlier, comes after it.
REMEMBERED_ENDS = 1000


@dataclass(frozen=True)
class EventFilter:
    """Which events a stream has; `None`: all.

    Attributes:
        job_id: Of this job.
        created_by: Of jobs that this user made.
    """

    job_id: str | None = None
    created_by: str | None = None

    def passes(self, progress: LiveProgress) -> bool:
        """Return whether a job's progress belongs into the stream."""
        return self.job_id in (None, progress.job_id) and self.created_by in (
            None,
            progress.created_by,
        )


@dataclass(eq=False)
class _Stream:
    """One client's place in the events, and what waits to be told."""

    filter: EventFilter
    position: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    progress: dict[str, LiveProgress] = field(default_factory=dict)
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_ENDS))


class EventFeed:
    """Wakes the streams of this process when something happened.

    Args:
        log: Where events are read.
        jobs: Where progress is.
    """

    def __init__(self, log: EventLog, jobs: JobReader) -> None:
        self._log = log
        self._jobs = jobs
        self._stopping = False
        self._streams: set[_Stream] = set()
        self._wanted = asyncio.Event()
        self._latest = 0
        self._told: dict[str, int] = {}

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def run(self) -> None:
        """Look for news, for as long as somebody wants to hear of it. Ends when cancelled."""
        next_progress = 0.0
        while True:
            await self._wanted.wait()
            try:
                await self._look_for_events()
                if time.monotonic() >= next_progress:
                    next_progress = time.monotonic() + PROGRESS_SECONDS
                    await self._look_for_progress()
            except SharedError as error:
                logger.warning("events wait for the database: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # the feed's outermost loop: without it no stream would hear any more
                logger.exception("looking for events failed unexpectedly")
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(POLL_SECONDS)

    def end_streams(self) -> None:
        """End every stream, at once; none can be opened any more."""
        self._stopping = True
        for stream in self._streams:
            stream.woken.set()

    async def open(self, wanted: EventFilter, last_event_id: int | None) -> AsyncIterator[str]:
        """Return the stream of events from a place on; what happens from now on is in it.

        Args:
            wanted: Which events.
            last_event_id: The last one that the client has; 0: all that is kept; `None`: what
                happens from now on.
        """
        latest = await run_in_threadpool(self._log.latest)
        # A position beyond the last is from another database: that one's events are not ours.
        position = latest if last_event_id is None else min(last_event_id, latest)
        return self._follow(_Stream(wanted, position))

    async def _follow(self, stream: _Stream) -> AsyncIterator[str]:
        yield ": connected\n\n"
        comment_at = time.monotonic() + COMMENT_SECONDS
        with self._joined(stream):
            while not self._stopping:
                stream.woken.clear()
                progress, stream.progress = stream.progress, {}
                async for text in self._new_events(stream):
                    yield text
                for item in progress.values():
                    if item.job_id not in stream.ended:
                        yield f"data: {to_json(_progress_event(item))}\n\n"
                await self._woken(stream, comment_at)
                if time.monotonic() >= comment_at:
                    yield ": still here\n\n"
                    comment_at = time.monotonic() + COMMENT_SECONDS

    async def _new_events(self, stream: _Stream) -> AsyncIterator[str]:
        """Read on from the stream's place to the end."""
        more = True
        while more and not self._stopping:
            latest = self._latest
            events = await self._read(stream)
            for position, event in events:
                stream.position = position
                _remember_end(stream, event)
                yield f"id: {position}\ndata: {to_json(as_plain_json(event))}\n\n"
            more = len(events) == EVENTS_AT_ONCE
            if not more:
                # What was there before this look and is none of ours need not be read again.
                stream.position = max(stream.position, latest)

    async def _read(self, stream: _Stream) -> list[tuple[int, dict[str, Any]]]:
        wanted = stream.filter
        while True:
            try:
                return await run_in_threadpool(
                    self._log.read,
                    stream.position,
                    EVENTS_AT_ONCE,
                    job_id=wanted.job_id,
                    created_by=wanted.created_by,
                )
            except SharedError as error:
                logger.warning("a stream of events waits for the database: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _woken(self, stream: _Stream, until: float) -> None:
        """Wait for news, which may be of others' jobs, until it is time for a comment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await stream.woken.wait()

    @contextmanager
    def _joined(self, stream: _Stream) -> Iterator[None]:
        self._streams.add(stream)
        self._wanted.set()
        try:
            yield
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._wanted.clear()

    async def _look_for_events(self) -> None:
        latest = await run_in_threadpool(self._log.latest)
        if latest != self._latest:
            self._latest = latest
            for stream in self._streams:
                stream.woken.set()

    async def _look_for_progress(self) -> None:
        live = await run_in_threadpool(self._jobs.list_progress)
        news = [item for item in live if self._told.get(item.job_id, 0) != item.progress]
        self._told = {item.job_id: item.progress for item in live}
        for item in news:
            for stream in self._streams:
                if stream.filter.passes(item):
                    stream.progress[item.job_id] = item
                    stream.woken.set()


def _remember_end(stream: _Stream, event: dict[str, Any]) -> None:
    job_id = event["job_id"]
    if event["status"] in TERMINAL_STATUSES:
        stream.ended.append(job_id)
    elif job_id in stream.ended:  # it runs once more
        stream.ended.remove(job_id)


def _progress_event(item: LiveProgress) -> dict[str, Any]:
    return job_event(
        None,
        item.job_id,
        "progress",
        "processing",
        item.task_type,
        time.time_ns() // 1_000_000,
        item.progress,
        item.attempt,
    )
