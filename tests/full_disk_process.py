"""What `test_database_trouble.py` runs on a disk of its own that fills up.

    python full_disk_process.py FOLDER

It adds jobs until there is no room, makes room, goes on, runs them all, and prints as JSON what it
saw.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Optional

from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.errors import DatabaseUnavailable
from cl_server_shared.models import Base
from job_backends import complete, engine_for

LARGE = {"text": "x" * 20_000}


def add_until_refused(repository: SQLAlchemyJobRepository, taken: list[str]) -> str:
    """Add jobs; return what the refusal said."""
    for number in range(10_000):
        try:
            taken.append(
                repository.add_job(Job(job_id=f"job-{number:05}", task_type="t", params=LARGE))
            )
        except DatabaseUnavailable as error:
            return str(error)
    raise AssertionError("the disk did not fill up")


def complete_one(repository: SQLAlchemyJobRepository, done: list[str]) -> Optional[str]:
    """Run one job where that is possible; return what the refusal said."""
    try:
        (claimed,) = repository.fetch_next_jobs(["t"], 1)
        complete(repository, claimed.claim, LARGE)
    except DatabaseUnavailable as error:
        return str(error)
    done.append(claimed.job.job_id)
    return None


def main(folder: Path) -> None:
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * 9_000_000)
    engine = engine_for(f"sqlite:///{folder}/media_store.db")
    Base.metadata.create_all(engine)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=600)
    repository.register_instance("w", {}, 1)
    taken: list[str] = []
    done: list[str] = []
    refused_add = add_until_refused(repository, taken)
    taken_while_full = len(taken)
    refused_completion = complete_one(repository, done)

    os.truncate(ballast, 0)
    repository.add_job(Job(job_id="after", task_type="t"))
    taken.append("after")
    for claim in repository.renew_lease(0) or []:  # claimed just before there was no room
        complete(repository, claim, {})
        done.append(claim.job_id)
    while claimed := repository.fetch_next_jobs(["t"], 1):
        complete(repository, claimed[0].claim, {})
        done.append(claimed[0].job.job_id)
        ballast.unlink(missing_ok=True)
    with engine.connect() as connection:
        jobs = connection.execute(text("SELECT job_id FROM jobs ORDER BY id")).scalars().all()
        twice = connection.execute(
            text("SELECT entry_id, event_type FROM job_events GROUP BY 1, 2 HAVING count(*) > 1")
        ).all()
    repository.release_instance()
    engine.dispose()
    print(
        json.dumps(
            {
                "refused_add": refused_add,
                "refused_completion": refused_completion,
                "taken": taken,
                "taken_while_full": taken_while_full,
                "jobs_after": list(jobs),
                "completed": sorted(done),
                "told_twice": [list(row) for row in twice],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
