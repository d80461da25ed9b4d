"""Jobs per second through the repository, beside the same statements on the bare driver.

Everything is interleaved: a round measures every database and both sides once, so that a machine
that is busy for a while slows all of them; each ratio is taken within its round, then the median.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from .queues import Queue, RawQueue, RepositoryQueue, record_statements
from .replay import Recording
from .samples import SAMPLES, make_sample, open_engine
from .work import PHASES, Timing, run_phases

PROCESSES = (1, 8)


@dataclass(frozen=True)
class Throughput:
    """One phase on one database with so many processes.

    Attributes:
        sample: What the database held.
        processes: How many worked at once.
        phase: What they did.
        per_second: Operations a second through the repository, of each round.
        raw_per_second: On the bare driver, of each round.
        waits_ms: The median, the 99.9th percentile and the longest claim of all rounds.
    """

    sample: str
    processes: int
    phase: str
    per_second: list[float]
    raw_per_second: list[float]
    waits_ms: tuple[float, float, float] | None

    @property
    def ratio(self) -> float:
        """The repository's part of raw: the median of the rounds' ratios."""
        return ratio(self.per_second, self.raw_per_second)


def ratio(these: list[float], those: list[float]) -> float:
    """Return the median of the ratios of each round."""
    return median(this / that for this, that in zip(these, those, strict=True))


def measure_throughput(
    rounds: int, jobs: int, report_progress: Callable[[str], None]
) -> list[Throughput]:
    """Measure every phase on every sample with one process and with several.

    Args:
        rounds: How many ratios each median is taken from.
        jobs: How many jobs each phase has.
        report_progress: Takes a line for whoever waits.
    """
    with TemporaryDirectory(prefix="cl-bench-") as folder:
        sides: list[Callable[[Path], Queue]] = [
            _open_repository,
            partial(_open_raw, record_statements(Path(folder))),
        ]
        files = _make_samples(Path(folder), report_progress)
        measured = {key: _Rounds() for key in product(files, PROCESSES)}
        for number in range(rounds):
            report_progress(f"round {number + 1} of {rounds}")
            for (name, processes), kept in measured.items():
                # Whoever goes second finds a warmer machine: they take turns.
                for side in sides if number % 2 else reversed(sides):
                    timings = run_phases(side, files[name], processes, jobs)
                    (kept.repository if side is sides[0] else kept.raw).append(timings)
    return [
        kept.summed_up(name, processes, phase)
        for (name, processes), kept in measured.items()
        for phase in PHASES
    ]


@dataclass
class _Rounds:
    """What each round measured: per phase, each process's timing."""

    repository: list[dict[str, list[Timing]]] = field(default_factory=list)
    raw: list[dict[str, list[Timing]]] = field(default_factory=list)

    def summed_up(self, sample: str, processes: int, phase: str) -> Throughput:
        waits = [
            wait
            for timings in self.repository
            for timing in timings[phase]
            for wait in timing.waits
        ]
        return Throughput(
            sample,
            processes,
            phase,
            [_per_second(timings[phase]) for timings in self.repository],
            [_per_second(timings[phase]) for timings in self.raw],
            _waits_ms(waits) if waits else None,
        )


def _make_samples(folder: Path, report_progress: Callable[[str], None]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for sample in SAMPLES:
        report_progress(f"making a database: {sample.name}")
        files[sample.name] = folder / f"sample-{len(files)}.db"
        make_sample(sample, files[sample.name])
    return files


def _open_repository(path: Path) -> Queue:
    return RepositoryQueue(open_engine(path))


def _open_raw(recordings: dict[str, Recording], path: Path) -> Queue:
    return RawQueue(path, recordings)


def _per_second(timings: list[Timing]) -> float:
    lasted = max(timing.ended for timing in timings) - min(timing.started for timing in timings)
    return sum(timing.operations for timing in timings) / lasted


def _waits_ms(waits: list[float]) -> tuple[float, float, float]:
    ordered = sorted(waits)
    nearly_all = ordered[int(len(ordered) * 0.999)]
    return 1000 * median(ordered), 1000 * nearly_all, 1000 * ordered[-1]
