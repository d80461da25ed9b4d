"""Running one task on many files: sent, followed and fetched at once, a few at a time.

    waiting ──► sending ──► queued ◄──► processing ──► fetching ──► completed
                   └───────────┴────────────┴─────────────┴───────► failed

Threads send, listen and fetch. All state belongs to the thread that calls `Batch.process`; the
others put what they found into its inbox, as a call for it to make.
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from cl_server.client.client import Client
from cl_server.client.crew import Crew
from cl_server.client.destinations import Destinations
from cl_server.client.downloads import place_file
from cl_server.client.errors import (
    ClientError,
    DamagedDownload,
    FileInTheWay,
    NotFound,
    Refused,
    ServerFailed,
    Unreachable,
)
from cl_server.client.events import EventStream
from cl_server.client.made_directory import made_directory
from cl_server.client.models import FINISHED, Event, Job, JobFile
from cl_server.client.run import Run, State

__all__ = ["Batch"]

T = TypeVar("T")

SENDERS = 4
FETCHERS = 4

# A job of which no event came for this long is asked for, in case one was lost; much sooner where
# the server has no events for us at all.
SILENCE_SECONDS = 10.0
DEAF_SECONDS = 1.0
LOOK_SECONDS = 0.25
LOOKS_AT_ONCE = 20

# A server that is away for longer than a restart takes is gone.
PATIENCE_SECONDS = 60.0
MAX_FETCHES = 3

# A download that takes longer is cut off with the process.
LAST_DOWNLOADS_SECONDS = 1.0

# What may be over when it is tried again.
_PASSING = (Unreachable, ServerFailed)


class Batch:
    """Runs that are processed together.

    Args:
        client: The server.
        task_type: The task of all jobs.
        runs: A job each.
        text_params: The parameters of all, as a person types them.
        destinations: Where results go.
        on_change: Called, by the thread that calls `process`, with each run that changed.
        priority: 0-10; the server's default without one.
    """

    def __init__(
        self,
        client: Client,
        task_type: str,
        runs: Sequence[Run],
        *,
        text_params: Mapping[str, Sequence[str]],
        destinations: Destinations,
        on_change: Callable[[Run], None],
        priority: int | None = None,
    ) -> None:
        self._client = client
        self._task_type = task_type
        self._runs = runs
        self._unsent = deque(runs)
        self._probe: Run | None = None
        self._text_params = text_params
        self._destinations = destinations
        self._on_change = on_change
        self._priority = priority
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._by_job_id: dict[str, Run] = {}
        self._early: dict[str, Event] = {}
        self._senders = Crew(SENDERS)
        self._fetchers = Crew(FETCHERS)
        self._stopping = threading.Event()
        self._reached_at = self._looked_at = 0.0
        self._silence_seconds = SILENCE_SECONDS
        self._scratch = Path()

    def process(self) -> None:
        """Send all runs, and return when each has completed or failed.

        Whatever ends it, no half file is left.

        Raises:
            Refused: The server refuses the first job, and not because of its file; no other was sent.
            Unreachable: The server went away, and stayed away.
        """
        directory = self._destinations.directory
        with ExitStack() as stack:
            stack.enter_context(made_directory(directory))
            scratch = tempfile.TemporaryDirectory(
                dir=directory, prefix=".cl-server-", ignore_cleanup_errors=True
            )
            self._scratch = Path(stack.enter_context(scratch))
            stack.callback(self._stop_fetching)
            self._listen(stack)
            self._reached_at = time.monotonic()
            self._send_probe()
            while not all(run.is_finished for run in self._runs):
                with suppress(queue.Empty):
                    self._inbox.get(timeout=LOOK_SECONDS)()
                self._ask_for_silent()

    # Sending

    def _send_probe(self) -> None:
        """Send the next one alone: it shows whether the others may be sent."""
        if self._unsent:
            self._probe = self._unsent.popleft()
            self._send(self._probe)

    def _send_rest(self) -> None:
        while self._unsent:
            self._send(self._unsent.popleft())

    def _send(self, run: Run) -> None:
        def work() -> Job:
            self._inbox.put(partial(self._change, run, "sending"))
            return self._client.create_job(
                self._task_type,
                run.inputs,
                text_params=self._text_params,
                priority=self._priority,
            )

        self._start(self._senders, work, partial(self._sent, run), partial(self._not_sent, run))

    def _sent(self, run: Run, job: Job) -> None:
        run.job, run.heard_at = job, time.monotonic()
        self._by_job_id[job["job_id"]] = run
        self._change(run, "queued")
        self._send_rest()
        if (event := self._early.pop(job["job_id"], None)) is not None:
            self._heard(event)

    def _not_sent(self, run: Run, error: ClientError | OSError) -> None:
        if run is self._probe and isinstance(error, Refused) and error.is_about_all:
            raise error  # it is the parameters, or who we are: the others would meet it too
        self._fail(run, str(error))
        if isinstance(error, _PASSING):
            self._send_rest()
        else:  # it says nothing of the others
            self._send_probe()

    # Following

    def _listen(self, stack: ExitStack) -> None:
        """Hear of each step; where the server has no events for us, it is asked again and again."""
        try:
            events = self._client.events().connect()
        except Refused:
            self._stop_listening()
            return
        stack.callback(events.close)
        threading.Thread(target=self._hear, args=(events,), daemon=True).start()

    def _hear(self, events: EventStream) -> None:
        try:
            for event in events:
                self._inbox.put(partial(self._heard, event))
        except ClientError:
            self._inbox.put(self._stop_listening)

    def _stop_listening(self) -> None:
        self._silence_seconds = DEAF_SECONDS

    def _heard(self, event: Event) -> None:
        run = self._by_job_id.get(event["job_id"])
        if run is None:
            # Another's job, or one of ours whose answer is still on its way.
            if len(self._by_job_id) < len(self._runs):
                self._early[event["job_id"]] = event
            return
        self._reached_at = run.heard_at = time.monotonic()
        if run.state not in ("queued", "processing"):
            return
        kind = event["event_type"]
        if kind in FINISHED:
            self._ask_for(run)
        elif kind in ("started", "progress"):
            run.progress = event["progress"]
            self._change(run, "processing")
        else:
            run.progress = 0.0
            self._change(run, "queued")

    def _ask_for_silent(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at, heard_before = now, now - self._silence_seconds
        silent = [
            run
            for run in self._by_job_id.values()
            if run.state in ("queued", "processing")
            and not run.is_asked_for
            and run.heard_at < heard_before
        ]
        for run in sorted(silent, key=lambda run: run.heard_at)[:LOOKS_AT_ONCE]:
            self._ask_for(run)

    def _ask_for(self, run: Run) -> None:
        assert run.job is not None
        if run.is_asked_for:
            return
        run.is_asked_for = True
        work = partial(self._client.get_job, run.job["job_id"])
        self._start(
            self._fetchers, work, partial(self._answered, run), partial(self._not_answered, run)
        )

    def _answered(self, run: Run, job: Job) -> None:
        run.is_asked_for = False
        run.job = job
        self._reached_at = run.heard_at = time.monotonic()
        status = job["status"]
        if status == "completed":
            self._fetch(run, job)
        elif status in FINISHED:
            self._fail(run, job["error_message"] or f"it was {status}")
        else:
            run.progress = job["progress"]
            self._change(run, "processing" if status == "processing" else "queued")

    def _not_answered(self, run: Run, error: ClientError | OSError) -> None:
        run.is_asked_for = False
        run.heard_at = time.monotonic()
        if isinstance(error, NotFound):
            self._fail(run, "the job was deleted")
        elif not isinstance(error, _PASSING) or self._is_out_of_patience():
            raise error

    def _is_out_of_patience(self) -> bool:
        return time.monotonic() - self._reached_at > PATIENCE_SECONDS

    # Fetching

    def _fetch(self, run: Run, job: Job) -> None:
        run.fetches += 1
        self._change(run, "fetching")
        places = list(run.planned)
        job["output_files"].sort(
            key=lambda file: places.index(file["path"]) if file["path"] in places else len(places)
        )
        for file in job["output_files"]:
            if file["path"] not in run.planned:
                try:
                    run.planned[file["path"]] = self._destinations.reserve(file["path"])
                except ClientError as error:
                    self._fail(run, str(error))
                    return
        self._start(
            self._fetchers,
            partial(self._download, job),
            partial(self._fetched, run),
            partial(self._not_fetched, run),
        )

    def _download(self, job: Job) -> list[tuple[JobFile, Path]]:
        fetched = []
        for number, file in enumerate(job["output_files"]):
            if self._stopping.is_set():
                break
            temporary = self._scratch / f"{job['job_id']}-{number}"
            self._client.download_job_file(job["job_id"], file, temporary, overwrite=True)
            fetched.append((file, temporary))
        return fetched

    def _fetched(self, run: Run, fetched: list[tuple[JobFile, Path]]) -> None:
        try:
            for file, temporary in fetched:
                destination = run.planned[file["path"]]
                place_file(temporary, destination, overwrite=self._destinations.overwrite)
                run.results.append(destination)
        except (FileInTheWay, OSError) as error:
            self._fail(run, str(error))
        else:
            self._change(run, "completed")

    def _not_fetched(self, run: Run, error: ClientError | OSError) -> None:
        if isinstance(error, (*_PASSING, DamagedDownload)) and run.fetches < MAX_FETCHES:
            run.heard_at = time.monotonic() - self._silence_seconds + DEAF_SECONDS
            self._change(run, "processing")  # asked for again in a second, and so fetched
        else:
            self._fail(run, str(error))

    def _stop_fetching(self) -> None:
        """Let downloads end, so that none makes a file while their folder is removed."""
        self._stopping.set()
        self._fetchers.wait(LAST_DOWNLOADS_SECONDS)

    # All of them

    def _fail(self, run: Run, error: str) -> None:
        run.error = error
        self._change(run, "failed")

    def _change(self, run: Run, state: State) -> None:
        run.state = state
        self._on_change(run)

    def _start(
        self,
        crew: Crew,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[ClientError | OSError], None],
    ) -> None:
        """Let a thread of `crew` do `work`, and have one of the two called here with what came."""

        def call() -> None:
            if self._stopping.is_set():
                return
            try:
                result = work()
            except (ClientError, OSError) as error:
                self._inbox.put(partial(failed, error))
            except BaseException as error:  # noqa: BLE001 - raised where `process` was called
                self._inbox.put(partial(_raise, error))
            else:
                self._inbox.put(partial(done, result))

        crew.add(call)


def _raise(error: BaseException) -> None:
    raise error
