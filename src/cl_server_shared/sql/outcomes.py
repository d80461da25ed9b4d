"""How an attempt, or a job, goes on or ends; each write of a worker is guarded by its claim."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import backoff_ms
from cl_ml_tools.protocols import AttemptLog, Claim, Completion

from ..transaction import Transaction
from .attempts import record_attempt
from .events import keep_event, record_event
from .jobs import JobState, progress_event, storable
from .statement import statement

__all__ = [
    "complete",
    "end_cancelled",
    "end_job",
    "fail",
    "give_back",
    "has_completed",
    "keep_log",
    "postpone",
    "report_progress",
]

_END_CLAIMED_ENTRY = statement("""
    DELETE FROM queue_entries
    WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq
""")

_END_ENTRY = statement("DELETE FROM queue_entries WHERE id = :id")

_END_JOB = statement("""
    UPDATE jobs
    SET status = CAST(:status AS VARCHAR), completed_at = :now, progress = COALESCE(:progress, progress),
        task_output = COALESCE(:task_output, task_output),
        error_message = CASE WHEN CAST(:status AS VARCHAR) = 'completed'
                             THEN CAST(:error_message AS TEXT)
                             ELSE COALESCE(:error_message, error_message) END
    WHERE id = :id
    RETURNING job_id, task_type, retry_count, progress, task_output, error_message
""")

# PostgreSQL: any number of completions as one statement, one round trip. The entries are locked in
# order, so that whoever else changes several of them cannot wait for this one in a circle.
_COMPLETE_JOBS = statement(
    "",
    postgresql="""
    WITH item AS MATERIALIZED (
        SELECT * FROM ROWS FROM (
            json_to_recordset(CAST(:completions AS JSON))
            AS (id BIGINT, instance_id BIGINT, claim_seq INTEGER, task_output TEXT)
        ) WITH ORDINALITY AS item (id, instance_id, claim_seq, task_output, place)
    ), held AS MATERIALIZED (
        SELECT item.* FROM (SELECT * FROM item ORDER BY id) AS item CROSS JOIN LATERAL (
            SELECT id FROM queue_entries
            WHERE id = item.id AND claimed_by = item.instance_id AND claim_seq = item.claim_seq
            FOR UPDATE
        ) AS entry
    ), ended AS (
        DELETE FROM queue_entries WHERE id = ANY(ARRAY(SELECT id FROM held)) RETURNING id
    ), job AS (
        UPDATE jobs
        SET status = 'completed', completed_at = :now, progress = 100, error_message = NULL,
            task_output = COALESCE(held.task_output, jobs.task_output)
        FROM ended JOIN held ON held.id = ended.id WHERE jobs.id = ended.id
        RETURNING place, jobs.id, jobs.job_id, task_type, retry_count, jobs.task_output
    ), event AS (
        INSERT INTO job_events
            (entry_id, event_type, attempt, progress, created_at, detail, acknowledged_at)
        SELECT id, 'completed', retry_count + 1, 100, :now, COALESCE(task_output, '{}'),
               CASE WHEN :acknowledged = 1 THEN :now END
        FROM job ORDER BY place
        RETURNING id AS event_id, entry_id, created_at
    )
    SELECT job.*, event.event_id, event.created_at FROM job JOIN event ON event.entry_id = job.id
    """,
)

_HAS_COMPLETED = statement("""
    SELECT 1 FROM jobs WHERE id = :id AND status = 'completed'
      AND COALESCE(task_output, '') = COALESCE(CAST(:task_output AS TEXT), task_output, '')
""")

# Not claimed, not due before `:delay_ms` from now; its place in the queue is kept in `enqueued_at`.
_POSTPONE_ENTRY = statement("""
    UPDATE queue_entries SET claimed_by = NULL, rank = NULL, available_at = :now + :delay_ms
    WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq
    RETURNING id
