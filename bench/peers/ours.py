"""CL Server itself, behind the interface of its peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.protocols import Completion, JobToAdd
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.engine import create_database_engine
from cl_server_shared.ids import new_job_id

from ..samples import PARAMS, TASK_OUTPUT, TASK_TYPE, Sample, fill_database, open_engine
from .peer import Drained, Peer, PeerQueue, SteppedQueue

__all__ = ["BATCH", "OursPeer", "OursQueue", "engine_at", "file_at"]

# How many jobs one claim, and one completion, has where a queue is drained.
BATCH = 100


class OursPeer(Peer):
    """`SQLAlchemyJobRepository` with its public methods.

    Args:
        database: `sqlite` or `postgresql`.
        synchronous: SQLite's: `NORMAL` or `FULL`.
    """

    name = "CL Server"
    distribution = "cl-server-shared"
    module = "cl_server_shared"
    writes = (
        "1 job inserted, updated twice; 1 queue entry inserted, updated, deleted; 3 events; result"
    )

    def __init__(self, database: str, synchronous: str = "NORMAL") -> None:
        self.database = database  # type: ignore[misc]
        self._synchronous = synchronous

    def create(self, address: str, sample: Sample) -> None:
        """Make its tables and the sample's rows."""
        engine = engine_at(address, self._synchronous)
        fill_database(sample, engine)
        engine.dispose()

    def open(self, address: str) -> PeerQueue:
        """Open the repository."""
        return OursQueue(engine_at(address, self._synchronous))


class OursQueue(SteppedQueue):
    """The repository on an engine.

    Args:
        engine: Closed with it.
        clock: Milliseconds since the epoch; `None`: each database's usual one.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int] | None = None) -> None:
        self._engine = engine
        self._repository = SQLAlchemyJobRepository(sessionmaker(bind=engine), clock=clock)
        self._repository.register_instance("bench", {}, concurrency=1)

    def add_one(self) -> None:
        """Add a job."""
        self._repository.add_job(_job(), created_by="someone")

    def add_many(self, count: int) -> None:
        """Add jobs in one transaction."""
        self._repository.add_jobs([JobToAdd(_job(), created_by="someone") for _ in range(count)])

    def take(self) -> Any:
        """Take the next job."""
        claimed = self._repository.fetch_next_jobs([TASK_TYPE], 1)
        return claimed[0].claim if claimed else None

    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""
        self._repository.complete_jobs([Completion(taken, TASK_OUTPUT)])

    def drain(self, at_most: int) -> Drained:
        """Take and finish jobs, `BATCH` at a time."""
        done = 0
        while done < at_most:
            claimed = self._repository.fetch_next_jobs([TASK_TYPE], BATCH)
            if not claimed:
                break
            self._repository.complete_jobs(
                [Completion(each.claim, TASK_OUTPUT) for each in claimed]
            )
            done += len(claimed)
        return Drained(done, time.monotonic())

    def close(self) -> None:
        """Close the database."""
        self._repository.release_instance()
        self._engine.dispose()


def _job() -> Job:
    return Job(job_id=new_job_id(), task_type=TASK_TYPE, params=PARAMS)


def engine_at(address: str, synchronous: str = "NORMAL") -> Engine:
    """Return an engine for a folder with an SQLite file, or for a libpq URL."""
    if address.startswith("postgresql"):
        return create_database_engine(address)
    return open_engine(file_at(address), synchronous)


def file_at(address: str) -> Path:
    """Return the database file in a folder."""
    return Path(address) / "jobs.db"
