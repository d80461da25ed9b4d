"""Adding a job: its record, its wishes, its place in the queue and the event, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, TypedDict

from cl_ml_tools.errors import DuplicateJob
from cl_ml_tools.jobs import DEFAULT_PRIORITY
from cl_ml_tools.protocols import AddedJob

from ..transaction import Transaction
from .events import keep_event, record_event
from .statement import statement

__all__ = ["NewJob", "add_job", "add_jobs"]

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
    INSERT INTO jobs ({_JOB_COLUMNS}) VALUES ({_JOB_VALUES}) ON CONFLICT (job_id) DO NOTHING
""")

_INSERT_OPTIONS = statement("""
    INSERT INTO job_options (id, priority, timeout_seconds, idempotency_key)
    VALUES (:id, :priority, :timeout_seconds, :idempotency_key)
""")

_INSERT_ENTRY = statement(f"""
    INSERT INTO queue_entries ({_ENTRY_COLUMNS}) VALUES (:id, {_ENTRY_VALUES})
""")

# PostgreSQL: any number of jobs as one statement, one round trip.
_DUE = "available_at IS NULL OR available_at <= :now"
_INSERT_JOBS = statement(
    "",
    postgresql=f"""
    WITH item AS MATERIALIZED (
        SELECT * FROM ROWS FROM (
            json_to_recordset(CAST(:jobs AS JSON)) AS (
                job_id TEXT, task_type TEXT, params TEXT, created_by TEXT, priority INTEGER,
                max_retries INTEGER, available_at BIGINT, timeout_seconds DOUBLE PRECISION,
                idempotency_key TEXT)
        ) WITH ORDINALITY AS item (
            job_id, task_type, params, created_by, priority, max_retries, available_at,
            timeout_seconds, idempotency_key, place)
    ), job AS (
        INSERT INTO jobs ({_JOB_COLUMNS})
        SELECT job_id, task_type, params, 'queued', 0, :now, 0, max_retries, created_by
        FROM item ORDER BY place
        ON CONFLICT (job_id) DO NOTHING
        RETURNING id, job_id, created_at
    ), added AS MATERIALIZED (
        SELECT job.id, job.created_at AS now, item.* FROM job JOIN item ON item.job_id = job.job_id
    ), options AS (
        INSERT INTO job_options (id, priority, timeout_seconds, idempotency_key)
        SELECT id, priority, timeout_seconds, idempotency_key FROM added
        WHERE priority <> {DEFAULT_PRIORITY} OR timeout_seconds IS NOT NULL
           OR idempotency_key IS NOT NULL
    ), entry AS (
        INSERT INTO queue_entries ({_ENTRY_COLUMNS})
        SELECT id, job_id, task_type, priority,
               CASE WHEN {_DUE} THEN now ELSE available_at END,
               CASE WHEN {_DUE} THEN now - CAST(priority AS BIGINT) * 600000 END,
               CASE WHEN {_DUE} THEN NULL ELSE available_at END,
               0, 0, timeout_seconds
        FROM added
    ), event AS (
        INSERT INTO job_events
            (entry_id, event_type, attempt, progress, created_at, acknowledged_at)
        SELECT id, 'queued', 1, 0, now, CASE WHEN :acknowledged = 1 THEN now END
        FROM added ORDER BY place
        RETURNING id AS event_id, entry_id
    )
    SELECT added.place, event.event_id, added.now
    FROM added JOIN event ON event.entry_id = added.id ORDER BY added.place
    """,
)

_CONTENT = "SELECT jobs.job_id, jobs.task_type, jobs.params"

_FIND_BY_ID = statement(f"{_CONTENT} FROM jobs WHERE job_id = :job_id")

_FIND_BY_KEYS = statement(
    f"""
    {_CONTENT}, options.idempotency_key FROM json_each(:keys) AS wanted
    JOIN job_options AS options ON options.idempotency_key = wanted.value
    JOIN jobs ON jobs.id = options.id
    """,
    postgresql=f"""
    {_CONTENT}, options.idempotency_key
    FROM json_array_elements_text(CAST(:keys AS JSON)) AS wanted (key)
    JOIN job_options AS options ON options.idempotency_key = wanted.key
    JOIN jobs ON jobs.id = options.id
    """,
)

# Two adders with one key wait for each other until the first has committed, and always in the same
# order; SQLite's have to wait anyway.
_LOCK_KEYS = statement(
    "SELECT 1",
    postgresql="""
    SELECT pg_advisory_xact_lock(hash) FROM (
        SELECT DISTINCT hashtextextended(key, 0) AS hash
        FROM json_array_elements_text(CAST(:keys AS JSON)) AS wanted (key) ORDER BY hash
    ) AS hashes
    """,
)


