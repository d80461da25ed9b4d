"""`python -m bench.held_transaction`: full load on PostgreSQL while a transaction is held open.

What is deleted meanwhile cannot be vacuumed away: a queue whose claims read it gets slower and
slower. Prints, for each minute, the jobs a second and the tables' sizes, and keeps them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
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
from .report import RESULTS, write_section
from .samples import PARAMS, TASK_OUTPUT, TASK_TYPE, Sample

_SPAWNING = multiprocessing.get_context("spawn")

# What each process adds, claims and completes at once, over and over.
_BATCH = 50

# What is to be reached: the slowest minute's jobs, of the first minute's.
_LIMIT = 0.7

# A shorter run is a look whether it works, and no figure to keep.
_KEPT_MINUTES = 10

_TABLES = ("jobs", "queue_entries", "job_events")


@dataclass(frozen=True)
class Part:
    """What was done in one part of the time.

    Attributes:
        per_second: Jobs added, claimed and completed a second.
        megabytes: How large each table was at its end, with its indexes.
    """

    per_second: float
    megabytes: dict[str, float]

    def __str__(self) -> str:
        sizes = ", ".join(f"{table} {size:,.0f} MB" for table, size in self.megabytes.items())
        return f"{self.per_second:,.0f} jobs/s; {sizes}"


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
            found = _load(address, arguments.processes, arguments.minutes * 60 / parts, parts)
        version = databases.version
    finally:
        databases.close()
    kept = min(part.per_second for part in found) / found[0].per_second
    print(f"the slowest part of the first: {kept:.2f} (to reach: {_LIMIT})")
    if arguments.minutes >= _KEPT_MINUTES:
        _keep(found, kept, version, arguments.processes)
    return 0 if kept >= _LIMIT else 1


def _keep(found: list[Part], kept: float, version: str, processes: int) -> None:
    """Write the figures to the results."""
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "postgresql": version,
        "processes": processes,
        "slowest of the first": kept,
        "parts": [asdict(part) for part in found],
    }
    (RESULTS / "held_transaction.json").write_text(json.dumps(document, indent=2) + "\n")
    lines = [
        f"On {document['date']}, PostgreSQL {version}, {processes} processes that add, claim and "
        f"complete {_BATCH} at a time. The slowest minute of the first: {kept:.2f} "
        f"(to reach: {_LIMIT}).",
        "",
        f"| minute | jobs a second | {' | '.join(f'{table}, MB' for table in _TABLES)} |",
        f"| ---: | ---: |{' ---: |' * len(_TABLES)}",
    ]
    for number, part in enumerate(found, 1):
        sizes = " | ".join(f"{part.megabytes[table]:,.0f}" for table in _TABLES)
        lines.append(f"| {number} | {part.per_second:,.0f} | {sizes} |")
    write_section("held transaction", lines)


def _load(address: str, processes: int, seconds: float, parts: int) -> list[Part]:
    """Work for so many parts of so many seconds; print and return each."""
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
        found: list[Part] = []
        while len(found) < parts:
            before, began = done.value, time.monotonic()
            time.sleep(seconds)
            per_second = (done.value - before) / (time.monotonic() - began)
            found.append(Part(per_second, _megabytes(address)))
            print(f"part {len(found)}: {found[-1]}", flush=True)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    return found


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


def _megabytes(address: str) -> dict[str, float]:
    query = "SELECT pg_total_relation_size(%s) / 1e6::float"
    with psycopg.connect(address) as connection:
        rows = {table: connection.execute(query, [table]).fetchone() for table in _TABLES}
    return {table: row[0] for table, row in rows.items() if row is not None}


if __name__ == "__main__":
    sys.exit(main())
