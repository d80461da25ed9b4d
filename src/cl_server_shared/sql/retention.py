"""What has been kept for long enough: found in pages, deleted in small batches.

No page waits for a lock, and each is bounded by the rows that it reads, not by those that it
finds. Ages are given, not times: the database's clock decides where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from ..transaction import Transaction
from .jobs import delete_job
from .statement import statement

__all__ = [
    "EventAge",
    "JobAge",
    "completing_attempts",
    "delete_counts",
    "delete_ended_jobs",
    "delete_events",
    "oldest_events",
    "oldest_jobs",
]

# Ids grow as time goes on, near enough: no index on `created_at` is needed for the hottest table.
_OLDEST_EVENTS = statement("""
    SELECT id, created_at < :now - :age_ms,
           acknowledged_at IS NOT NULL OR created_at < :now - :unacknowledged_age_ms
    FROM job_events WHERE id > :after ORDER BY id LIMIT :limit
""")

_DELETE_EVENTS = statement(
    "DELETE FROM job_events WHERE id IN (SELECT value FROM json_each(:ids))",
    # Locked in order, as whoever else changes several of them does.
    postgresql="""
    WITH held AS MATERIALIZED (
        SELECT id FROM job_events
        WHERE id = ANY(SELECT CAST(value AS BIGINT)
                       FROM json_array_elements_text(CAST(:ids AS JSON)))
        ORDER BY id FOR UPDATE
    )
    DELETE FROM job_events USING held WHERE job_events.id = held.id
    """,
)

_OLDEST_JOBS = statement("""
    SELECT id, created_at, completed_at IS NOT NULL AND completed_at < :now - :age_ms FROM jobs
    WHERE created_at < :now - :age_ms AND (created_at, id) > (:after_created_at, :after_id)
    ORDER BY created_at, id LIMIT :limit
""")

# Seen again under a lock: a job may have been retried since its page was read.
_STILL_ENDED = """
    SELECT jobs.id, jobs.job_id FROM jobs
    WHERE jobs.id {among} AND jobs.completed_at < :now - :age_ms
      AND NOT EXISTS (SELECT 1 FROM queue_entries WHERE queue_entries.id = jobs.id)
      AND NOT EXISTS (SELECT 1 FROM job_events AS event
                      WHERE event.entry_id = jobs.id AND event.acknowledged_at IS NULL
                        AND event.created_at >= :now - :unacknowledged_age_ms)
    ORDER BY jobs.id
"""
_LOCK_ENDED_JOBS = statement(
    _STILL_ENDED.format(among="IN (SELECT value FROM json_each(:ids))"),
    postgresql=_STILL_ENDED.format(
        among="""= ANY(SELECT CAST(value AS BIGINT)
                      FROM json_array_elements_text(CAST(:ids AS JSON)))"""
    )
    + "FOR UPDATE OF jobs SKIP LOCKED",
)

# All of a batch's events in order, as whoever else changes several of them locks them.
_LOCK_EVENTS = statement(
    "SELECT 1",
    postgresql="""
    SELECT id FROM job_events
    WHERE entry_id = ANY(SELECT CAST(value AS BIGINT)
                         FROM json_array_elements_text(CAST(:ids AS JSON)))
    ORDER BY id FOR UPDATE
    """,
)

_COMPLETING_ATTEMPT = "CASE WHEN status = 'completed' THEN retry_count + 1 END"
_COMPLETING_ATTEMPTS = statement(
    f"""
    SELECT job_id, {_COMPLETING_ATTEMPT} FROM jobs
    WHERE job_id IN (SELECT value FROM json_each(:job_ids))
    """,
    postgresql=f"""
    SELECT job_id, {_COMPLETING_ATTEMPT} FROM jobs
    WHERE job_id = ANY(SELECT json_array_elements_text(CAST(:job_ids AS JSON)))
    """,
)

_DELETE_COUNTS = statement("DELETE FROM job_counts WHERE minute < :now - :age_ms RETURNING minute")


@dataclass(frozen=True)
class EventAge:
    """What retention asks of an event.

    Attributes:
        id: Its id.
        is_old: Whether it was kept for long enough.
        is_settled: Whether nobody waits to publish it any more.
    """

    id: int
    is_old: bool
    is_settled: bool


@dataclass(frozen=True)
class JobAge:
    """What retention asks of a job.

    Attributes:
        id: Its `jobs.id`.
        created_at: When it was added.
        is_over: Whether it ended, and was kept for long enough since.
    """

    id: int
    created_at: int
    is_over: bool


def oldest_events(
    transaction: Transaction, after: int, limit: int, age_ms: int, unacknowledged_age_ms: int
) -> list[EventAge]:
    """Return a page of events, oldest first, behind an id."""
    values = {
        "after": after,
        "limit": limit,
        "age_ms": age_ms,
        "unacknowledged_age_ms": unacknowledged_age_ms,
    }
    rows = transaction.run(_OLDEST_EVENTS, values).fetchall()
    return [EventAge(row[0], bool(row[1]), bool(row[2])) for row in rows]


def delete_events(transaction: Transaction, event_ids: Sequence[int]) -> None:
    """Delete events by their ids."""
    transaction.run(_DELETE_EVENTS, {"ids": json.dumps(list(event_ids))})


def oldest_jobs(
    transaction: Transaction, after: tuple[int, int], limit: int, age_ms: int
) -> list[JobAge]:
    """Return a page of jobs that were added long ago, oldest first.

    Args:
        transaction: Where.
        after: Behind the job with this `created_at` and `id`.
        limit: How many at most.
        age_ms: How long ago.
    """
    values = {
        "after_created_at": after[0],
        "after_id": after[1],
        "limit": limit,
        "age_ms": age_ms,
    }
    rows = transaction.run(_OLDEST_JOBS, values).fetchall()
    return [JobAge(row[0], row[1], bool(row[2])) for row in rows]


def delete_ended_jobs(
    transaction: Transaction, ids: Sequence[int], age_ms: int, unacknowledged_age_ms: int
) -> list[str]:
    """Delete those of some jobs that have ended, with every row of theirs; return their job ids.

    Args:
        transaction: Where.
        ids: Their `jobs.id`.
        age_ms: How long ago they must have ended.
        unacknowledged_age_ms: A job stays while an event of it, younger than this, is unpublished.
    """
    values = {
        "ids": json.dumps(list(ids)),
        "age_ms": age_ms,
        "unacknowledged_age_ms": unacknowledged_age_ms,
    }
    ended = transaction.run(_LOCK_ENDED_JOBS, values).fetchall()
    if transaction.dialect == "postgresql":
        transaction.run(_LOCK_EVENTS, {"ids": json.dumps([entry_id for entry_id, _ in ended])})
    for entry_id, _ in ended:
        delete_job(transaction, entry_id)
    return [job_id for _, job_id in ended]


def completing_attempts(
    transaction: Transaction, job_ids: Sequence[str]
) -> dict[str, Optional[int]]:
    """Return those of some job ids that belong to a job, and the attempt that has completed it."""
    values = {"job_ids": json.dumps(list(job_ids))}
    return dict(transaction.run(_COMPLETING_ATTEMPTS, values).fetchall())


def delete_counts(transaction: Transaction, age_ms: int) -> int:
    """Delete old rows of `job_counts`; return how many."""
    return len(transaction.run(_DELETE_COUNTS, {"age_ms": age_ms}).fetchall())
