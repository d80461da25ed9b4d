"""How a job goes on or ends; each write that a worker makes is guarded by its claim."""

from __future__ import annotations

import json
from typing import Any, Optional

from cl_ml_tools.broadcast import job_event
from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import Job, backoff_ms
from cl_ml_tools.protocols import Claim

from ..transaction import Transaction
from .claims import JobState
from .events import record_event
from .statement import statement

__all__ = [
    "complete",
    "delete_job",
    "end_job",
    "fail",
    "report_progress",
    "select_job",
    "set_fields",
]

_END_CLAIMED_ENTRY = statement("""
    DELETE FROM queue_entries
    WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq
    RETURNING id
""")

_END_ENTRY = statement("DELETE FROM queue_entries WHERE id = :id")

_END_JOB = statement("""
    UPDATE jobs
    SET status = CAST(:status AS VARCHAR), completed_at = :now, progress = COALESCE(:progress, progress),
        task_output = COALESCE(:task_output, task_output),
        error_message = CASE WHEN CAST(:status AS VARCHAR) = 'completed' THEN NULL
                             ELSE COALESCE(:error_message, error_message) END
    WHERE id = :id
    RETURNING job_id, task_type, retry_count, progress, task_output, error_message
""")

# Not claimed, not due before `:delay_ms` from now; its place in the queue is kept in `enqueued_at`.
_POSTPONE_ENTRY = statement("""
    UPDATE queue_entries SET claimed_by = NULL, rank = NULL, available_at = :now + :delay_ms
    WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq
    RETURNING id
""")

_RETRY_JOB = statement("""
    UPDATE jobs SET status = 'queued', retry_count = retry_count + 1, progress = 0,
                    error_message = :error_message
    WHERE id = :id
    RETURNING job_id, task_type, retry_count
""")

_SET_CLAIMED_PROGRESS = statement(
    """
    UPDATE jobs SET progress = :progress
    WHERE id = :id AND EXISTS (
        SELECT 1 FROM queue_entries AS entry
        WHERE entry.id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq)
    RETURNING task_type, retry_count, :now
    """,
    postgresql="""
    WITH held AS MATERIALIZED (
        SELECT id FROM queue_entries
        WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq FOR UPDATE
    )
    UPDATE jobs SET progress = :progress FROM held WHERE jobs.id = held.id
    RETURNING task_type, retry_count, :now
    """,
)

# PostgreSQL's text holds no NUL, and no driver takes a lone surrogate.
_UNSTORABLE = str.maketrans({"\0": "\ufffd"})

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

_SELECT_RETRIES = statement("SELECT retry_count, max_retries FROM jobs WHERE id = :id")

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
    statement("DELETE FROM job_options WHERE id = :id"),
    statement("DELETE FROM queue_entries WHERE id = :id"),
)

_DELETE_JOB = statement("DELETE FROM jobs WHERE id = :id")

# The event that each terminal status is told with.
_EVENT_OF_END = {"completed": "completed", "error": "failed", "cancelled": "cancelled"}


def storable(text: Optional[str]) -> Optional[str]:
    """Return text as every database stores it: what it cannot hold is replaced."""
    if text is None:
        return None
    return text.encode("utf-8", "replace").decode("utf-8").translate(_UNSTORABLE)


def complete(transaction: Transaction, claim: Claim, task_output: Optional[str]) -> None:
    """End a claimed job as completed.

    Args:
        transaction: Where.
        claim: The hold on it.
        task_output: JSON text.

    Raises:
        ClaimLost: The claim is not held any more; nothing was changed.
    """
    _end_claim(transaction, claim)
    _write_end(transaction, claim.entry_id, "completed", 100, task_output, None)


def fail(transaction: Transaction, claim: Claim, error: str, *, retryable: bool) -> str:
    """End a claimed attempt and return the job's new status, `queued` or `error`.

    Raises:
        ClaimLost: The claim is not held any more; nothing was changed.
    """
    retry_count, max_retries = transaction.run(
        _SELECT_RETRIES, {"id": claim.entry_id}
    ).fetchone() or (0, 0)
    if not retryable or retry_count >= max_retries:
        _end_claim(transaction, claim)
        _write_end(transaction, claim.entry_id, "error", None, None, error)
        return "error"
    values = {**_guard(claim), "delay_ms": backoff_ms(retry_count + 1)}
    if transaction.run(_POSTPONE_ENTRY, values).fetchone() is None:
        raise ClaimLost(claim.job_id)
    job_id, task_type, _ = transaction.run(
        _RETRY_JOB, {"id": claim.entry_id, "error_message": storable(error)}
    ).fetchone()
    record_event(
        transaction,
        claim.entry_id,
        job_id,
        task_type,
        "retrying",
        attempt=retry_count + 1,
        progress=0,
        detail=json.dumps(storable(error)),
    )
    return "queued"


def report_progress(transaction: Transaction, claim: Claim, progress: int) -> None:
    """Store how far a claimed job is; its event has no row.

    Raises:
        ClaimLost: The claim is not held any more.
    """
    row = transaction.run(_SET_CLAIMED_PROGRESS, {**_guard(claim), "progress": progress}).fetchone()
    if row is None:
        raise ClaimLost(claim.job_id)
    task_type, retry_count, now = row
    transaction.events.append(
        _progress_event(claim.job_id, "processing", task_type, retry_count + 1, progress, now)
    )


def end_job(
    transaction: Transaction,
    state: JobState,
    status: str,
    *,
    progress: Optional[int],
    task_output: Optional[str],
    error: Optional[str],
) -> None:
    """End a job whose rows are locked, whoever held it."""
    transaction.run(_END_ENTRY, {"id": state.id})
    if status == "completed":
        progress = 100
    _write_end(transaction, state.id, status, progress, task_output, error)


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
    """Change a job whose status is, or has just become, `status`; a new progress is told."""
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
            _progress_event(job_id, status, state.task_type, state.retry_count + 1, progress, now)
        )


def select_job(transaction: Transaction, job_id: str) -> Optional[Job]:
    """Return the job, or `None`."""
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


def delete_job(transaction: Transaction, entry_id: int) -> None:
    """Remove a job and every row that belongs to it."""
    for delete_rows in _DELETE_JOB_ROWS:
        transaction.run(delete_rows, {"id": entry_id})
    transaction.run(_DELETE_JOB, {"id": entry_id})


def _guard(claim: Claim) -> dict[str, Any]:
    return {"id": claim.entry_id, "instance_id": claim.instance_id, "claim_seq": claim.claim_seq}


def _end_claim(transaction: Transaction, claim: Claim) -> None:
    if transaction.run(_END_CLAIMED_ENTRY, _guard(claim)).fetchone() is None:
        raise ClaimLost(claim.job_id)


def _write_end(
    transaction: Transaction,
    entry_id: int,
    status: str,
    progress: Optional[int],
    task_output: Optional[str],
    error: Optional[str],
) -> None:
    job_id, task_type, retry_count, reached, output, message = transaction.run(
        _END_JOB,
        {
            "id": entry_id,
            "status": status,
            "progress": progress,
            "task_output": task_output,
            "error_message": storable(error),
        },
    ).fetchone()
    record_event(
        transaction,
        entry_id,
        job_id,
        task_type,
        _EVENT_OF_END[status],
        attempt=retry_count + 1,
        progress=reached,
        detail=(output or "{}") if status == "completed" else json.dumps(message or ""),
    )


def _progress_event(
    job_id: str, status: str, task_type: str, attempt: int, progress: int, now: int
) -> dict[str, Any]:
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