""")

# One that was claimed by its id before its time waits for that time.
_GIVE_BACK_ENTRY = statement("""
    UPDATE queue_entries
    SET claimed_by = NULL, rank = CASE WHEN enqueued_at <= :now THEN rank END,
        available_at = CASE WHEN enqueued_at > :now THEN enqueued_at END
    WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq
    RETURNING id
""")

_QUEUE_JOB = statement("""
    UPDATE jobs SET status = 'queued', progress = 0, retry_count = retry_count + :retries,
                    error_message = COALESCE(:error_message, error_message)
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

_ATTEMPT = """
    SELECT jobs.retry_count, jobs.max_retries, entry.cancel_requested
    FROM queue_entries AS entry JOIN jobs ON jobs.id = entry.id
    WHERE entry.id = :id AND entry.claimed_by = :instance_id AND entry.claim_seq = :claim_seq
"""
_LOCK_ATTEMPT = statement(_ATTEMPT, postgresql=f"{_ATTEMPT} FOR UPDATE OF entry")

# The event that each terminal status is told with.
_EVENT_OF_END = {"completed": "completed", "error": "failed", "cancelled": "cancelled"}


def complete(
    transaction: Transaction, completions: Sequence[tuple[Claim, Optional[str]]]
) -> dict[Claim, int]:
    """End claimed jobs as completed; those whose claim is not held stay as they are.

    Args:
        transaction: Where; on PostgreSQL all is one statement.
        completions: Each claim, and the task's output as JSON text.

    Returns:
        The attempt of each job that was ended, by its claim.
    """
    if transaction.dialect == "sqlite":
        return {
            claim: _write_end(transaction, claim.entry_id, "completed", 100, output, None)
            for claim, output in completions
            if transaction.run(_END_CLAIMED_ENTRY, _guard(claim)).rowcount
        }
    items = [{**_guard(claim), "task_output": output} for claim, output in completions]
    values = {"completions": json.dumps(items), "acknowledged": int(transaction.acknowledged)}
    rows = transaction.run(_COMPLETE_JOBS, values).fetchall()
    rows.sort()  # RETURNING has no order
    for _, _, job_id, task_type, retry_count, output, event_id, created_at in rows:
        keep_event(
            transaction,
            event_id,
            job_id,
            task_type,
            "completed",
            retry_count + 1,
            100,
            created_at,
            output or "{}",
        )
    return {completions[row[0] - 1][0]: row[4] + 1 for row in rows}


def keep_log(transaction: Transaction, completion: Completion, ended: Mapping[Claim, int]) -> None:
    """Keep what a completed attempt printed, where it was this one that ended the job.

    Args:
        transaction: The one that has ended it.
        completion: The attempt.
        ended: What `complete` returned.
    """
    attempt = ended.get(completion.claim)
    if attempt is not None:
        record_attempt(
            transaction,
            completion.claim,
            attempt=attempt,
            outcome="completed",
            log=completion.log,
        )


def has_completed(transaction: Transaction, claim: Claim, task_output: Optional[str]) -> bool:
    """Return whether the job is completed, with this very output."""
    values = {"id": claim.entry_id, "task_output": task_output}
    return transaction.run(_HAS_COMPLETED, values).fetchone() is not None


def fail(
    transaction: Transaction,
    claim: Claim,
    error: str,
    *,
    retryable: bool,
    outcome: str,
    log: Optional[AttemptLog] = None,
) -> str:
    """End a claimed attempt and return the job's new status.

    Returns:
        `queued` where a re-run is left, `cancelled` where that was asked for, else `error`.

    Raises:
        ClaimLost: The claim is not held any more; nothing was changed.
    """
    retry_count, max_retries, cancel_requested = _lock_attempt(transaction, claim)
    if cancel_requested:
        end_cancelled(transaction, claim, log=log)
        return "cancelled"
    record_attempt(
        transaction, claim, attempt=retry_count + 1, outcome=outcome, error=error, log=log
    )
    if not retryable or retry_count >= max_retries:
        transaction.run(_END_ENTRY, {"id": claim.entry_id})
        _write_end(transaction, claim.entry_id, "error", None, None, error)
        return "error"
    values = {**_guard(claim), "delay_ms": backoff_ms(retry_count + 1)}
    transaction.run(_POSTPONE_ENTRY, values).fetchone()
    _queue(transaction, claim, "retrying", retry_count + 1, error=error)
    return "queued"


