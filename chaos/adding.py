"""Adds jobs through the library, in a process of its own: `python -m chaos.adding FILE SECONDS`.

Each id is written to the file once the database has acknowledged it.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

from chaos.tasks import TASK_TYPE
from cl_ml_tools import Job
from cl_ml_tools.errors import DuplicateJob
from cl_ml_tools.protocols import JobToAdd
from cl_server_shared import Config, SQLAlchemyJobRepository
from cl_server_shared.engine import (
    create_database_engine,
    create_session_factory,
    sqlite_module,
)
from cl_server_shared.errors import SharedError
from cl_server_shared.ids import new_job_id

__all__ = ["MAX_RETRIES", "PAUSE_SECONDS", "random_params"]

MAX_RETRIES = 50
PAUSE_SECONDS = 0.1
MOODS = ["completes"] * 7 + ["raises", "later", "final"]


def random_params() -> dict[str, Any]:
    """Return the parameters of one job."""
    return {"milliseconds": random.randrange(60), "mood": random.choice(MOODS)}


def main() -> None:
    """Add one job or a handful, again and again."""
    acknowledged, seconds = Path(sys.argv[1]), float(sys.argv[2])
    engine = create_database_engine(Config.STORE_DATABASE_URL, module=sqlite_module())
    repository = SQLAlchemyJobRepository(create_session_factory(engine))
    give_up = time.monotonic() + seconds
    with acknowledged.open("a", buffering=1) as out:
        while time.monotonic() < give_up:
            jobs = [
                JobToAdd(
                    Job(job_id=new_job_id(), task_type=TASK_TYPE, params=random_params()),
                    max_retries=MAX_RETRIES,
                    priority=random.randrange(11),
                )
                for _ in range(random.choice([1, 1, 5]))
            ]
            add_surely(repository, jobs)
            out.writelines(f"{item.job.job_id}\n" for item in jobs)
            time.sleep(PAUSE_SECONDS)
    repository.flush_events(2)


def add_surely(repository: SQLAlchemyJobRepository, jobs: list[JobToAdd]) -> None:
    """Add jobs; where the answer is lost, ask again: they are there, or they are added now."""
    while True:
        try:
            if len(jobs) == 1:
                repository.add_job(jobs[0].job, max_retries=MAX_RETRIES)
            else:
                repository.add_jobs(jobs)
        except DuplicateJob:
            return
        except SharedError:
            time.sleep(PAUSE_SECONDS)
        else:
            return


if __name__ == "__main__":
    main()
