"""The processes that `bench.waking` starts: a worker that notes its claims, and one that commits.

python -m bench.waking_processes worker CLAIMS_FILE
python -m bench.waking_processes commit URL PER_SECOND
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from cl_ml_tools import ComputeModule
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.engine import create_database_engine, sqlite_module

TASK_TYPE = "bench_wake"


class Waking(ComputeModule):
    """Does nothing but say when it began."""

    @property
    def supported_task_types(self) -> list[str]:
        """Its one task."""
        return [TASK_TYPE]

    async def process(
        self,
        job_id: str,
        task_type: str,
        params: dict[str, Any],
        progress_callback: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """Return the time."""
        return {"status": "ok", "task_output": {"began_ns": time.time_ns()}}


def run_worker(claims_file: str) -> None:
    """Be a `cl-server worker`, and write when each of its claims was made."""
    descriptor = os.open(claims_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    fetch = SQLAlchemyJobRepository.fetch_next_jobs

    def fetch_and_note(self: SQLAlchemyJobRepository, *args: Any) -> Any:
        claimed = fetch(self, *args)
        lines = [f"{job.job.job_id} {time.time_ns()}\n" for job in claimed] or ["- 0\n"]
        os.write(descriptor, "".join(lines).encode())
        return claimed

    SQLAlchemyJobRepository.fetch_next_jobs = fetch_and_note  # type: ignore[method-assign]
    sys.argv = ["cl-server", "worker"]
    runpy.run_module("cl_server", run_name="__main__", alter_sys=True)


def commit(url: str, per_second: float) -> None:
    """Commit to a table that has nothing to do with jobs, at a steady rate, until it is killed."""
    module = sqlite_module() if url.startswith("sqlite") else None
    engine = create_database_engine(url, module=module)
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS bench_commits (n INTEGER)"))
        connection.execute(text("INSERT INTO bench_commits VALUES (0)"))
        connection.commit()
        due = time.monotonic()
        while True:
            due = max(due + 1 / per_second, time.monotonic() - 0.01)
            time.sleep(max(0.0, due - time.monotonic()))
            connection.execute(text("UPDATE bench_commits SET n = n + 1"))
            connection.commit()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "worker":
        run_worker(*arguments)
    else:
        commit(arguments[0], float(arguments[1]))