def postpone(
    transaction: Transaction, claim: Claim, delay_ms: int, *, log: Optional[AttemptLog]
) -> None:
    """Queue a claimed job again, not before some time from now, at no cost.

    Raises:
        ClaimLost: The claim is not held any more; nothing was changed.
    """
    retry_count, _, cancel_requested = _lock_attempt(transaction, claim)
    if cancel_requested:
        end_cancelled(transaction, claim, log=log)
        return
    if log is not None and log.output:
        record_attempt(transaction, claim, attempt=retry_count + 1, outcome="postponed", log=log)
    transaction.run(_POSTPONE_ENTRY, {**_guard(claim), "delay_ms": delay_ms}).fetchone()
    _queue(transaction, claim, "queued", retry_count + 1)


def give_back(transaction: Transaction, claim: Claim) -> None:
    """Queue a claimed job again in its old place, at no cost; one to be cancelled ends so.

    Raises:
        ClaimLost: The claim is not held any more; nothing was changed.
    """
    retry_count, _, cancel_requested = _lock_attempt(transaction, claim)
    if cancel_requested:
        end_cancelled(transaction, claim)
        return
    transaction.run(_GIVE_BACK_ENTRY, _guard(claim)).fetchone()
    _queue(transaction, claim, "queued", retry_count + 1)


def end_cancelled(
    transaction: Transaction, claim: Claim, *, log: Optional[AttemptLog] = None
) -> None:
    """End a claimed job as cancelled.

    Raises:
        ClaimLost: The claim is not held any more; nothing was changed.
    """
    if not transaction.run(_END_CLAIMED_ENTRY, _guard(claim)).rowcount:
        raise ClaimLost(claim.job_id)
    attempt = _write_end(transaction, claim.entry_id, "cancelled", None, None, None)
    record_attempt(transaction, claim, attempt=attempt, outcome="cancelled", log=log)


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
        progress_event(claim.job_id, "processing", task_type, retry_count + 1, progress, now)
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


def _guard(claim: Claim) -> dict[str, Any]:
    return {"id": claim.entry_id, "instance_id": claim.instance_id, "claim_seq": claim.claim_seq}


def _lock_attempt(transaction: Transaction, claim: Claim) -> tuple[int, int, int]:
    """Return a claimed job's `retry_count`, `max_retries` and `cancel_requested`."""
    row: Optional[tuple[int, int, int]] = transaction.run(_LOCK_ATTEMPT, _guard(claim)).fetchone()
    if row is None:
        raise ClaimLost(claim.job_id)
    return row


def _queue(
    transaction: Transaction,
    claim: Claim,
    event_type: str,
    attempt: int,
    *,
    error: Optional[str] = None,
) -> None:
    """Write that a job waits again: given back or postponed at no cost, or, with an error, retried."""
    values = {
        "id": claim.entry_id,
        "retries": int(error is not None),
        "error_message": storable(error),
    }
    transaction.makes_claimable = True
    job_id, task_type, _ = transaction.run(_QUEUE_JOB, values).fetchone()
    record_event(
        transaction,
        claim.entry_id,
        job_id,
        task_type,
        event_type,
        attempt=attempt,
        progress=0,
        detail=None if error is None else json.dumps(storable(error)),
    )


def _write_end(
    transaction: Transaction,
    entry_id: int,
    status: str,
    progress: Optional[int],
    task_output: Optional[str],
    error: Optional[str],
) -> int:
    """Write a job's end and return which attempt it was."""
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
    attempt: int = retry_count + 1
    record_event(
        transaction,
        entry_id,
        job_id,
        task_type,
        _EVENT_OF_END[status],
        attempt=attempt,
        progress=reached,
        detail=(output or "{}") if status == "completed" else json.dumps(message or ""),
    )
    return attempt
