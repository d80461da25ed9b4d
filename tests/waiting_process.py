"""What `test_wakeup.py` runs in another process: it waits for jobs and claims one.

    python waiting_process.py URL TIMEOUT_SECONDS

It prints `ready`, then whether the wait found something, then the claimed job's id, if any.
"""

from __future__ import annotations

import sys

from sqlalchemy.orm import sessionmaker

from cl_server_shared import SQLAlchemyJobRepository
from job_backends import engine_for


def main() -> None:
    url, timeout_seconds = sys.argv[1], float(sys.argv[2])
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine_for(url)))
    assert repository.fetch_next_job(["t"]) is None
    print("ready", flush=True)
    print(repository.wait_for_jobs(timeout_seconds), flush=True)
    job = repository.fetch_next_job(["t"])
    print(None if job is None else job.job_id, flush=True)


if __name__ == "__main__":
    main()
