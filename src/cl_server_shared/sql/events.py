"""The outbox: event rows, their acknowledgement by the broker, and reading them in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from cl_ml_tools.broadcast import job_event

from ..transaction import Transaction
from .statement import statement

__all__ = [
    "MARK_ACKNOWLEDGED",
    "is_recorded",
    "keep_event",
    "latest_position",
    "number_events",
    "read_events",
    "read_unacknowledged",
    "record_event",
]

_EVENT_ROW = """
    INSERT INTO job_events
        (entry_id, event_type, attempt, progress, created_at, detail, acknowledged_at)
    VALUES (:id, :event_type, :attempt, :progress, :now, :detail,
            CASE WHEN :acknowledged = 1 THEN :now END)
"""
_INSERT_EVENT = statement(_EVENT_ROW, postgresql=f"{_EVENT_ROW} RETURNING id, created_at")

MARK_ACKNOWLEDGED = statement(
    """
    UPDATE job_events SET acknowledged_at = :now
    WHERE id IN (SELECT value FROM json_each(:event_ids)) AND acknowledged_at IS NULL
    """,
    # Locked in order: numbering changes the same rows, and the two must not wait for each other.
    postgresql="""
    WITH held AS MATERIALIZED (
        SELECT id FROM job_events
        WHERE id = ANY(SELECT CAST(value AS BIGINT)
                       FROM json_array_elements_text(CAST(:event_ids AS JSON)))
          AND acknowledged_at IS NULL
        ORDER BY id FOR UPDATE
    )
    UPDATE job_events SET acknowledged_at = :now FROM held WHERE job_events.id = held.id
    """,
)

# Serial ids become visible out of order on PostgreSQL: 5 may be committed before 4 is. So one
# process at a time gives a number to what is committed, oldest first, and `/events` goes by that.
_TRY_NUMBERING_LOCK = statement(
    "SELECT 0", postgresql="SELECT pg_try_advisory_xact_lock(hashtextextended('job_events', 0))"
)

_NUMBER_EVENTS = statement(
    "SELECT 1 WHERE 0",
    postgresql="""
    WITH fresh AS MATERIALIZED (
        SELECT id, nextval('job_events_position_seq') AS position
        FROM (SELECT id FROM job_events WHERE position IS NULL
              ORDER BY id LIMIT :limit FOR UPDATE) AS oldest
        ORDER BY id
    )
    UPDATE job_events SET position = fresh.position FROM fresh WHERE job_events.id = fresh.id
    RETURNING job_events.id
    """,
)

_EVENT = """
    event.id, jobs.job_id, jobs.task_type, event.event_type, event.attempt, event.progress,
    event.created_at, event.detail
"""
_MINE = """
    AND (CAST(:job_id AS VARCHAR) IS NULL OR jobs.job_id = CAST(:job_id AS VARCHAR))
    AND (CAST(:created_by AS VARCHAR) IS NULL OR jobs.created_by = CAST(:created_by AS VARCHAR))
"""

_READ_EVENTS = statement(
    f"""
    SELECT event.id, {_EVENT} FROM job_events AS event JOIN jobs ON jobs.id = event.entry_id
    WHERE event.id > :after {_MINE} ORDER BY event.id LIMIT :limit
    """,
    postgresql=f"""
    SELECT event.position, {_EVENT} FROM job_events AS event JOIN jobs ON jobs.id = event.entry_id
    WHERE event.position > :after {_MINE} ORDER BY event.position LIMIT :limit
    """,
)

# From the future, after the clock was put back, counts as old, too.
_READ_UNACKNOWLEDGED = statement(f"""
    SELECT {_EVENT} FROM job_events AS event JOIN jobs ON jobs.id = event.entry_id
    WHERE event.acknowledged_at IS NULL AND event.id > :after
      AND event.created_at NOT BETWEEN :now - :min_age_ms AND :now + :min_age_ms
    ORDER BY event.id LIMIT :limit
""")

_IS_RECORDED = statement("""
    SELECT 1 FROM job_events AS event JOIN jobs ON jobs.id = event.entry_id
    WHERE event.id = :event_id AND jobs.job_id = :job_id
