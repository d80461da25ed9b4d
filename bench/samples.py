"""The database files that are measured: empty, or with 100,000 rows that must not matter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text

from cl_server_shared.models import Base

TASK_TYPE = "bench_task"
OTHER_TASK_TYPE = "bench_other"
PARAMS = {"input_paths": ["input/photo.jpg"], "output_paths": [], "width": 512, "height": 512}
TASK_OUTPUT = {"output_paths": ["output/resized_photo.jpg"], "width": 512, "height": 341}

_NUMBERS = """
    WITH RECURSIVE numbers (n) AS (
        SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count
    )
"""

# 2026-01-01, in milliseconds: older than whatever the measures add, so first in the queue.
_THEN = 1_767_225_600_000

_FINISHED = (
    """
    INSERT INTO jobs (job_id, task_type, params, status, progress, created_at, started_at,
                      completed_at, task_output, retry_count, max_retries, created_by)
    {numbers}
    SELECT printf('019b7-finished-%08d', n), :task_type, '{{"width": 512}}', 'completed', 100,
           :then + n, :then + n, :then + n, '{{"width": 512}}', 0, 3, 'someone'
    FROM numbers
    """,
    """
    INSERT INTO job_events (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
    SELECT jobs.id, kind.value, 1, 0, created_at, created_at
    FROM jobs CROSS JOIN json_each('["queued", "started", "completed"]') AS kind
    """,
)

_WAITING = (
    """
    INSERT INTO jobs (job_id, task_type, params, status, progress, created_at, retry_count,
                      max_retries, created_by)
    {numbers}
    SELECT printf('019b7-waiting-%08d', n), :task_type, '{{"width": 512}}', 'queued', 0,
           :then + n, 0, 3, 'someone'
    FROM numbers
    """,
    """
    INSERT INTO queue_entries (id, job_id, task_type, priority, enqueued_at, rank, claim_seq,
                               cancel_requested)
    SELECT id, job_id, task_type, 5, created_at, created_at - 5 * 600000, 0, 0 FROM jobs
    """,
    """
    INSERT INTO job_events (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
    SELECT id, 'queued', 1, 0, created_at, created_at FROM jobs
    """,
)


@dataclass(frozen=True)
class Sample:
    """What a database holds before it is measured.

    Attributes:
        name: As the results call it.
        finished: How many completed jobs of the measured task type.
        waiting: How many queued jobs of another task type.
    """

    name: str
    finished: int = 0
    waiting: int = 0


SAMPLES = (
    Sample("empty"),
    Sample("1 k finished", finished=1_000),
    Sample("100 k finished", finished=100_000),
    Sample("100 k waiting of another type", waiting=100_000),
)


def open_engine(path: Path, **connect_args: Any) -> Engine:
    """Return an engine for a SQLite file, made as SPEC.md says that services make theirs."""
    connect_args["check_same_thread"] = False
    engine = create_engine(f"sqlite:///{path}", connect_args=connect_args)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def make_sample(sample: Sample, path: Path) -> None:
    """Write a database file with the repository's tables and the sample's rows."""
    engine = open_engine(path)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        _insert(connection, _FINISHED, TASK_TYPE, sample.finished)
        _insert(connection, _WAITING, OTHER_TASK_TYPE, sample.waiting)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()  # the last connection checkpoints: the file alone is the database


def _insert(
    connection: Connection, statements: tuple[str, ...], task_type: str, count: int
) -> None:
    if not count:
        return
    for statement in statements:
        values = {"task_type": task_type, "then": _THEN, "count": count}
        connection.execute(text(statement.format(numbers=_NUMBERS)), values)
