"""Claiming: picked and marked in one statement, never read first and written after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.jobs import Job
from cl_ml_tools.protocols import Claim, ClaimedJob

from ..transaction import Transaction
from .events import keep_event, record_event
from .statement import statement

__all__ = [
    "JobState",
    "any_waiting",
    "claim_job",
    "claim_jobs",
    "give_back",
    "lock_job",
    "make_due",
    "next_due_in_ms",
]

# How many jobs one claim makes due: enough for any rate of claims, and no long transaction.
_DUE_AT_ONCE = 100

# A job's rank is stored once it is due, so that its order costs nothing (`cl_ml_tools.jobs.rank_of`).
_MAKE_DUE = statement(
    f"""
    UPDATE queue_entries SET rank = enqueued_at - priority * 600000, available_at = NULL
    WHERE id IN (SELECT id FROM queue_entries WHERE available_at <= :now
                 ORDER BY available_at LIMIT {_DUE_AT_ONCE})
    """,
    postgresql=f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM queue_entries WHERE available_at <= :now
        ORDER BY available_at LIMIT {_DUE_AT_ONCE} FOR UPDATE SKIP LOCKED
    )
    UPDATE queue_entries SET rank = enqueued_at - priority * 600000, available_at = NULL
    FROM due WHERE queue_entries.id = due.id
    """,
)

# SQLite: the head of each task type, then the best of those.
_CLAIM_ENTRIES = statement("""
    UPDATE queue_entries SET claimed_by = :instance_id, claim_seq = claim_seq + 1
    WHERE id IN (
        SELECT head.id FROM json_each(:task_types) AS wanted CROSS JOIN queue_entries AS head
        ON head.id IN (SELECT id FROM queue_entries
                       WHERE task_type = wanted.value AND claimed_by IS NULL AND rank IS NOT NULL
                       ORDER BY rank, id LIMIT :limit)
        ORDER BY head.rank, head.id LIMIT :limit)
    RETURNING id, rank, claim_seq, timeout_seconds
""")

_START_JOB = statement("""
    UPDATE jobs SET status = 'processing', started_at = COALESCE(started_at, :now)
    WHERE id = :id
    RETURNING job_id, task_type, params, progress, task_output, error_message,
              retry_count, max_retries
""")

# PostgreSQL: all of a claim in one round trip. The picked rows stay in a materialised CTE; as
# `id IN (SELECT ... LIMIT 1 FOR UPDATE)` a stale plan took 61 rows.
_CLAIM_JOBS = statement(
    "",
    postgresql="""
    WITH picked AS MATERIALIZED (
        SELECT head.id
        FROM json_array_elements_text(CAST(:task_types AS JSON)) AS wanted (task_type)
        CROSS JOIN LATERAL (
            SELECT id, rank FROM queue_entries
            WHERE task_type = wanted.task_type AND claimed_by IS NULL AND rank IS NOT NULL
            ORDER BY rank, id LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS head
        ORDER BY head.rank, head.id LIMIT :limit
    ), claimed AS (
        UPDATE queue_entries SET claimed_by = :instance_id, claim_seq = claim_seq + 1
        FROM picked WHERE queue_entries.id = picked.id
        RETURNING queue_entries.id, rank, claim_seq, timeout_seconds
    ), started AS (
        UPDATE jobs SET status = 'processing', started_at = COALESCE(jobs.started_at, :now)
        FROM claimed WHERE jobs.id = claimed.id
        RETURNING claimed.id, rank, claim_seq, timeout_seconds,
                  jobs.job_id, task_type, params, progress, task_output, error_message,
                  retry_count, max_retries
    ), event AS (
        INSERT INTO job_events
            (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
        SELECT id, 'started', retry_count + 1, progress, :now,
               CASE WHEN :acknowledged = 1 THEN :now END
        FROM started
        RETURNING id AS event_id, entry_id, created_at
    )
    SELECT started.*, event.event_id, event.created_at
    FROM started JOIN event ON event.entry_id = started.id
    """,
)

# Without locks: whether an empty claim means that nothing is there, or that others hold the heads.
# SQLite has one writer, who is never kept from a row: there an empty claim is the truth, and this
# tells what was added since. By each type's head, as the claim does it: `EXISTS` makes both planners
# read whatever waits of other types (100,000: 20-40 ms instead of 0.1).
_ANY_WAITING = statement(
    """
    SELECT 1 FROM json_each(:task_types) AS wanted
    WHERE (SELECT rank FROM queue_entries
           WHERE task_type = wanted.value AND claimed_by IS NULL AND rank IS NOT NULL
           ORDER BY rank LIMIT 1) IS NOT NULL
    LIMIT 1
    """,
    postgresql="""
    SELECT 1 FROM json_array_elements_text(CAST(:task_types AS JSON)) AS wanted (task_type)
    CROSS JOIN LATERAL (
        SELECT rank FROM queue_entries
        WHERE task_type = wanted.task_type AND claimed_by IS NULL AND rank IS NOT NULL
        ORDER BY rank LIMIT 1
    ) AS head
    LIMIT 1
    """,
)

_NEXT_DUE_AT = statement("""
    SELECT MIN(available_at) - :now FROM queue_entries WHERE available_at IS NOT NULL
""")

