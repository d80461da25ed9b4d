"""What a database holds before it is measured: nothing, or rows that must not matter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, text

from cl_server_shared.models import Base, TaskSettings

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

# 2100-01-01: due after every measure.
_LATER = 4_102_444_800_000

_FINISHED = (
    f"""
    INSERT INTO jobs (job_id, task_type, params, status, progress, created_at, started_at,
                      completed_at, task_output, retry_count, max_retries, created_by)
    {_NUMBERS}
    SELECT '019b7-finished-' || CAST(100000000 + n AS VARCHAR(9)), CAST(:task_type AS VARCHAR(255)),
           '{{"width": 512}}', 'completed', 100, :then + n, :then + n, :then + n,
           '{{"width": 512}}', 0, 3, 'someone'
    FROM numbers
    """,
    """
    INSERT INTO job_events (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
    SELECT jobs.id, kind.column1, 1, 0, created_at, created_at
    FROM jobs CROSS JOIN (VALUES ('queued'), ('started'), ('completed')) AS kind
    """,
)

_WAITING = (
    f"""
    INSERT INTO jobs (job_id, task_type, params, status, progress, created_at, retry_count,
                      max_retries, created_by)
    {_NUMBERS}
    SELECT '019b7-waiting-' || CAST(100000000 + n AS VARCHAR(9)), CAST(:task_type AS VARCHAR(255)),
           '{{"width": 512}}', 'queued', 0, :then + n, 0, 3, 'someone'
    FROM numbers
    """,
    """
    INSERT INTO queue_entries (id, job_id, task_type, priority, enqueued_at, rank, available_at,
                               claim_seq, cancel_requested)
    SELECT id, job_id, task_type, 5, created_at,
           CASE WHEN :is_due = 1 THEN created_at - 5 * 600000 END,
           CASE WHEN :is_due = 1 THEN NULL ELSE created_at + :later END, 0, 0
    FROM jobs WHERE status = 'queued'
    """,
    """
    INSERT INTO job_events (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
    SELECT id, 'queued', 1, 0, created_at, created_at FROM jobs WHERE status = 'queued'
    """,
)


@dataclass(frozen=True)
class Sample:
    """What a database holds before it is measured.

    Attributes:
        name: As the results call it.
        finished: How many completed jobs of the measured task type.
        waiting: How many jobs wait.
        waiting_type: Of which task type.
        is_due: Whether their time has come.
        is_paused: Whether their task type is paused.
    """

    name: str
    finished: int = 0
    waiting: int = 0
    waiting_type: str = OTHER_TASK_TYPE
    is_due: bool = True
    is_paused: bool = False


SAMPLES = (
    Sample("empty"),
    Sample("1 k finished", finished=1_000),
    Sample("100 k finished", finished=100_000),
    Sample("100 k waiting of another type", waiting=100_000),
)


def open_engine(path: Path, synchronous: str = "NORMAL", **connect_args: Any) -> Engine:
    """Return an engine for a SQLite file, made as SPEC.md says that services make theirs."""
    connect_args["check_same_thread"] = False
    engine = create_engine(f"sqlite:///{path}", connect_args=connect_args)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def make_sample(sample: Sample, path: Path) -> None:
    """Write a database file with the repository's tables and the sample's rows."""
    engine = open_engine(path)
    fill_database(sample, engine)
    engine.dispose()  # the last connection checkpoints: the file alone is the database


def fill_database(sample: Sample, engine: Engine) -> None:
    """Make the repository's tables in an empty database, and the sample's rows."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        _insert(connection, _FINISHED, TASK_TYPE, sample.finished, is_due=True)
        _insert(connection, _WAITING, sample.waiting_type, sample.waiting, is_due=sample.is_due)
        if sample.is_paused:
            connection.execute(
                insert(TaskSettings), {"task_type": sample.waiting_type, "paused_at": _THEN}
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As autovacuum leaves a table that has been there for a while.
        is_postgresql = engine.dialect.name == "postgresql"
        connection.execute(text("VACUUM ANALYZE" if is_postgresql else "ANALYZE"))


def _insert(
    connection: Connection,
    statements: tuple[str, ...],
    task_type: str,
    count: int,
    *,
    is_due: bool,
) -> None:
    if not count:
        return
    values = {
        "task_type": task_type,
        "then": _THEN,
        "later": _LATER - _THEN,
        "count": count,
        "is_due": int(is_due),
    }
    for statement in statements:
        connection.execute(text(statement), values)