""")

_LATEST_POSITION = statement(
    "SELECT COALESCE(MAX(id), 0) FROM job_events",
    postgresql="SELECT COALESCE(MAX(position), 0) FROM job_events",
)

# The status that each kind of event leaves a job in.
STATUS_AFTER = {
    "queued": "queued",
    "started": "processing",
    "retrying": "queued",
    "completed": "completed",
    "failed": "error",
    "cancelled": "cancelled",
}

# How many events one transaction numbers: short enough to keep nobody waiting.
_NUMBERED_AT_ONCE = 1000


def record_event(
    transaction: Transaction,
    entry_id: int,
    job_id: str,
    task_type: str,
    event_type: str,
    *,
    attempt: int,
    progress: int,
    detail: Optional[str] = None,
) -> None:
    """Write an event's row, and keep the event to be published after the commit.

    Args:
        transaction: The one that changes the job.
        entry_id: The job's `jobs.id`.
        job_id: Its id.
        task_type: Its task.
        event_type: What happened.
        attempt: The attempt that it is about.
        progress: 0 to 100.
        detail: JSON text: a completed job's `task_output`, or the error, a string.
    """
    inserted = transaction.run(
        _INSERT_EVENT,
        {
            "id": entry_id,
            "event_type": event_type,
            "attempt": attempt,
            "progress": progress,
            "detail": detail,
            "acknowledged": int(transaction.acknowledged),
        },
    )
    if transaction.acknowledged:
        return
    row: Any = (
        (inserted.lastrowid, transaction.now)  # for less than `RETURNING` costs
        if transaction.dialect == "sqlite"
        else inserted.fetchone()
    )
    event_id, created_at = row
    keep_event(
        transaction, event_id, job_id, task_type, event_type, attempt, progress, created_at, detail
    )


def keep_event(
    transaction: Transaction,
    event_id: int,
    job_id: str,
    task_type: str,
    event_type: str,
    attempt: int,
    progress: int,
    created_at: int,
    detail: Optional[str] = None,
) -> None:
    """Keep an event whose row is written to be published after the commit, if anybody listens."""
    if not transaction.acknowledged:
        transaction.events.append(
            _event(event_id, job_id, task_type, event_type, attempt, progress, created_at, detail)
        )


def is_recorded(transaction: Transaction, event: Mapping[str, Any]) -> bool:
    """Return whether an event's row is there: whether its transaction was committed."""
    values = {"event_id": event["event_id"], "job_id": event["job_id"]}
    return transaction.run(_IS_RECORDED, values).fetchone() is not None


def number_events(transaction: Transaction) -> bool:
    """Give committed events their place in `/events`; PostgreSQL only.

    Returns:
        Whether there may be more to number.
    """
    if transaction.dialect == "sqlite":
        return False
    if not transaction.run(_TRY_NUMBERING_LOCK).fetchone()[0]:
        return False  # another process is at it
    numbered = transaction.run(_NUMBER_EVENTS, {"limit": _NUMBERED_AT_ONCE}).fetchall()
    return len(numbered) == _NUMBERED_AT_ONCE


def read_events(
    transaction: Transaction,
    after: int,
    limit: int,
    job_id: Optional[str],
    created_by: Optional[str],
) -> list[tuple[int, dict[str, Any]]]:
    """Return events behind a position, each with its own position, oldest first."""
    rows = transaction.run(
        _READ_EVENTS,
        {"after": after, "limit": limit, "job_id": job_id, "created_by": created_by},
    ).fetchall()
    return [(row[0], _event(*row[1:])) for row in rows]


def read_unacknowledged(
    transaction: Transaction, after: int, limit: int, min_age_ms: int
) -> list[dict[str, Any]]:
    """Return events that no broker has acknowledged, in the order of their ids.

    Args:
        transaction: Where.
        after: Only those with a greater id.
        limit: How many at most.
        min_age_ms: Younger ones are left out: whoever made them is just publishing them.
    """
    values = {"after": after, "limit": limit, "min_age_ms": min_age_ms}
    return [_event(*row) for row in transaction.run(_READ_UNACKNOWLEDGED, values).fetchall()]


def latest_position(transaction: Transaction) -> int:
    """Return the position of the newest event; 0 where there is none."""
    position: int = transaction.run(_LATEST_POSITION).fetchone()[0]
    return position


def _event(
    event_id: int,
    job_id: str,
    task_type: str,
    event_type: str,
    attempt: int,
    progress: int,
    created_at: int,
    detail: Optional[str],
) -> dict[str, Any]:
    parsed = None if detail is None else json.loads(detail)
    return job_event(
        event_id=event_id,
        job_id=job_id,
        event_type=event_type,
        status=STATUS_AFTER[event_type],
        task_type=task_type,
        timestamp=created_at,
        progress=progress,
        attempt=attempt,
        task_output=parsed if isinstance(parsed, dict) else None,
        error=parsed if isinstance(parsed, str) else None,
    )
