"""One job by its id: looking at it, locking it, changing its fields, removing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Optional

from cl_ml_tools.broadcast import job_event
from cl_ml_tools.jobs import Job, can_be_stored, check_progress_change

from ..transaction import Transaction
from .statement import statement

__all__ = [
    "JobState",
    "delete_job",
    "lock_job",
    "progress_event",
    "select_job",
    "set_fields",
    "storable",
]

# SQLite is told the indexes: its statistics may be of a time when the tables were small.
_STATE = """
    SELECT jobs.id, jobs.task_type, jobs.status, jobs.progress, jobs.retry_count,
           jobs.max_retries, entry.claimed_by, entry.claim_seq,
           worker.lease_expires_at > :now AS lease_is_live
    FROM {jobs} LEFT JOIN {entries} ON entry.job_id = jobs.job_id
    LEFT JOIN workers AS worker ON worker.instance_id = entry.claimed_by
    WHERE jobs.job_id = :job_id
"""
_SELECT_STATE = statement(
    _STATE.format(
        jobs="jobs INDEXED BY ix_jobs_job_id",
        entries="queue_entries AS entry INDEXED BY ix_queue_entries_job_id",
    ),
    postgresql=_STATE.format(jobs="jobs", entries="queue_entries AS entry"),
)

# The entry is locked before the job, as claims do it, so that the two cannot wait for each other.
_LOCK_ENTRY = statement(
    "SELECT 1",
    postgresql="SELECT id FROM queue_entries WHERE job_id = :job_id FOR UPDATE",
)

_SET_FIELDS = statement("""
    UPDATE jobs
    SET progress = COALESCE(:progress, progress), task_output = COALESCE(:task_output, task_output),
        error_message = COALESCE(:error_message, error_message)
    WHERE id = :id
    RETURNING :now
""")

_SELECT_JOB = statement("""
    SELECT job_id, task_type, params, status, progress, task_output, error_message
    FROM jobs WHERE job_id = :job_id
""")

# Children first: SQLite checks no foreign key unless it is asked to. Events are locked in order,
# as whoever else changes several of them does, so that no two can wait for each other.
_DELETE_JOB_ROWS = (
    statement(
        "DELETE FROM job_events WHERE entry_id = :id",
        postgresql="""
        WITH held AS MATERIALIZED (
            SELECT id FROM job_events WHERE entry_id = :id ORDER BY id FOR UPDATE
        )
        DELETE FROM job_events USING held WHERE job_events.id = held.id
        """,
    ),
    statement("DELETE FROM job_attempts WHERE entry_id = :id"),
    statement("DELETE FROM job_options WHERE id = :id"),
    statement("DELETE FROM queue_entries WHERE id = :id"),
)

_DELETE_JOB = statement("DELETE FROM jobs WHERE id = :id")

# PostgreSQL's text holds no NUL, and no driver takes a lone surrogate.
_UNSTORABLE = str.maketrans({"\0": "\ufffd"})


@dataclass(frozen=True)
class JobState:
    """What a write to one job has to know of it; its rows are locked.

    Attributes:
        id: Its `jobs.id`.
        task_type: Its task.
        status: Its status.
        progress: 0 to 100.
        retry_count: How many re-runs it had.
        max_retries: How many it may have.
        claimed_by: The instance that holds it; `None`: nobody.
        claim_seq: The last claim's number; `None` once it has ended.
        lease_is_live: Whether that instance's lease has not run out.
    """

    id: int
    task_type: str
    status: str
    progress: int
    retry_count: int
    max_retries: int
    claimed_by: Optional[int]
    claim_seq: Optional[int]
    lease_is_live: Optional[bool]


def lock_job(transaction: Transaction, job_id: str) -> Optional[JobState]:
    """Return one job's state with its rows locked, or `None` where there is none."""
    if not can_be_stored(job_id):
        return None
    values = {"job_id": job_id}
    while True:
        locked = transaction.dialect == "sqlite" or bool(
            transaction.run(_LOCK_ENTRY, values).fetchall()
        )
        row = transaction.run(_SELECT_STATE, values).fetchone()
        if row is None:
            return None
        state = JobState(*row)
        if locked or state.claim_seq is None:
            return state
        # It was queued between the two statements (`retry_job`): its new entry is to be locked.


def select_job(transaction: Transaction, job_id: str) -> Optional[Job]:
    """Return the job, or `None`."""
    if not can_be_stored(job_id):
        return None
    row = transaction.run(_SELECT_JOB, {"job_id": job_id}).fetchone()
    if row is None:
        return None
    return Job.model_construct(
        job_id=row[0],
        task_type=row[1],
        params=json.loads(row[2]),
        status=row[3],
        progress=row[4],
        task_output=None if row[5] is None else json.loads(row[5]),
        error_message=row[6],
    )


def set_fields(
    transaction: Transaction,
    job_id: str,
    state: JobState,
    status: str,
    *,
    progress: Optional[int],
    task_output: Optional[str],
    error: Optional[str],
) -> None:
    """Change a job whose status is, or has just become, `status`; a new progress is told.

    Raises:
        ValueError: The job has ended, and its progress would change.
    """
    check_progress_change(status, state.progress, progress)
    now = transaction.run(
        _SET_FIELDS,
        {
            "id": state.id,
            "progress": progress,
            "task_output": task_output,
            "error_message": storable(error),
        },
    ).fetchone()[0]
    if progress is not None and progress != state.progress:
        transaction.events.append(
            progress_event(job_id, status, state.task_type, state.retry_count + 1, progress, now)
        )


def delete_job(transaction: Transaction, entry_id: int) -> None:
    """Remove a job and every row that belongs to it."""
    for delete_rows in _DELETE_JOB_ROWS:
        transaction.run(delete_rows, {"id": entry_id})
    transaction.run(_DELETE_JOB, {"id": entry_id})


def progress_event(
    job_id: str, status: str, task_type: str, attempt: int, progress: int, now: int
) -> dict[str, Any]:
    """Return the event of a progress; it has no row, and so no id."""
    return job_event(
        event_id=None,
        job_id=job_id,
        event_type="progress",
        status=status,
        task_type=task_type,
        timestamp=now,
        progress=progress,
        attempt=attempt,
    )


def storable(text: Optional[str]) -> Optional[str]:
    """Return text as every database stores it: what it cannot hold is replaced."""
    if text is None:
        return None
    return text.encode("utf-8", "replace").decode("utf-8").translate(_UNSTORABLE)
