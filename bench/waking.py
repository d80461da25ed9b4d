"""`python -m bench.waking`: how soon an idle worker has a job, and what being idle costs.

Real workers with warm children, on a database of their own; the jobs are added as the store adds them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, text

from cl_ml_tools import Job
from cl_server.migrations import migrate
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.engine import create_database_engine, create_session_factory, sqlite_module

from .report import RESULTS, write_section
from .waking_peers import measure_peers
from .waking_processes import TASK_TYPE

_POSTGRESQL = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1/postgres")
_IDLE_SECONDS = 10.0
_PATIENCE_SECONDS = 30.0


# Idle workers, and unrelated commits a second.
_COMBINATIONS = ((1, 0), (8, 0), (1, 500), (8, 500))


@dataclass(frozen=True)
class Waking:
    """How soon jobs were begun under one condition.

    Attributes:
        side: What ran them: ours on a database and by which way it is woken, or another queue.
        idle: Idle workers.
        commits: Unrelated commits a second.
        claimed_ms: From added to claimed: the median, and the time of 99 %; none of another queue.
        begun_ms: From added to the module's, or the task's, first line.
        idle_percent: What an idle worker takes of a core.
    """

    side: str
    idle: int
    commits: float
    claimed_ms: tuple[float, float] | None
    begun_ms: tuple[float, float]
    idle_percent: float | None


def main() -> int:
    """Measure one condition, or all, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.waking", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--idle", type=int, default=1, help="idle workers (1)")
    parser.add_argument("--commits", type=float, default=0, help="unrelated commits a second (0)")
    parser.add_argument("--jobs", type=int, default=300, help="jobs to add, one at a time (300)")
    parser.add_argument("--all", action="store_true", help="all, and other queues; kept in results")
    arguments = parser.parse_args()
    os.environ["BROADCAST_TYPE"] = "none"
    if not arguments.all:
        found = measure([(arguments.database, arguments.idle, arguments.commits)], arguments.jobs)
        print(_table(found))
        return 0
    conditions = [
        (database, idle, commits)
        for database in ("sqlite", "postgresql")
        for idle, commits in _COMBINATIONS
    ]
    every = measure(conditions, arguments.jobs)
    every += [
        Waking(name, 1, 0, None, _percentiles(took), None)
        for name, took in measure_peers(arguments.jobs, _pause)
    ]
    _keep(every)
    print(_table(every))
    return 0


def measure(conditions: Sequence[tuple[str, int, float]], jobs: int) -> list[Waking]:
    """Measure ours under some conditions, one after another.

    What each leaves on the disk stays there until the end: for minutes after many files were
    deleted ext4 searches 0.5 ms for each new one, as it takes none of their places again.

    Args:
        conditions: Each is `sqlite` or `postgresql`, how many workers are idle, and how many
            unrelated commits there are a second.
        jobs: How many jobs to add under each, one at a time.
    """
    with TemporaryDirectory(prefix="cl-bench-") as folder:
        found = []
        for number, condition in enumerate(conditions):
            place = Path(folder) / str(number)
            place.mkdir()
            found.append(_measure(*condition, jobs, place))
        return found


def _measure(database: str, idle: int, commits: float, jobs: int, folder: Path) -> Waking:
    with ExitStack() as at_end:
        place = at_end.enter_context(_place(database, folder))
        workers = [at_end.enter_context(place.worker(n)) for n in range(idle)]
        if commits:
            at_end.enter_context(place.process("commit", place.url, str(commits)))
        place.run_jobs(20)  # modules are loaded, statements prepared
        before, began = _cpu_seconds(workers), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        share = (_cpu_seconds(workers) - before) / (time.monotonic() - began) / len(workers)
        added = place.run_jobs(jobs)
        claimed, began_at = place.claimed(), place.began()
        return Waking(
            f"CL Server, {database}, {place.way}",
            idle,
            commits,
            _percentiles([claimed[job] - at for job, at in added.items()]),
            _percentiles([began_at[job] - at for job, at in added.items()]),
            100 * share,
        )


