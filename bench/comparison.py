"""CL Server beside the bare driver and beside other queues, doing the same things.

Everything is interleaved: a round measures every side once, in turns, so that a machine that is
busy for a while slows all of them; each ratio is taken within its round, then the median.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.synchronize import Barrier
from queue import Empty
from statistics import median
from typing import Any, Protocol

from .conditions import Condition, Load
from .peers import peers_on
from .peers.ours import OursPeer, OursQueue, engine_at, file_at
from .peers.peer import Drained, Peer, PeerQueue
from .places import Places
from .replayed import Replayed
from .trace import Trace, recording_engine
from .work import Timing

__all__ = [
    "OURS",
    "PHASES",
    "RAW",
    "Compared",
    "compare",
    "ratio_of",
]

PHASES = ("cycle", "add", "bulk", "drain")

OURS, RAW = "CL Server", "raw"

_FORKING = multiprocessing.get_context("fork")
# How long one side's phases may take together; whoever needs more is reported so.
_PATIENCE_SECONDS = 120


@dataclass
class Compared:
    """One side's figures for one phase.

    Attributes:
        database: `sqlite` or `postgresql`: with which table it belongs.
        condition: What was there.
        processes: How many worked.
        phase: What they did.
        side: Who.
        per_second: Jobs a second, of each round.
        problem: Why there are none.
    """

    database: str
    condition: str
    processes: int
    phase: str
    side: str
    per_second: list[float] = field(default_factory=list)
    problem: str | None = None

    @property
    def median_per_second(self) -> float:
        """The median of the rounds."""
        return median(self.per_second)


def ratio_of(these: Compared, those: Compared) -> float | None:
    """Return the median of the rounds' ratios; `None` where one was not measured."""
    pairs = list(zip(these.per_second, those.per_second, strict=False))
    return median(this / that for this, that in pairs) if pairs else None


class Runner(Protocol):
    """One process's part of one side."""

    def run(self, phase: str) -> int | Drained:
        """Do a phase; return how many jobs it was about."""

    def close(self) -> None:
        """Close what is open."""


class QueueRunner:
    """Runs the phases on a queue.

    Args:
        queue: Which.
        load: This process's share.
    """

    def __init__(self, queue: PeerQueue, load: Load) -> None:
        self._queue = queue
        self._load = load
        self.close = queue.close

    def run(self, phase: str) -> int | Drained:
        """Do a phase."""
        queue, load = self._queue, self._load
        if phase == "cycle":
            for _ in range(load.jobs):
                queue.cycle()
        elif phase == "add":
            for _ in range(load.jobs):
                queue.add_one()
        elif phase == "bulk":
            for _ in range(load.batches):
                queue.add_many(load.batch_size)
            return load.batches * load.batch_size
        else:
            return queue.drain(load.drained)
        return load.jobs


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: As the results call it.
        peer: Who runs what it needs beside.
        places: Where.
        prepared: The place there of which each measure gets a copy.
        open: Makes one process's runner, given an address and its share.
    """

    name: str
    peer: Peer
    places: Places
    prepared: str
    open: Callable[[str, Load], Runner]


def compare(
    database: str,
    places: Places,
    redis: Places,
    conditions: Sequence[Condition],
    rounds: int,
    load: Load,
    report_progress: Callable[[str], None],
) -> list[Compared]:
    """Measure every side under every condition.

    Args:
        database: `sqlite` or `postgresql`.
        places: Where.
        redis: Where Celery's are.
        conditions: Under what.
        rounds: How many ratios the median of a condition with all rounds has.
        load: How much each phase does.
        report_progress: Takes a line for whoever waits.
    """
    found: list[Compared] = []
    for condition in conditions:
        if database != "sqlite" and condition.synchronous != "NORMAL":
            continue  # PostgreSQL's is the server's
        report_progress(f"{database}: {condition.name}")
        reduced = load.reduced(condition.load_part)
        measured, sides = _sides(database, condition, places, redis, reduced)
        for number in range(max(1, round(rounds * condition.part))):
            # Whoever goes later finds a warmer machine: they take turns.
            for side in sides if number % 2 else reversed(sides):
                if number < side.peer.rounds_at_most:
                    _measure(side, condition, reduced, measured[side.name])
        found += [compared for phases in measured.values() for compared in phases.values()]
    return found


def _sides(
    database: str, condition: Condition, places: Places, redis: Places, load: Load
) -> tuple[dict[str, dict[str, Compared]], list[Side]]:
    """Return the place for every side's figures, and the sides that can be measured."""
    ours = OursPeer(database, condition.synchronous)
    prepared = places.prepare(partial(ours.create, sample=condition.sample))
    sides = [Side(OURS, ours, places, prepared, partial(_open_queue, ours))]
    problems: dict[str, str | None] = {OURS: None, RAW: None}
    if condition.processes == 1:
        with places.copied(prepared) as address:
            trace = _record(address, condition.synchronous, load)
        play = partial(_open_raw, trace, condition.synchronous)
        sides.append(Side(RAW, ours, places, prepared, play))
    else:
        problems[RAW] = "one process only"  # with several, ids are given in another order
    for peer in peers_on(database, condition.synchronous):
        where = redis if peer.database == "redis" else places
        problems[peer.name] = _problem(peer, where, condition)
        if problems[peer.name] is None:
            prepared = where.prepare(partial(peer.create, sample=condition.sample))
            sides.append(Side(peer.name, peer, where, prepared, partial(_open_queue, peer)))
    measured = {
        name: {
            phase: Compared(
                database, condition.name, condition.processes, phase, name, problem=problem
            )
            for phase in PHASES
        }
        for name, problem in problems.items()
    }
    return measured, sides


