"""What operators and makers do to jobs: ask for their end, run them again, find those to do it to."""

from __future__ import annotations

from typing import Any

from ..transaction import Transaction
from .events import record_event
from .statement import statement

__all__ = ["find_live_jobs", "find_retryable_jobs", "request_cancel", "retry_job"]

_REQUEST_CANCEL = statement("""
    UPDATE queue_entries SET cancel_requested = 1 WHERE id = :id AND cancel_requested = 0
""")

# Guarded by its status: of two that retry one job at a time, the second changes nothing.
_QUEUE_ENDED_JOB = statement("""
    UPDATE jobs
    SET status = 'queued', retry_count = 0, progress = 0, completed_at = NULL, task_output = NULL
    WHERE id = :id AND status IN ('error', 'cancelled')
    RETURNING job_id, task_type
""")

# `claim_seq` goes on beyond every earlier claim of this job: each claim writes an event after it
# has counted up by one, and event ids only grow, so the newest event's id is above them all. The
# column is an INTEGER, which PostgreSQL ends at 2^31: the count begins anew below that, thousands
# of millions of events after whoever held the earlier claim.
_INSERT_ENTRY = statement("""
    INSERT INTO queue_entries
        (id, job_id, task_type, priority, enqueued_at, rank, claim_seq, cancel_requested,
         timeout_seconds)
    SELECT jobs.id, jobs.job_id, jobs.task_type, COALESCE(options.priority, 5), :now,
           :now - COALESCE(options.priority, 5) * 600000,
           (SELECT MAX(id) FROM job_events WHERE entry_id = jobs.id) % 2000000000, 0,
           options.timeout_seconds
    FROM jobs LEFT JOIN job_options AS options ON options.id = jobs.id
    WHERE jobs.id = :id
""")

_MATCHES = """
    jobs.id > :after
    AND (CAST(:task_type AS VARCHAR) IS NULL OR jobs.task_type = CAST(:task_type AS VARCHAR))
    AND (CAST(:created_by AS VARCHAR) IS NULL OR jobs.created_by = CAST(:created_by AS VARCHAR))
    AND (CAST(:added_after AS BIGINT) IS NULL OR jobs.created_at >= CAST(:added_after AS BIGINT))
    AND (CAST(:added_before AS BIGINT) IS NULL OR jobs.created_at < CAST(:added_before AS BIGINT))
"""

# From the queue, which is short, to the jobs.
_FIND_LIVE_JOBS = statement(f"""
    SELECT jobs.id, jobs.job_id
    FROM queue_entries AS entry CROSS JOIN jobs
    WHERE jobs.id = entry.id AND entry.id > :after AND entry.cancel_requested = 0 AND {_MATCHES}
      AND (CAST(:status AS VARCHAR) IS NULL OR jobs.status = CAST(:status AS VARCHAR))
    ORDER BY entry.id LIMIT :limit
""")


def _of_status(status: str) -> str:
    """One status by its index: of several at once, SQLite sorts all there are for each batch."""
    return f"""
    SELECT * FROM (
        SELECT jobs.id, jobs.job_id FROM jobs
        WHERE status = '{status}' AND {_MATCHES}
          AND COALESCE(CAST(:status AS VARCHAR), '{status}') = '{status}'
        ORDER BY jobs.id LIMIT :limit
    ) AS {status}_jobs
    """


_FIND_RETRYABLE_JOBS = statement(f"""
    SELECT id, job_id FROM ({_of_status("error")} UNION ALL {_of_status("cancelled")}) AS found
    ORDER BY id LIMIT :limit
""")


def request_cancel(transaction: Transaction, entry_id: int) -> None:
    """Have whoever runs a job end it."""
    transaction.run(_REQUEST_CANCEL, {"id": entry_id})


def retry_job(transaction: Transaction, entry_id: int) -> bool:
    """Queue a failed or cancelled job as if it were new; False where it is neither any more."""
    row = transaction.run(_QUEUE_ENDED_JOB, {"id": entry_id}).fetchone()
    if row is None:
        return False
    job_id, task_type = row
    record_event(transaction, entry_id, job_id, task_type, "queued", attempt=1, progress=0)
    transaction.run(_INSERT_ENTRY, {"id": entry_id})
    transaction.makes_claimable = True
    return True


def find_live_jobs(transaction: Transaction, wanted: dict[str, Any]) -> list[tuple[int, str]]:
    """Return `jobs.id` and id of jobs that wait or run and that nobody has cancelled yet.

    Args:
        transaction: Where.
        wanted: `task_type`, `created_by`, `status`, `added_after`, `added_before` (`None`: any),
            `after` (a `jobs.id`) and `limit`.
    """
    return [tuple(row) for row in transaction.run(_FIND_LIVE_JOBS, wanted).fetchall()]


def find_retryable_jobs(transaction: Transaction, wanted: dict[str, Any]) -> list[tuple[int, str]]:
    """Return `jobs.id` and id of failed and cancelled jobs; arguments as of `find_live_jobs`."""
    return [tuple(row) for row in transaction.run(_FIND_RETRYABLE_JOBS, wanted).fetchall()]