def _table(found: Sequence[Waking]) -> str:
    """Return a Markdown table."""
    lines = [
        "| queue | idle workers | unrelated commits/s | added to claimed, ms: p50 / p99 "
        "| added to begun, ms: p50 / p99 | an idle worker, of a core |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        claimed = f"{one.claimed_ms[0]:.1f} / {one.claimed_ms[1]:.1f}" if one.claimed_ms else "-"
        begun = f"{one.begun_ms[0]:.1f} / {one.begun_ms[1]:.1f}"
        share = f"{one.idle_percent:.2f} %" if one.idle_percent is not None else "-"
        lines.append(
            f"| {one.side} | {one.idle} | {one.commits:g} | {claimed} | {begun} | {share} |"
        )
    return "\n".join(lines)


def _keep(found: Sequence[Waking]) -> None:
    """Write the table and the figures to the results."""
    date = time.strftime("%Y-%m-%d")
    document = {"date": date, "found": [asdict(one) for one in found]}
    (RESULTS / "waking.json").write_text(json.dumps(document, indent=2) + "\n")
    title = f"# From added to begun, {date}\n\nWritten by `python -m bench.waking --all`.\n\n"
    table = _table(found)
    (RESULTS / "waking.md").write_text(f"{title}{table}\n")
    write_section("waking", [f"On {date}:", "", *table.splitlines()])


def _pause() -> None:
    """Wait a moment, so that all are idle again."""
    time.sleep(random.uniform(0.02, 0.04))


class _Place:
    """A database with the store's tables, and what runs on it."""

    def __init__(self, folder: Path, url: str, engine: Engine) -> None:
        self.url = url
        self._folder = folder
        self._engine = engine
        self._repository = SQLAlchemyJobRepository(create_session_factory(engine))
        self._storage = FileStorageService(folder / "compute")
        self.way = self._repository.wake_up
        plugin = folder / "waking-1.0.dist-info"
        plugin.mkdir()
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: waking\nVersion: 1.0\n")
        (plugin / "entry_points.txt").write_text(
            "[cl_ml_tools.tasks]\nwaking = bench.waking_processes:Waking\n"
        )
        paths = [str(folder), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        self._environment = {
            **os.environ,
            "CL_SERVER_DIR": str(folder),
            "DATABASE_URL": url,
            "WORKER_CONCURRENCY": "1",
            "WORKER_SUPPORTED_TASKS": TASK_TYPE,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start one of `waking_processes`, and end it."""
        with (self._folder / f"{arguments[0]}-{uuid.uuid4()}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.waking_processes", *arguments],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    @contextmanager
    def worker(self, number: int) -> Iterator[subprocess.Popen[bytes]]:
        """Start a worker and wait until it claims."""
        claims = self._folder / f"claims-{number}"
        with self.process("worker", str(claims)) as process:
            give_up = time.monotonic() + _PATIENCE_SECONDS
            while not claims.exists():
                if process.poll() is not None or time.monotonic() > give_up:
                    logs = [log.read_text() for log in self._folder.glob("worker-*.log")]
                    raise RuntimeError("the worker does not start:\n" + "\n".join(logs))
                time.sleep(0.05)
            yield process

    def run_jobs(self, count: int) -> dict[str, int]:
        """Add jobs, each when the last has ended; return when each was added, in nanoseconds."""
        added = {}
        for _ in range(count):
            job_id = str(uuid.uuid4())
            self._storage.create_job_directory(job_id)  # as the store does
            self._repository.add_job(Job(job_id=job_id, task_type=TASK_TYPE))
            added[job_id] = time.time_ns()
            give_up = time.monotonic() + _PATIENCE_SECONDS
            while True:
                _pause()
                job = self._repository.get_job(job_id)
                assert job is not None
                if job.status == "completed":
                    break
                if time.monotonic() > give_up:
                    raise RuntimeError(f"the job does not end: {job}")
        return added

    def claimed(self) -> dict[str, int]:
        """Return when each job was claimed."""
        lines = [
            line.split()
            for path in self._folder.glob("claims-*")
            for line in path.read_text().splitlines()
        ]
        return {job_id: int(at) for job_id, at in lines}

    def began(self) -> dict[str, int]:
        """Return when each job's module began."""
        field = "json_extract(task_output, '$.began_ns')"
        if self._engine.dialect.name == "postgresql":
            field = "CAST(task_output AS JSON) ->> 'began_ns'"
        with self._engine.connect() as connection:
            rows = connection.execute(text(f"SELECT job_id, {field} FROM jobs"))
            return {job_id: int(at) for job_id, at in rows}


@contextmanager
def _place(database: str, folder: Path) -> Iterator[_Place]:
    if database == "sqlite":
        url, module = f"sqlite:///{folder}/media_store.db", sqlite_module()
        engine = create_database_engine(url, module=module, synchronous="FULL")
        migrate("store", engine)
        yield _Place(folder, url, engine)
        engine.dispose()
        return
    name = f"cl_bench_{uuid.uuid4().hex[:12]}"
    server = create_database_engine(_POSTGRESQL).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        url = server.url.set(database=name).render_as_string(hide_password=False)
        engine = create_database_engine(url)
        migrate("store", engine)
        yield _Place(folder, url, engine)
        engine.dispose()
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def _cpu_seconds(workers: Sequence[subprocess.Popen[bytes]]) -> float:
    """Return what workers and their children have used, all threads of theirs that live."""
    total = 0
    for worker in workers:
        for pid in (worker.pid, *_children(worker.pid)):
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _percentiles(nanoseconds: Sequence[int]) -> tuple[float, float]:
    """Return the median and the time within which 99 % are, in milliseconds."""
    cuts = quantiles(nanoseconds, n=100, method="inclusive")
    return cuts[49] / 1e6, cuts[98] / 1e6


if __name__ == "__main__":
    sys.exit(main())