# One job by its id, whoever holds it. The entry is locked before the job, as claims do it, so that
# the two cannot wait for each other.
_LOCK_JOB = statement(
    """
    SELECT jobs.id, jobs.task_type, jobs.status, jobs.progress, jobs.retry_count,
           jobs.max_retries, entry.claimed_by, entry.claim_seq,
           worker.lease_expires_at > :now AS lease_is_live
    FROM jobs
    LEFT JOIN queue_entries AS entry ON entry.id = jobs.id
    LEFT JOIN workers AS worker ON worker.instance_id = entry.claimed_by
    WHERE jobs.job_id = :job_id
    """,
)

_LOCK_ENTRY = statement(
    "SELECT 1",
    postgresql="SELECT id FROM queue_entries WHERE job_id = :job_id FOR UPDATE",
)

# One queued job, also one that is not due yet.
_CLAIM_ENTRY = statement("""
    UPDATE queue_entries
    SET claimed_by = :instance_id, claim_seq = claim_seq + 1, available_at = NULL,
        rank = enqueued_at - priority * 600000
    WHERE id = :id AND claimed_by IS NULL
    RETURNING claim_seq, timeout_seconds
""")

_GIVE_BACK_ENTRY = statement("""
    UPDATE queue_entries SET claimed_by = NULL
    WHERE id = :id AND claimed_by = :instance_id AND claim_seq = :claim_seq
    RETURNING id
""")

_QUEUE_JOB = statement("""
    UPDATE jobs SET status = 'queued', progress = 0 WHERE id = :id
    RETURNING job_id, task_type, retry_count
""")


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


def make_due(transaction: Transaction) -> None:
    """Give jobs whose time has come their place in the queue."""
    transaction.run(_MAKE_DUE)


def claim_jobs(
    transaction: Transaction, task_types: Sequence[str], limit: int, instance_id: int
) -> list[ClaimedJob]:
    """Claim up to `limit` due jobs, most urgent first, and record that they started."""
    values = {
        "task_types": json.dumps(list(task_types)),
        "limit": limit,
        "instance_id": instance_id,
        "acknowledged": int(transaction.acknowledged),
    }
    if transaction.dialect == "sqlite":
        return _claim_step_by_step(transaction, values)
    rows = transaction.run(_CLAIM_JOBS, values).fetchall()
    claimed = []
    for row in sorted(rows, key=lambda row: (row[1], row[0])):  # RETURNING has no order
        entry_id, _rank, claim_seq, timeout_seconds, *fields, event_id, created_at = row
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
        claimed.append(ClaimedJob(job, claim, attempt, max_retries, timeout_seconds))
    return claimed


def _claim_step_by_step(transaction: Transaction, values: dict[str, Any]) -> list[ClaimedJob]:
    rows = transaction.run(_CLAIM_ENTRIES, values).fetchall()
    rows.sort(key=lambda row: (row[1], row[0]))  # RETURNING has no order
    return [
        _start(transaction, Claim("", entry_id, values["instance_id"], claim_seq), timeout_seconds)
        for entry_id, _rank, claim_seq, timeout_seconds in rows
    ]


def claim_job(transaction: Transaction, entry_id: int, job_id: str, instance_id: int) -> ClaimedJob:
    """Claim one queued job by its id, also one that is not due yet.

    Raises:
        ClaimLost: Another instance holds it.
    """
    row = transaction.run(_CLAIM_ENTRY, {"id": entry_id, "instance_id": instance_id}).fetchone()
    if row is None:
        raise ClaimLost(job_id)
    return _start(transaction, Claim(job_id, entry_id, instance_id, row[0]), row[1])


def _start(transaction: Transaction, claim: Claim, timeout_seconds: Optional[float]) -> ClaimedJob:
    row = transaction.run(_START_JOB, {"id": claim.entry_id}).fetchone()
    job, attempt, max_retries = _job_from(*row)
    record_event(
        transaction,
        claim.entry_id,
        job.job_id,
        job.task_type,
        "started",
        attempt=attempt,
        progress=job.progress,
    )
    claim = Claim(job.job_id, claim.entry_id, claim.instance_id, claim.claim_seq)
    return ClaimedJob(job, claim, attempt, max_retries, timeout_seconds)


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


def any_waiting(transaction: Transaction, task_types: Sequence[str]) -> bool:
    """Return whether a due job of these types is unclaimed, without taking a lock."""
    values = {"task_types": json.dumps(list(task_types))}
    return transaction.run(_ANY_WAITING, values).fetchone() is not None


def next_due_in_ms(transaction: Transaction) -> Optional[int]:
    """Return how long it is until the next job becomes due; `None` where none waits for its time."""
    value: Optional[int] = transaction.run(_NEXT_DUE_AT).fetchone()[0]
    return value


def lock_job(transaction: Transaction, job_id: str) -> Optional[JobState]:
    """Lock one job's rows and return its state; `None` where there is no such job."""
    if transaction.dialect == "postgresql":
        transaction.run(_LOCK_ENTRY, {"job_id": job_id})
    row = transaction.run(_LOCK_JOB, {"job_id": job_id}).fetchone()
    return None if row is None else JobState(*row)


def give_back(transaction: Transaction, claim: Claim) -> None:
    """Queue a claimed job again in its old place, at no cost.

    Raises:
        ClaimLost: The claim is not held any more.
    """
    values = {"id": claim.entry_id, "instance_id": claim.instance_id, "claim_seq": claim.claim_seq}
    if transaction.run(_GIVE_BACK_ENTRY, values).fetchone() is None:
        raise ClaimLost(claim.job_id)
    job_id, task_type, retry_count = transaction.run(_QUEUE_JOB, values).fetchone()
    record_event(
        transaction,
        claim.entry_id,
        job_id,
        task_type,
        "queued",
        attempt=retry_count + 1,
        progress=0,
    )
