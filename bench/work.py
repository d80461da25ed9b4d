"""Processes that work on one database file at the same time, phase by phase."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl_server_shared.ids import new_job_id

from .queues import Queue

# Forked, not spawned: what is measured begins behind a barrier, and starting eight interpreters for
# each of a hundred measures would take most of the time.
_FORKING = multiprocessing.get_context("fork")

# No phase lasts this long; a process that died must not keep the others waiting.
_PHASE_SECONDS = 120

# A cycle is add, claim and complete: as a worker does it, or with the contract's five methods.
PHASES = ("add", "claim", "complete", "cycle", "plain cycle")


@dataclass(frozen=True)
class Timing:
    """One process's part of a phase.

    Attributes:
        started: When it began, on the monotonic clock that all processes share.
        ended: When it was done.
        operations: How many it did.
        waits: How long each claim took, in seconds; empty in other phases.
    """

    started: float
    ended: float
    operations: int
    waits: list[float]


def run_phases(
    open_queue: Callable[[Path], Queue], sample: Path, processes: int, jobs: int
) -> dict[str, list[Timing]]:
    """Run every phase on a fresh copy of a database file.

    Args:
        open_queue: Makes the side that is measured.
        sample: The file to copy.
        processes: How many work at the same time.
        jobs: How many jobs each phase has, for all processes together.

    Returns:
        Under each phase's name one timing per process.
    """
    with TemporaryDirectory(prefix="cl-bench-") as folder:
        path = Path(folder) / "measured.db"
        _copy_durably(sample, path)
        barrier, answers = _FORKING.Barrier(processes), _FORKING.SimpleQueue()
        arguments = (open_queue, path, jobs // processes, barrier, answers)
        workers = [_FORKING.Process(target=_work, args=arguments) for _ in range(processes)]
        for worker in workers:
            worker.start()
        collected: list[dict[str, Timing]] = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
    return {phase: [timings[phase] for timings in collected] for phase in PHASES}


def _copy_durably(source: Path, target: Path) -> None:
    """Copy a file onto the disk: else a checkpoint that is measured would have to write it too."""
    shutil.copy(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _work(
    open_queue: Callable[[Path], Queue], path: Path, jobs: int, barrier: Barrier, answers: Any
) -> None:
    timings: dict[str, Timing] = {}
    try:
        worker = _Worker(open_queue(path), jobs)
        for phase, run in zip(PHASES, worker.phases(), strict=True):
            worker.prepare()
            barrier.wait(_PHASE_SECONDS)
            started = time.monotonic()
            operations = run()
            timings[phase] = Timing(started, time.monotonic(), operations, worker.waits)
        worker.queue.close()
    finally:
        answers.put(timings)


class _Worker:
    def __init__(self, queue: Queue, jobs: int) -> None:
        self.queue = queue
        self.waits: list[float] = []
        self._count = jobs
        self._jobs: list[Any] = []
        self._claimed: list[Any] = []

    def phases(self) -> tuple[Callable[[], int], ...]:
        """Return what each of `PHASES` runs; each returns how many operations it did."""
        return self.add, self.claim, self.complete, self.cycle, self.plain_cycle

    def prepare(self) -> None:
        self.waits = []
        self._jobs = [self.queue.prepare(new_job_id()) for _ in range(self._count)]

    def add(self) -> int:
        for job in self._jobs:
            self.queue.add(job)
        return len(self._jobs)

    def claim(self) -> int:
        while True:
            before = time.perf_counter()
            claimed = self.queue.claim()
            self.waits.append(time.perf_counter() - before)
            if claimed is None:
                return len(self._claimed)
            self._claimed.append(claimed)

    def complete(self) -> int:
        for claimed in self._claimed:
            self.queue.complete(claimed)
        return len(self._claimed)

    def cycle(self) -> int:
        for job in self._jobs:
            self.queue.add(job)
            self.queue.complete(self.queue.claim())
        return len(self._jobs)

    def plain_cycle(self) -> int:
        for job in self._jobs:
            self.queue.add(job)
            self.queue.complete_plain(self.queue.claim_plain())
        return len(self._jobs)
