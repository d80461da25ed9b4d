"""The implementations that one conformance suite holds, and what sets them apart, by name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Callable, Optional, Union

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import StaticPool

from cl_ml_tools import Job
from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.protocols import Claim, Completion
from cl_ml_tools.testing import InMemoryJobRepository, InMemoryJobs, RecordingBroadcaster
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.models import Base

__all__ = [
    "Backend",
    "Clock",
    "complete",
    "give_back",
    "memory_backend",
    "sql_backend",
    "wait_until",
]

LEASE_SECONDS = 60.0

Repository = Union[InMemoryJobRepository, SQLAlchemyJobRepository]


class Clock:
    """The time, which goes on only where a test says so; both the wall's and the monotonic one."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000
        self.monotonic_seconds = 1000.0

    def advance(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)
        self.monotonic_seconds += seconds

    def __call__(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.monotonic_seconds


@dataclass
class Backend:
    """One implementation on one database of the test's own.

    Attributes:
        name: For test ids.
        make: Returns a repository object more on the same jobs.
        clock: Their time.
        broadcaster: What they all publish with.
        leases_end: In-memory SQLite dies with its process: there a lease does not end.
        rescues_at_first_sight: SQLite has no clock of its own: a rescuer must see a lease over twice.
        joins_sessions: Whether `add_job` takes the caller's SQLAlchemy session.
        engine: Of the database, where there is one.
    """

    name: str
    make: Callable[[], Repository]
    clock: Clock
    broadcaster: RecordingBroadcaster
    leases_end: bool = True
    rescues_at_first_sight: bool = True
    joins_sessions: bool = False
    engine: Optional[Engine] = None
    ids: Iterator[int] = field(default_factory=count)

    def add(self, repository: Repository, task_type: str = "t", **options: Any) -> str:
        """Add a job with an id of its own."""
        job_id = options.pop("job_id", None) or f"job-{next(self.ids)}"
        params = options.pop("params", {})
        return repository.add_job(Job(job_id=job_id, task_type=task_type, params=params), **options)

    def events_of(self, job_id: str) -> list[dict[str, Any]]:
        return [event for event in self.broadcaster.events if event["job_id"] == job_id]

    def told(self, job_id: str) -> list[str]:
        return [event["event_type"] for event in self.events_of(job_id)]


def complete(repository: Any, claim: Claim, task_output: Optional[dict[str, Any]]) -> None:
    """Complete one job; `ClaimLost` where it is refused."""
    if repository.complete_jobs([Completion(claim, task_output)]):
        raise ClaimLost(claim.job_id)


def give_back(repository: Any, claim: Claim) -> None:
    """Give one job back; `ClaimLost` where it is refused."""
    if repository.give_back_jobs([claim]):
        raise ClaimLost(claim.job_id)


def memory_backend() -> Backend:
    clock, jobs, broadcaster = Clock(), InMemoryJobs(), RecordingBroadcaster()

    def make() -> InMemoryJobRepository:
        repository = InMemoryJobRepository(jobs, lease_seconds=LEASE_SECONDS, clock=clock)
        repository.broadcaster = broadcaster
        return repository

    return Backend("memory", make, clock, broadcaster)


@contextmanager
def sql_backend(name: str, url: str) -> Iterator[Backend]:
    """Yield the repository in SQL; what it still has to write is written before the end."""
    in_memory = ":memory:" in url
    clock, broadcaster = Clock(), RecordingBroadcaster()
    with ExitStack() as at_end:
        engine = engine_for(url)
        at_end.callback(engine.dispose)
        if url.startswith("sqlite"):  # PostgreSQL's has them
            Base.metadata.create_all(bind=engine)

        def make() -> SQLAlchemyJobRepository:
            repository = SQLAlchemyJobRepository(
                sessionmaker(bind=engine),
                lease_seconds=LEASE_SECONDS,
                clock=clock,
                monotonic=clock.monotonic,
            )
            repository.broadcaster = broadcaster
            at_end.callback(repository.flush_events, 5)
            at_end.callback(repository.release_instance)
            return repository

        yield Backend(
            name,
            make,
            clock,
            broadcaster,
            leases_end=not in_memory,
            rescues_at_first_sight=not url.startswith("sqlite"),
            joins_sessions=True,
            engine=engine,
        )


def engine_for(url: str) -> Engine:
    """Return an engine made as SPEC.md has it: as services make theirs."""
    if not url.startswith("sqlite"):
        return create_engine(url)
    memory = {"poolclass": StaticPool} if ":memory:" in url else {}
    engine = create_engine(url, connect_args={"check_same_thread": False}, **memory)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def wait_until(condition: Callable[[], Any], what: str, timeout_seconds: float = 20) -> None:
    """Return once the condition holds; fail with `what` where it does not in time."""
    give_up = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up, f"not in {timeout_seconds} s: {what}"
        time.sleep(0.01)