class NewJob(TypedDict):
    """A job to add, every value checked: what its statements are given.

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


class _Content(NamedTuple):
    """What makes two requests the same job."""

    job_id: str
    task_type: str
    params: str


def add_job(transaction: Transaction, job: NewJob) -> str:
    """Add a job and return its id, or that of the job which its idempotency key made before.

    Without a key, PostgreSQL does all of it in one statement.

    Raises:
        DuplicateJob: The id is taken, or the key stands for a job with other content.
    """
    for earlier in _find_by_keys(transaction, [job]).values():
        _check_same(job, earlier)
        return earlier.job_id
    if not _insert(transaction, [job]):
        raise DuplicateJob(job["job_id"])
    return job["job_id"]


def add_jobs(transaction: Transaction, jobs: Sequence[NewJob]) -> list[AddedJob]:
    """Add jobs in their order; those that are there already stay as they are.

    Args:
        transaction: Where.
        jobs: What to add.

    Returns:
        What became of each.

    Raises:
        DuplicateJob: An id or a key stands for a job with other content.
    """
    earlier = _find_by_keys(transaction, jobs)
    fresh: dict[str, NewJob] = {}
    for job in jobs:
        key = job["idempotency_key"]
        if key is None or key not in earlier:
            fresh.setdefault(job["job_id"], job)
            if key is not None:
                earlier[key] = _content(job)
    added = _insert(transaction, list(fresh.values()))
    answers = []
    for job in jobs:
        job_id = job["job_id"]
        if fresh.get(job_id) is job and job_id in added:
            answers.append(AddedJob(job_id, "added"))
            continue
        same = earlier.get(job["idempotency_key"] or "")
        if same is None or same.job_id == job_id:
            same = _find_by_id(transaction, job_id)
        _check_same(job, same)
        answers.append(AddedJob(same.job_id, "existing"))
    return answers


def _insert(transaction: Transaction, jobs: Sequence[NewJob]) -> set[str]:
    """Write jobs, their wishes, entries and events; return the ids that were not there before."""
    transaction.makes_claimable = True
    if transaction.dialect == "sqlite":
        return {job["job_id"] for job in jobs if _insert_one(transaction, job)}
    if not jobs:
        return set()
    values = {"jobs": json.dumps(jobs), "acknowledged": int(transaction.acknowledged)}
    added = set()
    for place, event_id, now in transaction.run(_INSERT_JOBS, values).fetchall():
        job_id, task_type = jobs[place - 1]["job_id"], jobs[place - 1]["task_type"]
        keep_event(transaction, event_id, job_id, task_type, "queued", 1, 0, now)
        added.add(job_id)
    return added


def _insert_one(transaction: Transaction, job: NewJob) -> bool:
    values: dict[str, Any] = {**job}
    inserted = transaction.run(_INSERT_JOB, values)
    if not inserted.rowcount:
        return False
    entry_id = values["id"] = inserted.lastrowid
    if (
        job["priority"] != DEFAULT_PRIORITY
        or job["timeout_seconds"] is not None
        or job["idempotency_key"] is not None
    ):
        transaction.run(_INSERT_OPTIONS, values)
    transaction.run(_INSERT_ENTRY, values)
    record_event(
        transaction, entry_id, job["job_id"], job["task_type"], "queued", attempt=1, progress=0
    )
    return True


def _find_by_keys(transaction: Transaction, jobs: Sequence[NewJob]) -> dict[str, _Content]:
    """Return, by its idempotency key, each job that was asked for before; locks the keys."""
    keys = [key for job in jobs if (key := job["idempotency_key"]) is not None]
    if not keys:
        return {}
    values = {"keys": json.dumps(keys)}
    transaction.run(_LOCK_KEYS, values).fetchall()
    rows = transaction.run(_FIND_BY_KEYS, values).fetchall()
    return {row[3]: _Content(*row[:3]) for row in rows}


def _find_by_id(transaction: Transaction, job_id: str) -> _Content:
    row = transaction.run(_FIND_BY_ID, {"job_id": job_id}).fetchone()
    if row is None:  # PostgreSQL: it was added, and deleted, while this ran
        raise DuplicateJob(job_id)
    return _Content(*row)


def _content(job: NewJob) -> _Content:
    return _Content(job["job_id"], job["task_type"], job["params"])


def _check_same(job: NewJob, earlier: _Content) -> None:
    content = (job["task_type"], json.loads(job["params"]))
    if content != (earlier.task_type, json.loads(earlier.params)):
        stands = (
            f"the id {earlier.job_id!r} stands for a job"
            if earlier.job_id == job["job_id"]
            else f"the idempotency key {job['idempotency_key']!r} stands for job {earlier.job_id!r},"
        )
        raise DuplicateJob(
            earlier.job_id, f"{stands} which has another task type or other parameters"
        )
