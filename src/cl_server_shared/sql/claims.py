"""Claiming: picked and marked in one statement, never read first and written after.

A claim is tried at once: one statement, which claims nothing where something has to be seen to
first (a job that has become due, a task type with a limit). Then it is done step by step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Optional

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import Job
from cl_ml_tools.protocols import Claim, ClaimedJob

from ..transaction import Transaction
from .events import keep_event, record_event
from .statement import Statement, statement
from .waiting import NOT_PAUSED

__all__ = [
    "NO_FLOOR",
    "claim_at_once",
    "claim_job",
    "claim_within_limits",
]

# Below every rank.
NO_FLOOR = -(2**62)

# What a claim at once cannot see to. `:wanted` is a JSON object: task type to how many at most.
# By the first of an index: a planner without statistics takes `EXISTS` for quickly found.
_NOTHING_DUE = """
    COALESCE((SELECT available_at FROM queue_entries WHERE available_at IS NOT NULL
              ORDER BY available_at LIMIT 1) > :now, TRUE)
"""
_NO_LIMITS = """
    NOT EXISTS (SELECT 1 FROM json_each(:wanted) AS asked
                JOIN task_settings ON task_settings.task_type = asked.key
                WHERE task_settings.max_running IS NOT NULL)
"""
_NO_LIMITS_POSTGRESQL = """
    NOT EXISTS (SELECT 1 FROM json_object_keys(CAST(:wanted AS JSON)) AS asked (task_type)
                JOIN task_settings ON task_settings.task_type = asked.task_type
                WHERE task_settings.max_running IS NOT NULL)
"""

# SQLite: the head of each task type, as JSON: joined to the table again, it would be read whole by a
# planner whose statistics are of a time when it was small (100,000 waiting: 0.5 s instead of 0.1 ms).
_HEADS = f"""
    json_each(:wanted) AS wanted, json_each((
        SELECT json_group_array(json_array(rank, id)) FROM (
            SELECT rank, id FROM queue_entries INDEXED BY ix_queue_entries_claim
            WHERE task_type = wanted.key AND claimed_by IS NULL AND rank IS NOT NULL
            ORDER BY rank, id LIMIT :limit))) AS head
    WHERE wanted.key {NOT_PAUSED}
"""
_RANK, _ID = "json_extract(head.value, '$[0]')", "json_extract(head.value, '$[1]')"
_MARK = """
    UPDATE queue_entries NOT INDEXED SET claimed_by = :instance_id, claim_seq = claim_seq + 1
    WHERE id IN
"""

# What is said of the entry that was claimed.
_HOLD = "claim_seq, timeout_seconds, :now - enqueued_at AS waited_ms"

# The best of the heads.
_CLAIM_AT_ONCE = f"""
    {_MARK} (SELECT {_ID} FROM {_HEADS} AND {_NOTHING_DUE} AND {_NO_LIMITS}
             ORDER BY {_RANK}, {_ID} LIMIT :limit)
    RETURNING id, rank, {_HOLD}
"""

# The same, of no type more than there is room for.
_CLAIM_WITHIN_LIMITS = f"""
    {_MARK} (
        SELECT id FROM (
            SELECT {_ID} AS id, {_RANK} AS rank, wanted.value AS room,
                   ROW_NUMBER() OVER (PARTITION BY wanted.key ORDER BY {_RANK}, {_ID}) AS place
            FROM {_HEADS})
        WHERE place <= room ORDER BY rank, id LIMIT :limit)
    RETURNING id, rank, {_HOLD}
"""

_START_JOB = statement("""
    UPDATE jobs SET status = 'processing', started_at = COALESCE(started_at, :now)
    WHERE id = :id
    RETURNING job_id, task_type, params, progress, task_output, error_message,
              retry_count, max_retries
