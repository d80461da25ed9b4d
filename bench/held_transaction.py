"""`python -m bench.held_transaction`: full load on PostgreSQL while a transaction is held open.

What is deleted meanwhile cannot be vacuumed away: a queue whose claims read it gets slower and
slower. Prints, for each minute, the jobs a second and the tables' sizes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from functools import partial
from typing import Any

import psycopg
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.protocols import Completion, JobToAdd
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.ids import new_job_id

from .peers.ours import OursPeer, engine_at
from .places import PostgresqlDatabases, postgresql_url
from .samples import PARAMS, TASK_OUTPUT, TASK_TYPE, Sample

_SPAWNING = multiprocessing.get_context("spawn")

# What each process adds, claims and completes at once, over and over.
_BATCH = 50

# What is to be reached: the last minute's jobs, of the first minute's.
_LIMIT = 0.7

_TABLES = ("jobs", "queue_entries", "job_events")


def main() -> int:
    """Run the load and print each minute; 1 where it got too slow."""
    parser = argparse.ArgumentParser(prog="python -m bench.held_transaction", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--processes", type=int, default=2, help="how many work (2)")
    parser.add_argument("--parts", type=int, default=0, help="how many lines (one a minute)")
    arguments = parser.parse_args()
    os.environ["BROADCAST_TYPE"] = "none"
    databases = PostgresqlDatabases(postgresql_url())
    if databases.problem is not None:
        print(databases.problem)
        return 2
    try:
        address = databases.address(
            databases.prepare(partial(OursPeer("postgresql").create, sample=Sample("empty")))
        )
        with psycopg.connect(address) as holder:  # its first statement opens a transaction
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            holder.execute("SELECT count(*) FROM jobs")
            parts = arguments.parts or max(1, round(arguments.minutes))
            rates = _load(address, arguments.processes, arguments.minutes * 60 / parts, parts)
    finally:
        databases.close()
    kept = rates[-1] / rates[0]
    print(f"the last part of the first: {kept:.2f} (to reach: {_LIMIT})")
    return 0 if kept >= _LIMIT else 1


def _load(address: str, processes: int, seconds: float, parts: int) -> list[float]:
    """Work for so many parts of so many seconds; print and return the jobs a second of each."""
    done = _SPAWNING.Value("q", 0)
    stop = _SPAWNING.Event()
    workers = [
        _SPAWNING.Process(target=_work, args=(address, done, stop)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        while done.value == 0:  # they import for a while first
            if not any(worker.is_alive() for worker in workers):
                raise RuntimeError("no process works")
            time.sleep(0.05)
        rates = []
        for part in range(parts):
            before, began = done.value, time.monotonic()
            time.sleep(seconds)
            rates.append((done.value - before) / (time.monotonic() - began))
            print(f"part {part + 1}: {rates[-1]:,.0f} jobs/s; {_sizes(address)}", flush=True)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    return rates


def _work(address: str, done: Any, stop: Any) -> None:
    engine = engine_at(address)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    while not stop.is_set():
        jobs = [Job(job_id=new_job_id(), task_type=TASK_TYPE, params=PARAMS) for _ in range(_BATCH)]
        repository.add_jobs([JobToAdd(job) for job in jobs])
        claimed = repository.fetch_next_jobs([TASK_TYPE], _BATCH)
        repository.complete_jobs([Completion(each.claim, TASK_OUTPUT) for each in claimed])
        with done.get_lock():
            done.value += len(claimed)
    repository.release_instance()
    engine.dispose()


def _sizes(address: str) -> str:
    sizes = []
    with psycopg.connect(address) as connection:
        for table in _TABLES:
            found = connection.execute(
                "SELECT pg_size_pretty(pg_total_relation_size(%s))", [table]
            ).fetchone()
            assert found is not None
            sizes.append(f"{table} {found[0]}")
    return ", ".join(sizes)


if __name__ == "__main__":
    sys.exit(main())
