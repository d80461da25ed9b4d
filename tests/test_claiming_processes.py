"""Real processes that claim at once: none lost, none twice, nobody waits for each other for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.testing import RecordingBroadcaster
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.models import Base
from cl_server_shared.task_control import TaskControl
from job_backends import Backend, engine_for

PROCESSES = 8
JOBS = 2000


def prepare(url: str) -> Engine:
    engine = engine_for(url)
    if url.startswith("sqlite"):
        Base.metadata.create_all(engine)
    return engine


def run_processes(url: str, what: str, count: int, **environment: str) -> list[list[str]]:
    """Run processes that begin together, and return what each did."""
    program = str(Path(__file__).with_name("claiming_process.py"))
    done = subprocess.run(
        [sys.executable, program, url, what, str(count)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    assert [one["error"] for one in results if one["error"]] == []
    return [one["said"] for one in results]


def add_jobs(engine: Engine, count: int) -> list[str]:
    """Add many jobs in few transactions; who claims them is what is tested."""
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    ids = [f"job-{number:04}" for number in range(count)]
    with sessionmaker(bind=engine).begin() as session:
        for job_id in ids:
            repository.add_job(Job(job_id=job_id, task_type="t"), session=session)
    return ids


def test_eight_processes_claim_each_job_once(database_url: str) -> None:
    engine = prepare(database_url)
    added = add_jobs(engine, JOBS)

    said = run_processes(database_url, "claim", PROCESSES, WORKER_ID="the same for all")

    assert sorted(job_id for lines in said for job_id in lines) == added
    assert sum(bool(lines) for lines in said) > 1
    with engine.connect() as connection:
        statuses = connection.execute(text("SELECT DISTINCT status FROM jobs")).scalars().all()
        assert statuses == ["completed"]
        assert connection.execute(text("SELECT COUNT(*) FROM queue_entries")).scalar_one() == 0
        assert connection.execute(text("SELECT COUNT(*) FROM workers")).scalar_one() == 0
    engine.dispose()


def test_sixteen_claimers_keep_to_a_limit_of_one(database_url: str, tmp_path: Path) -> None:
    engine = prepare(database_url)
    TaskControl(sessionmaker(bind=engine)).limit_task_type("t", 1)
    added = add_jobs(engine, 100)
    (tmp_path / "total").write_text(str(len(added)))

    said = run_processes(database_url, f"alone:{tmp_path}", 16)

    assert sorted(job_id for lines in said for job_id in lines) == added
    engine.dispose()


@pytest.mark.parametrize("rounds", [15, pytest.param(100, marks=pytest.mark.long)])
def test_everything_at_once_ends_without_a_deadlock(database_url: str, rounds: int) -> None:
    engine = prepare(database_url)

    run_processes(database_url, f"mix:{rounds}", PROCESSES)

    with engine.connect() as connection:
        wrong = """
            SELECT COUNT(*) FROM jobs LEFT JOIN queue_entries AS entry ON entry.id = jobs.id
            WHERE (status IN ('queued', 'processing')) <> (entry.id IS NOT NULL)
               OR (status = 'processing') <> (entry.claimed_by IS NOT NULL)
        """
        assert connection.execute(text(wrong)).scalar_one() == 0
        orphans = "SELECT COUNT(*) FROM job_events WHERE entry_id NOT IN (SELECT id FROM jobs)"
        assert connection.execute(text(orphans)).scalar_one() == 0
        assert connection.execute(text("SELECT COUNT(*) FROM workers")).scalar_one() == 0
    engine.dispose()


@pytest.mark.parametrize("limit", [1, 3])
def test_a_stale_plan_takes_no_more_than_it_may(shared_sql: Backend, limit: int) -> None:
    """PostgreSQL, told that the table has one row, once took 61 rows for `LIMIT 1`."""
    assert shared_sql.engine is not None
    repository = shared_sql.make()
    shared_sql.add(repository)
    with shared_sql.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    for _ in range(60):
        shared_sql.add(repository)

    taken = []
    while True:
        claimed = repository.fetch_next_jobs(["t"], limit)
        if not claimed:
            break
        assert len(claimed) <= limit
        taken += [one.job.job_id for one in claimed]
    assert len(taken) == len(set(taken)) == 61


def test_a_row_that_another_claimer_holds_is_passed_over(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.broadcaster = RecordingBroadcaster()
    for job_id in ("first", "second"):
        repository.add_job(Job(job_id=job_id, task_type="t"))
    with engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM queue_entries WHERE job_id = 'first' FOR UPDATE"))
        job = repository.fetch_next_job(["t"])
        assert job is not None and job.job_id == "second"
    job = repository.fetch_next_job(["t"])
    assert job is not None and job.job_id == "first"
    repository.release_instance()
    repository.flush_events(5)
    engine.dispose()


def test_a_job_that_another_claimer_makes_due_is_waited_for(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.broadcaster = RecordingBroadcaster()
    repository.add_job(Job(job_id="j", task_type="t"))
    make_due = "UPDATE queue_entries SET rank = enqueued_at, available_at = NULL"
    with engine.begin() as connection:
        connection.execute(text("UPDATE queue_entries SET rank = NULL, available_at = 1"))
    with ThreadPoolExecutor() as threads:
        with engine.begin() as connection:
            connection.execute(text(make_due))
            claiming = threads.submit(repository.fetch_next_job, ["t"])
            wait([claiming], timeout=0.2)
        job = claiming.result()
    assert job is not None and job.job_id == "j"
    repository.release_instance()
    repository.flush_events(5)
    engine.dispose()
