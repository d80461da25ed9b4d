"""How long a claim's transaction takes, whatever else is in the tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.protocols import Claim, Completion, JobToAdd
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.ids import new_job_id

from .peers.ours import OursPeer, engine_at
from .places import Places
from .samples import OTHER_TASK_TYPE, PARAMS, TASK_OUTPUT, TASK_TYPE, Sample

__all__ = ["CLAIM_SAMPLES", "ClaimTimes", "measure_claims"]

_MANY = 100_000

CLAIM_SAMPLES = (
    Sample("empty"),
    Sample("1 M finished", finished=1_000_000),
    Sample("100 k waiting", waiting=_MANY, waiting_type=TASK_TYPE),
    Sample("100 k waiting of a type that nobody serves", waiting=_MANY),
    Sample("100 k waiting of a paused type", waiting=_MANY, is_paused=True),
    Sample("100 k not yet due", waiting=_MANY, waiting_type=TASK_TYPE, is_due=False),
)

# How many task types the claimer may run.
TYPE_COUNTS = (1, 10)


@dataclass
class ClaimTimes:
    """How long claims took on one database.

    Attributes:
        database: `sqlite` or `postgresql`.
        sample: What it held.
        task_types: How many task types were asked for.
        milliseconds: The median claim of each round.
    """

    database: str
    sample: str
    task_types: int
    milliseconds: list[float] = field(default_factory=list)


def measure_claims(
    database: str,
    places: Places,
    rounds: int,
    claims: int,
    samples: Sequence[Sample],
    report_progress: Callable[[str], None],
) -> list[ClaimTimes]:
    """Measure claims on each sample with one and with ten task types, interleaved.

    Args:
        database: `sqlite` or `postgresql`.
        places: Where.
        rounds: How many medians each figure has.
        claims: How many claims each median is taken from.
        samples: What the databases hold; the first is what the others are compared with.
        report_progress: Takes a line for whoever waits.
    """
    with ExitStack() as at_end:
        claimers = []
        for sample in samples:
            report_progress(f"{database}: making a database for claims: {sample.name}")
            name = places.prepare(partial(OursPeer(database).create, sample=sample))
            claimer = _Claimer(places.address(name), sample)
            at_end.callback(claimer.close)
            claimers.append(claimer)
        found = {
            (claimer.sample, count): ClaimTimes(database, claimer.sample.name, count)
            for count in TYPE_COUNTS
            for claimer in claimers
        }
        report_progress(f"{database}: claims")
        _claim_in_turns(claimers, 1, claims)  # statements are prepared, pages read
        for _ in range(rounds):
            for count in TYPE_COUNTS:
                for claimer, taken in _claim_in_turns(claimers, count, claims):
                    found[claimer.sample, count].milliseconds.append(1000 * median(taken))
    return list(found.values())


def _claim_in_turns(
    claimers: Sequence[_Claimer], type_count: int, claims: int
) -> list[tuple[_Claimer, list[float]]]:
    """Have each claim so many jobs, one of each in turns; return the seconds that each took."""
    for claimer in claimers:
        claimer.add(type_count, claims)
    taken: list[tuple[_Claimer, list[float]]] = [(claimer, []) for claimer in claimers]
    for number in range(claims):
        for claimer, seconds in taken if number % 2 else reversed(taken):
            seconds.append(claimer.claim_one())
    for claimer in claimers:
        claimer.complete()
    return taken


class _Claimer:
    """A repository on one sample's database."""

    def __init__(self, address: str, sample: Sample) -> None:
        self.sample = sample
        self._engine = engine_at(address)
        self._repository = SQLAlchemyJobRepository(sessionmaker(bind=self._engine))
        self._repository.register_instance("bench", {}, concurrency=1)

    def add(self, type_count: int, count: int) -> None:
        """Add so many jobs of so many task types."""
        task_types = [TASK_TYPE, *(f"bench_type_{number}" for number in range(1, type_count))]
        self._repository.add_jobs([JobToAdd(job) for job in _jobs(task_types, count)])
        # Whoever claims does not know what is paused: the repository leaves it out.
        self._asked = [*task_types, OTHER_TASK_TYPE] if self.sample.is_paused else task_types
        self._claimed: list[Claim] = []

    def claim_one(self) -> float:
        """Claim a job and return how long it took, in seconds."""
        before = time.perf_counter()
        claimed = self._repository.fetch_next_jobs(self._asked, 1)
        taken = time.perf_counter() - before
        self._claimed.append(claimed[0].claim)
        return taken

    def complete(self) -> None:
        """Complete what was claimed."""
        self._repository.complete_jobs([Completion(claim, TASK_OUTPUT) for claim in self._claimed])

    def close(self) -> None:
        self._repository.release_instance()
        self._engine.dispose()


def _jobs(task_types: Sequence[str], count: int) -> Iterator[Job]:
    for number in range(count):
        task_type = task_types[number % len(task_types)]
        yield Job(job_id=new_job_id(), task_type=task_type, params=PARAMS)
