"""`cl-server up --import`: a folder's images become entities, and each is resized once.

files ──► images ──► entities (those that are new) ──► jobs (where there is none yet) ──► all ended

It goes through the public HTTP surface, as anyone's program would.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from cl_ml_tools.media.digests import digest_file
from cl_ml_tools.media.sniffing import SNIFF_BYTES, sniff_media
from cl_server.cli.up_display import ProgressBars, UpDisplay
from cl_server.client import Client
from cl_server.client.errors import (
    ClientError,
    InvalidRequest,
    NotAllowed,
    NotAServer,
    NotFound,
    ServerFailed,
    SignInNeeded,
    Unreachable,
)
from cl_server.client.models import FINISHED, Job

__all__ = ["RESIZE", "import_photos"]

T = TypeVar("T")

TASK_TYPE = "image_resize"
RESIZE = {"width": 512, "height": 512, "maintain_aspect_ratio": True, "enlarge": False}

# Files on their way at once: the server writes each to the disk before it answers.
SENDERS = 4

# A service that was started again is back within this time.
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 0.5
LOOK_SECONDS = 0.1

# What the next file would meet as well.
_HOPELESS = (Unreachable, NotAServer, SignInNeeded, NotAllowed, ServerFailed)


@dataclass
class _Tally:
    """What came of everything."""

    new: int = 0
    already_here: int = 0
    resized: int = 0
    failed: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        results = [
            f"{count} {word}"
            for count, word in (
                (self.resized, "resized"),
                (self.failed, "failed"),
                (self.unreadable, "could not be imported"),
            )
            if count
        ]
        summary = f"{self.new} new, {self.already_here} already here"
        return f"{summary}; {', '.join(results)}" if results else summary


class _Stopped(Exception):
    """The server is being stopped: nobody waits for the import any more."""


def import_photos(
    client: Client,
    folder: Path,
    *,
    leave_out: Path,
    display: UpDisplay,
    stopping: threading.Event,
) -> None:
    """Take in every image below a folder, and print one line that says what came of it.

    Args:
        client: The server.
        folder: Where the images are.
        leave_out: A folder that is not looked into: the server's own.
        display: What people see.
        stopping: Ends it early.

    Raises:
        ClientError: The server refuses, or went away and stayed away.
    """
    try:
        with display.progress() as bars:
            tally = _Import(client, display, bars, stopping).run(folder, leave_out)
    except _Stopped:
        return
    display.say(f"{folder}: {tally}")


@dataclass
class _Import:
    client: Client
    display: UpDisplay
    bars: ProgressBars
    stopping: threading.Event
    tally: _Tally = field(default_factory=_Tally)

    def run(self, folder: Path, leave_out: Path) -> _Tally:
        paths = list(_find_images(folder, leave_out))
        entities, new = self._take_in(paths)
        without_job = [
            *new,
            *self._without_job({d: e for d, e in entities.items() if e not in new}),
        ]
        self._resize(without_job)
        return self.tally

    def _take_in(self, paths: list[Path]) -> tuple[dict[str, int], set[int]]:
        """Return each image's entity under its SHA-256, and those entities that are new."""
        entities: dict[str, int] = {}
        new: set[int] = set()
        with ThreadPoolExecutor(SENDERS) as senders:
            calls = {senders.submit(self._take_in_one, path): path for path in paths}
            try:
                for done, call in enumerate(as_completed(calls), start=1):
                    try:
                        sha256, entity_id, is_new = call.result()
                    except (ClientError, OSError, UnicodeError) as error:
                        if isinstance(error, _HOPELESS):
                            raise
                        self.tally.unreadable += 1
                        self.display.warn(f"{calls[call]} was not imported: {error}")
                        continue
                    entities[sha256] = entity_id
                    if is_new:
                        new.add(entity_id)
                    self.bars.show("imported", done, len(paths))
            finally:
                senders.shutdown(cancel_futures=True)
        self.tally.new = len(new)
        self.tally.already_here = len(paths) - len(new) - self.tally.unreadable
        return entities, new

    def _take_in_one(self, path: Path) -> tuple[str, int, bool]:
        """Return an image's SHA-256, its entity, and whether that is new."""
        digests = digest_file(path)
        for entity in self._ask(lambda: self.client.list_entities(md5=digests.md5))["items"]:
            if entity.get("sha256") == digests.sha256:
                return digests.sha256, entity["id"], False
        entity, is_new = self._ask(lambda: self.client.create_entity(path))
        return digests.sha256, entity["id"], is_new

    def _without_job(self, entities: dict[str, int]) -> Iterator[int]:
        """Yield those of the entities that were never resized like this, nor are about to be.

        Args:
            entities: Each under its SHA-256.
        """
        missing = dict(entities)
        cursor: str | None = None
        while missing:
            list_jobs = partial(self.client.list_jobs, task_type=TASK_TYPE, cursor=cursor)
            page = self._ask(list_jobs)
            for job in page["items"]:
                if job["status"] not in ("failed", "cancelled") and _is_such_a_job(job):
                    for digest in self._input_digests(job):
                        missing.pop(digest, None)
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        yield from missing.values()

    def _input_digests(self, job: Job) -> list[str]:
        if any(file["sha256"] is None for file in job["input_files"]):  # not read yet
            job = self._ask(partial(self.client.get_job, job["job_id"]))
        return [file["sha256"] or "" for file in job["input_files"]]

    def _resize(self, entity_ids: list[int]) -> None:
        """Start a job for each, and wait until all have ended."""
        job_ids = [job_id for each in entity_ids if (job_id := self._start_job(each))]
        # Older jobs are claimed first, so looking at one at a time costs next to nothing.
        for done, job_id in enumerate(job_ids, start=1):
            self._count(job_id)
            self.bars.show("resized", done, len(job_ids))

    def _start_job(self, entity_id: int) -> str | None:
        create = partial(self.client.create_job, TASK_TYPE, params=RESIZE, entity_ids=[entity_id])
        try:
            return self._ask(create)["job_id"]
        except InvalidRequest as error:
            self.tally.failed += 1
            self.display.warn(f"entity {entity_id} cannot be resized: {error}")
            return None

    def _count(self, job_id: str) -> None:
        """Wait until a job has ended, and count how."""
        try:
            while (job := self._ask(partial(self.client.get_job, job_id)))[
                "status"
            ] not in FINISHED:
                self._pause(LOOK_SECONDS)
        except NotFound:
            self.tally.failed += 1  # someone deleted it, and knows
            return
        if job["status"] == "completed":
            self.tally.resized += 1
            return
        self.tally.failed += 1
        names = ", ".join(file["name"] for file in job["input_files"])
        self.display.warn(
            f"{names} was not resized: {job['error_message'] or 'it was ' + job['status']}"
        )

    def _ask(self, call: Callable[[], T]) -> T:
        """Make a call to the server, also while a service of it starts again.

        Raises:
            ClientError: It refuses, or stays away.
        """
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return call()
            except (Unreachable, ServerFailed):
                if self.stopping.is_set():
                    raise _Stopped from None
                if time.monotonic() > give_up:
                    raise
                self._pause(RETRY_SECONDS)

    def _pause(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise _Stopped


def _find_images(folder: Path, leave_out: Path) -> Iterator[Path]:
    """Yield each image below a folder, in the order of their names; links are not followed."""
    own = leave_out.resolve()
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(parent, name).resolve() != own)
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink() and _is_image(path):
                yield path


def _is_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return sniff_media(file.read(SNIFF_BYTES)).kind == "image"
    except OSError:
        return True  # it is said why when it is read


def _is_such_a_job(job: Job) -> bool:
    return all(job["params"].get(name) == value for name, value in RESIZE.items())