""")


def _claim_postgresql(condition: str, room: str, limit: str) -> str:
    """Return all of a claim as one statement, one round trip.

    The picked rows stay in a materialised CTE; as `id IN (SELECT ... LIMIT 1 FOR UPDATE)` a stale
    plan took 61 rows. What is joined to a table is an array or lateral, so that it is looked up by
    the index: a planner without statistics reads the whole table for a batch.

    Args:
        condition: What must hold for anything to be claimed.
        room: How many of a type, as SQL.
        limit: How many in all, as SQL.
    """
    return f"""
    WITH picked AS MATERIALIZED (
        SELECT head.id
        FROM json_each_text(CAST(:wanted AS JSON)) AS wanted (task_type, room)
        CROSS JOIN LATERAL (
            SELECT id, rank FROM queue_entries
            WHERE task_type = wanted.task_type AND claimed_by IS NULL AND rank >= :floor
            ORDER BY rank, id LIMIT {room} FOR UPDATE SKIP LOCKED
        ) AS head
        WHERE wanted.task_type {NOT_PAUSED} AND {condition}
        ORDER BY head.rank, head.id LIMIT {limit}
    ), claimed AS (
        UPDATE queue_entries SET claimed_by = :instance_id, claim_seq = claim_seq + 1
        WHERE id = ANY(ARRAY(SELECT id FROM picked))
        RETURNING id, rank, {_HOLD}
    ), started AS (
        UPDATE jobs SET status = 'processing', started_at = COALESCE(jobs.started_at, :now)
        FROM claimed WHERE jobs.id = claimed.id
        RETURNING claimed.id, rank, claim_seq, timeout_seconds, waited_ms,
                  jobs.job_id, task_type, params, progress, task_output, error_message,
                  retry_count, max_retries
    ), event AS (
        INSERT INTO job_events
            (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
        SELECT id, 'started', retry_count + 1, progress, :now,
               CASE WHEN :acknowledged = 1 THEN :now END
        FROM started ORDER BY rank, id
        RETURNING id AS event_id, entry_id, created_at
    )
    SELECT started.*, event.event_id, event.created_at
    FROM started JOIN event ON event.entry_id = started.id
    """


# With the limit in the text it is planned once, not each time: PostgreSQL, and an SQLite that has
# STAT4, plan anew for every value that a limit is given.
@lru_cache(maxsize=128)
def _at_once(limit: int) -> Statement:
    """Return the claim of so many, where nothing has to be seen to first."""
    number = str(int(limit))
    condition = f"{_NOTHING_DUE} AND {_NO_LIMITS_POSTGRESQL}"
    return statement(
        _CLAIM_AT_ONCE.replace(":limit", number),
        postgresql=_claim_postgresql(condition, room=number, limit=number),
    )


@lru_cache(maxsize=128)
def _within_limits(limit: int) -> Statement:
    """Return the claim of so many, of each type as many as there is room for."""
    number = str(int(limit))
    return statement(
        _CLAIM_WITHIN_LIMITS.replace(":limit", number),
        postgresql=_claim_postgresql("TRUE", room="CAST(wanted.room AS BIGINT)", limit=number),
    )


# One queued job, also one that is not due yet: its time is kept, should it be given back.
_DUE_SINCE = "CASE WHEN available_at > :now THEN available_at ELSE enqueued_at END"
_CLAIM_ENTRY = statement(f"""
    UPDATE queue_entries
    SET claimed_by = :instance_id, claim_seq = claim_seq + 1, available_at = NULL,
        enqueued_at = {_DUE_SINCE}, rank = {_DUE_SINCE} - priority * 600000
    WHERE id = :id AND claimed_by IS NULL
    RETURNING {_HOLD}
""")


def claim_at_once(
    transaction: Transaction,
    task_types: Sequence[str],
    limit: int,
    instance_id: int,
    floor: int = NO_FLOOR,
) -> tuple[list[ClaimedJob], Optional[int]]:
    """Claim up to `limit` due jobs, most urgent first, where nothing has to be seen to before.

    Args:
        transaction: Where; on PostgreSQL all is one statement.
        task_types: Which jobs.
        limit: How many.
        instance_id: For whom.
        floor: The rank to begin at, on PostgreSQL.

    Returns:
        The jobs, and the lowest rank among them.
    """
    room = dict.fromkeys(task_types, limit)
    return _claim(transaction, _at_once(limit), room, instance_id, floor)


def claim_within_limits(
    transaction: Transaction,
    room: Mapping[str, int],
    limit: int,
    instance_id: int,
) -> list[ClaimedJob]:
    """Claim up to `limit` due jobs, most urgent first, and of no type more than it has room for."""
    return _claim(transaction, _within_limits(limit), room, instance_id, NO_FLOOR)[0]


def claim_job(transaction: Transaction, entry_id: int, job_id: str, instance_id: int) -> ClaimedJob:
    """Claim one queued job by its id, also one that is not due yet.

    Raises:
        ClaimLost: Another instance holds it.
    """
    row = transaction.run(_CLAIM_ENTRY, {"id": entry_id, "instance_id": instance_id}).fetchone()
    if row is None:
        raise ClaimLost(job_id)
    return _start(transaction, entry_id, instance_id, *row)


def _claim(
    transaction: Transaction,
    claim: Statement,
    room: Mapping[str, int],
    instance_id: int,
    floor: int,
) -> tuple[list[ClaimedJob], Optional[int]]:
    values = {
        "wanted": json.dumps(room),
        "instance_id": instance_id,
        "acknowledged": int(transaction.acknowledged),
        "floor": floor,
    }
    rows = transaction.run(claim, values).fetchall()
    rows.sort(key=lambda row: (row[1], row[0]))  # RETURNING has no order
    if transaction.dialect == "postgresql":
        claimed = [_started(transaction, instance_id, row) for row in rows]
    else:
        claimed = [
            _start(transaction, entry_id, instance_id, *hold) for entry_id, _rank, *hold in rows
        ]
    return claimed, rows[0][1] if rows else None


def _started(transaction: Transaction, instance_id: int, row: Sequence[Any]) -> ClaimedJob:
    """Return a job that the statement itself has started, and keep its event."""
    entry_id, _rank, claim_seq, timeout_seconds, waited_ms, *fields, event_id, created_at = row
    job, attempt, max_retries = _job_from(*fields)
    keep_event(
        transaction,
        event_id,
        job.job_id,
        job.task_type,
        "started",
        attempt,
        job.progress,
        created_at,
    )
    claim = Claim(job.job_id, entry_id, instance_id, claim_seq)
    return ClaimedJob(job, claim, attempt, max_retries, timeout_seconds, max(0, waited_ms))


def _start(
    transaction: Transaction,
    entry_id: int,
    instance_id: int,
    claim_seq: int,
    timeout_seconds: Optional[float],
    waited_ms: int,
) -> ClaimedJob:
    row = transaction.run(_START_JOB, {"id": entry_id}).fetchone()
    job, attempt, max_retries = _job_from(*row)
    record_event(
        transaction,
        entry_id,
        job.job_id,
        job.task_type,
        "started",
        attempt=attempt,
        progress=job.progress,
    )
    claim = Claim(job.job_id, entry_id, instance_id, claim_seq)
    return ClaimedJob(job, claim, attempt, max_retries, timeout_seconds, max(0, waited_ms))


def _job_from(
    job_id: str,
    task_type: str,
    params: str,
    progress: int,
    task_output: Optional[str],
    error_message: Optional[str],
    retry_count: int,
    max_retries: int,
) -> tuple[Job, int, int]:
    job = Job.model_construct(
        job_id=job_id,
        task_type=task_type,
        params=json.loads(params),
        status="processing",
        progress=progress,
        task_output=None if task_output is None else json.loads(task_output),
        error_message=error_message,
    )
    return job, retry_count + 1, max_retries
