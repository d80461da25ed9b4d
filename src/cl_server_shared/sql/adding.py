"""Adding a job: its record, its wishes, its place in the queue and the event, in one transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Optional

from cl_ml_tools.errors import DuplicateJob
from cl_ml_tools.jobs import DEFAULT_PRIORITY

from ..transaction import Transaction
from .events import record_event
from .statement import statement

__all__ = ["NewJob", "add_job"]

_JOB_COLUMNS = (
    "job_id, task_type, params, status, progress, created_at, retry_count, max_retries, created_by"
)
_JOB_VALUES = ":job_id, :task_type, :params, 'queued', 0, :now, 0, :max_retries, :created_by"

# Due now, or not before `:available_at`; `enqueued_at` is when the job first becomes due.
_AVAILABLE_AT = "CAST(:available_at AS BIGINT)"
_IS_DUE = f"({_AVAILABLE_AT} IS NULL OR {_AVAILABLE_AT} <= :now)"
_ENTRY_COLUMNS = (
    "id, job_id, task_type, priority, enqueued_at, rank, available_at, claim_seq, "
    "cancel_requested, timeout_seconds"
)
_ENTRY_VALUES = f"""
    :job_id, :task_type, :priority,
    CASE WHEN {_IS_DUE} THEN :now ELSE {_AVAILABLE_AT} END,
    CASE WHEN {_IS_DUE} THEN :now - :priority * 600000 END,
    CASE WHEN {_IS_DUE} THEN NULL ELSE {_AVAILABLE_AT} END,
    0, 0, :timeout_seconds"""

_INSERT_JOB = statement(f"""
    INSERT INTO jobs ({_JOB_COLUMNS}) VALUES ({_JOB_VALUES})
    ON CONFLICT (job_id) DO NOTHING
    RETURNING id, created_at
""")

_INSERT_OPTIONS = statement("""
    INSERT INTO job_options (id, priority, timeout_seconds, idempotency_key)
    VALUES (:id, :priority, :timeout_seconds, :idempotency_key)
""")

_INSERT_ENTRY = statement(f"""
    INSERT INTO queue_entries ({_ENTRY_COLUMNS}) VALUES (:id, {_ENTRY_VALUES})
""")

_FIND_BY_IDEMPOTENCY_KEY = statement("""
    SELECT jobs.job_id, jobs.task_type, jobs.params
    FROM job_options JOIN jobs ON jobs.id = job_options.id
    WHERE job_options.idempotency_key = :idempotency_key
""")

# Two adders with one key wait for each other until the first has committed; SQLite's have to anyway.
_LOCK_IDEMPOTENCY_KEY = statement(
    "SELECT 1",
    postgresql="SELECT pg_advisory_xact_lock(hashtextextended(:idempotency_key, 0))",
)


@dataclass(frozen=True)
class NewJob:
    """A job to add, every value checked.

    Attributes:
        job_id: Its id.
        task_type: Its task.
        params: JSON text.
        created_by: Who asked for it.
        priority: 0 to 10.
        max_retries: How many re-runs it may have.
        available_at: Not to run before, in milliseconds since the epoch; `None`: at once.
        timeout_seconds: How long one attempt may take.
        idempotency_key: A second request with this key is the first job again.
    """

    job_id: str
    task_type: str
    params: str
    created_by: Optional[str]
    priority: int
    max_retries: int
    available_at: Optional[int]
    timeout_seconds: Optional[float]
    idempotency_key: Optional[str]


def add_job(transaction: Transaction, job: NewJob) -> str:
    """Add a job and return its id, or that of the job which its idempotency key made before.

    Raises:
        DuplicateJob: The id is taken, or the key stands for a job with other content.
    """
    values: dict[str, Any] = dict(vars(job))
    if job.idempotency_key is not None:
        transaction.run(_LOCK_IDEMPOTENCY_KEY, values).fetchall()
        earlier = transaction.run(_FIND_BY_IDEMPOTENCY_KEY, values).fetchone()
        if earlier is not None:
            return _same_job(job, *earlier)
    row = transaction.run(_INSERT_JOB, values).fetchone()
    if row is None:
        raise DuplicateJob(job.job_id)
    values["id"] = row[0]
    if _has_wishes(job):
        transaction.run(_INSERT_OPTIONS, values)
    transaction.run(_INSERT_ENTRY, values)
    record_event(transaction, row[0], job.job_id, job.task_type, "queued", attempt=1, progress=0)
    return job.job_id


def _has_wishes(job: NewJob) -> bool:
    return (
        job.priority != DEFAULT_PRIORITY
        or job.timeout_seconds is not None
        or job.idempotency_key is not None
    )


def _same_job(job: NewJob, job_id: str, task_type: str, params: str) -> str:
    if (task_type, json.loads(params)) != (job.task_type, json.loads(job.params)):
        raise DuplicateJob(
            job_id,
            f"the idempotency key {job.idempotency_key!r} stands for job {job_id!r}, "
            "which has another task type or other parameters",
        )
    return job_id
