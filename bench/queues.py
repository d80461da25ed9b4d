"""The two sides of each comparison: the repository, and its own statements on the bare driver."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.protocols import Completion
from cl_server_shared import SQLAlchemyJobRepository

from .replay import Connection, Recording, RecordingConnection, Step, record
from .samples import PARAMS, TASK_OUTPUT, TASK_TYPE, Sample, make_sample, open_engine

_TASK_TYPES = [TASK_TYPE]


class Queue(Protocol):
    """What is measured. `claim` and `complete` are a worker's; the plain ones the contract's."""

    def prepare(self, job_id: str) -> Any:
        """Return what `add` takes: made by the caller, so outside of what is measured."""

    def add(self, job: Any) -> None:
        """Add a job."""

    def claim(self) -> Any:
        """Claim the next job; `None` where there is none."""

    def complete(self, claimed: Any) -> None:
        """Complete a claimed job."""

    def claim_plain(self) -> Any:
        """Claim with `fetch_next_job`."""

    def complete_plain(self, claimed: Any) -> None:
        """Complete with `update_job`."""

    def close(self) -> None:
        """Close the database."""


class RepositoryQueue:
    """Through `SQLAlchemyJobRepository`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._repository = SQLAlchemyJobRepository(sessionmaker(bind=self._engine))
        self._repository.register_instance("bench", {}, concurrency=1)

    def prepare(self, job_id: str) -> Job:
        """Return what `add` takes."""
        return Job(job_id=job_id, task_type=TASK_TYPE, params=PARAMS)

    def add(self, job: Job) -> None:
        """Add a job."""
        self._repository.add_job(job, created_by="someone")

    def claim(self) -> Any:
        """Claim the next job; `None` where there is none."""
        claimed = self._repository.fetch_next_jobs(_TASK_TYPES, 1)
        return claimed[0] if claimed else None

    def complete(self, claimed: Any) -> None:
        """Complete a claimed job."""
        self._repository.complete_jobs([Completion(claimed.claim, TASK_OUTPUT)])

    def claim_plain(self) -> Any:
        """Claim with `fetch_next_job`."""
        return self._repository.fetch_next_job(_TASK_TYPES)

    def complete_plain(self, claimed: Job) -> None:
        """Complete with `update_job`."""
        self._repository.update_job(claimed.job_id, status="completed", task_output=TASK_OUTPUT)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()


class RawQueue:
    """The statements that `RepositoryQueue` runs, on `sqlite3`: no checks, no JSON, no objects."""

    def __init__(self, path: Path, recordings: dict[str, Recording]) -> None:
        self._connection = Connection(path)
        self._add = recordings["add"]
        self._claim = recordings["claim"]
        self._complete = recordings["complete"]
        self._complete_plain = recordings["complete_plain"]

    def prepare(self, job_id: str) -> dict[str, Any]:
        """Return what `add` takes."""
        return {"job_id": job_id}

    def add(self, job: dict[str, Any]) -> None:
        """Add a job."""
        self._played(self._add, job)

    def claim(self) -> Any:
        """Claim the next job; `None` where there is none."""
        return self._connection.play(self._claim, {})

    def complete(self, claimed: dict[str, Any]) -> None:
        """Complete a claimed job."""
        self._played(self._complete, claimed)

    claim_plain = claim

    def complete_plain(self, claimed: dict[str, Any]) -> None:
        """Complete with `update_job`."""
        self._played(self._complete_plain, claimed)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _played(self, recording: Recording, job: dict[str, Any]) -> None:
        if self._connection.play(recording, job) is None:
            raise RuntimeError(f"the statements did not find job {job}")


def record_statements(folder: Path) -> dict[str, Recording]:
    """Return what the repository runs for each operation, from running each once.

    Args:
        folder: Where to make a scratch database.
    """
    path = folder / "recorded.db"
    make_sample(Sample("recorded"), path)
    steps: list[Step] = []
    queue = RepositoryQueue(open_engine(path, factory=partial(RecordingConnection, steps=steps)))
    first, second = queue.prepare("recorded-1"), queue.prepare("recorded-2")
    claimed: list[Any] = []
    try:
        return {
            "add": record(steps, lambda: queue.add(first)),
            "claim": record(steps, lambda: claimed.append(queue.claim())),
            "complete": record(steps, lambda: queue.complete(claimed.pop())),
            "add again": record(steps, lambda: queue.add(second)),
            "claim again": record(steps, lambda: claimed.append(queue.claim_plain())),
            "complete_plain": record(steps, lambda: queue.complete_plain(claimed.pop())),
        }
    finally:
        queue.close()