def _problem(peer: Peer, places: Places, condition: Condition) -> str | None:
    if not peer.is_installed:
        return "not installed"
    if not condition.with_peers:
        return "not at this size"
    if places.problem is not None:
        return places.problem
    if condition.processes > 1 and not peer.is_shared:
        return "one process only"
    if condition.sample.finished and not peer.keeps_finished:
        return "keeps no finished jobs"
    return None


def _open_queue(peer: Peer, address: str, load: Load) -> Runner:
    return QueueRunner(peer.open(address), load)


def _open_raw(trace: Trace, synchronous: str, address: str, load: Load) -> Runner:
    url = address if address.startswith("postgresql") else str(file_at(address))
    replayed = Replayed(url, synchronous, trace)
    replayed.run("open")
    return replayed


def _record(address: str, synchronous: str, load: Load) -> Trace:
    trace = Trace(current="open", operations={"open": 0})
    engine = recording_engine(engine_at(address), synchronous, trace)
    # A clock of its own, so that ranks are the same where it is played.
    runner = QueueRunner(OursQueue(engine, clock=lambda: time.time_ns() // 1_000_000), load)
    for phase in PHASES:
        trace.current = phase
        done = runner.run(phase)
        trace.operations[phase] = done.jobs if isinstance(done, Drained) else done
    trace.current = None
    runner.close()
    return trace


def _measure(side: Side, condition: Condition, load: Load, kept: dict[str, Compared]) -> None:
    """Run every phase on a fresh copy, and keep each one's figure."""
    if any(compared.problem for compared in kept.values()):
        return
    with side.places.copied(side.prepared) as address:
        with side.peer.served(address, condition.processes):
            share = load.shared_by(condition.processes)
            timings, problem = _run(
                partial(side.open, address, share),
                partial(side.places.analyze, address),
                condition.processes,
            )
    for phase, compared in kept.items():
        compared.problem = problem
        if problem is None:
            compared.per_second.append(per_second(timings[phase]))


def per_second(timings: Sequence[Timing]) -> float:
    """Return how many operations a second all processes did together."""
    lasted = max(timing.ended for timing in timings) - min(timing.started for timing in timings)
    return sum(timing.operations for timing in timings) / lasted


def _run(
    open_runner: Callable[[], Runner], analyze: Callable[[], None], processes: int
) -> tuple[dict[str, list[Timing]], str | None]:
    """Run every phase in so many processes; return each one's timings, or what went wrong."""
    barrier, answers = _FORKING.Barrier(processes), _FORKING.Queue()
    arguments = (open_runner, analyze, barrier, answers)
    workers = [_FORKING.Process(target=_work, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    give_up = time.monotonic() + _PATIENCE_SECONDS
    try:
        collected: list[dict[str, Timing] | str] = [
            answers.get(timeout=max(0.0, give_up - time.monotonic())) for _ in workers
        ]
    except Empty:
        return {}, f"not done within {_PATIENCE_SECONDS} s"
    finally:
        for worker in workers:
            worker.join(max(1.0, give_up - time.monotonic()))
            worker.kill()
    problems = [answer for answer in collected if isinstance(answer, str)]
    if problems:
        return {}, min(problems, key=lambda problem: "BrokenBarrier" in problem)
    timings = [answer for answer in collected if not isinstance(answer, str)]
    return {phase: [each[phase] for each in timings] for phase in PHASES}, None


def _work(
    open_runner: Callable[[], Runner],
    analyze: Callable[[], None],
    barrier: Barrier,
    answers: Any,
) -> None:
    timings: dict[str, Timing] = {}
    gc.freeze()  # what the parent has recorded is not this process's to look through
    try:
        runner = open_runner()
        for phase in PHASES:
            if barrier.wait(_PATIENCE_SECONDS) == 0:
                analyze()  # once, between the phases
            barrier.wait(_PATIENCE_SECONDS)
            started = time.monotonic()
            done = runner.run(phase)
            ended = done.ended if isinstance(done, Drained) else time.monotonic()
            operations = done.jobs if isinstance(done, Drained) else done
            timings[phase] = Timing(started, ended, operations, [])
        runner.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this side's figure
        barrier.abort()
        answers.put(f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        answers.put(timings)
