"""What operators look at, at a bounded cost: from the queue's indexes, never by grouping `jobs`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Optional

from ..transaction import Transaction
from .statement import statement

__all__ = [
    "DueLater",
    "EndedCount",
    "LiveWorker",
    "VacuumHold",
    "Waiting",
    "count_due_later",
    "count_ended",
    "count_running",
    "count_waiting",
    "dead_rows",
    "list_live_workers",
    "oldest_of_all",
    "oldest_snapshots",
]

# The head of each task type that waits, found by skipping from one type to the next through the
# claim's index, and as many of its entries as are to be counted, by that index alone.
_IS_WAITING = "claimed_by IS NULL AND rank IS NOT NULL"
_COUNT_WAITING = statement(f"""
    WITH RECURSIVE waiting (task_type) AS (
        SELECT MIN(task_type) FROM queue_entries WHERE {_IS_WAITING}
        UNION ALL
        SELECT (SELECT MIN(entry.task_type) FROM queue_entries AS entry
                WHERE {_IS_WAITING} AND entry.task_type > waiting.task_type)
        FROM waiting WHERE waiting.task_type IS NOT NULL
    )
    SELECT task_type,
           (SELECT COUNT(*) FROM
               (SELECT rank FROM queue_entries AS entry
                WHERE {_IS_WAITING} AND entry.task_type = waiting.task_type
                LIMIT :count_up_to) AS counted),
           (SELECT :now - enqueued_at FROM queue_entries AS entry
            WHERE {_IS_WAITING} AND entry.task_type = waiting.task_type
            ORDER BY rank, id LIMIT 1)
    FROM waiting WHERE task_type IS NOT NULL
""")

# By age, not by place: a job of low priority may wait behind younger ones.
_OLDEST_OF_ALL = statement(f"""
    SELECT task_type, :now - MIN(enqueued_at)
    FROM (SELECT task_type, enqueued_at, claimed_by, rank FROM queue_entries
          ORDER BY enqueued_at LIMIT :look_at) AS oldest
    WHERE {_IS_WAITING} GROUP BY task_type
""")

# What became due since a claim last looked is due, although it has no rank yet.
_COUNT_DUE_LATER = statement("""
    SELECT task_type, COUNT(*), SUM(CASE WHEN available_at <= :now THEN 1 ELSE 0 END),
           :now - MIN(enqueued_at)
    FROM (SELECT task_type, available_at, enqueued_at FROM queue_entries
          WHERE available_at IS NOT NULL ORDER BY available_at LIMIT :count_up_to) AS later
    GROUP BY task_type
""")

# Ordered, so that both planners take the index on `claimed_by` and leave alone what waits.
_COUNT_RUNNING = statement("""
    SELECT task_type, COUNT(*)
    FROM (SELECT task_type FROM queue_entries
          WHERE claimed_by IS NOT NULL ORDER BY claimed_by LIMIT :count_up_to) AS running
    GROUP BY task_type
""")

_LIST_LIVE_WORKERS = statement("""
    SELECT instance_id, label, host, pid, concurrency, running, started_at, renewed_at,
           lease_expires_at, capabilities
    FROM workers WHERE lease_expires_at > :now AND concurrency > 0
    ORDER BY label, started_at, instance_id
""")

_COUNT_ENDED = statement("""
    SELECT minute, task_type, outcome, count FROM job_counts
    WHERE minute > :since - 60000
    ORDER BY minute, task_type, outcome
""")

# PostgreSQL only: what vacuum still has to do, and who keeps it from doing it.
_DEAD_ROWS = statement(
    "SELECT '', 0 WHERE 0",
    postgresql="""
    SELECT relname, n_dead_tup FROM pg_stat_user_tables
    WHERE schemaname = current_schema()
      AND relname IN ('jobs', 'queue_entries', 'job_events', 'workers', 'duties')
    ORDER BY relname
    """,
)

_OLDEST_SNAPSHOTS = statement(
    "SELECT '', 0, 0 WHERE 0",
    postgresql="""
    SELECT 'transaction', MAX(GREATEST(age(backend_xmin), age(backend_xid))),
           MAX(EXTRACT(EPOCH FROM clock_timestamp() - xact_start))
    FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
      AND COALESCE(datname, current_database()) = current_database() AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction', MAX(age(transaction)),
           MAX(EXTRACT(EPOCH FROM clock_timestamp() - prepared))
    FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT 'replication slot', MAX(GREATEST(age(xmin), age(catalog_xmin))), NULL
    FROM pg_replication_slots
    """,
)


@dataclass(frozen=True)
class Waiting:
    """The due jobs of one task type that nobody has claimed.

    Attributes:
        count: How many; no more than were to be counted.
        age_ms: How long the one that is next has been due.
    """

    count: int
    age_ms: int


@dataclass(frozen=True)
class DueLater:
    """The jobs of one task type that wait for their time.

    Attributes:
        count: How many; no more than were to be counted.
        due: How many of them are due by now.
        age_ms: How long the oldest has been due; negative where none is.
    """

    count: int
    due: int
    age_ms: int


@dataclass(frozen=True)
class LiveWorker:
    """A worker whose lease holds.

    Attributes:
        instance_id: Made at random at its start.
        label: What people call it (`WORKER_ID`).
        host: Where it runs.
        pid: As which process.
        concurrency: How many jobs it runs at once.
        running: How many it ran when it last renewed its lease.
        started_at: When it came up, in milliseconds since the epoch.
        renewed_at: When it last renewed its lease.
        lease_expires_at: When what it claimed may be taken away.
        task_types: What it runs.
    """

    instance_id: int
    label: str
    host: str
    pid: int
    concurrency: int
    running: int
    started_at: int
    renewed_at: int
    lease_expires_at: int
    task_types: list[str]


@dataclass(frozen=True)
class EndedCount:
    """How many jobs of one task type ended in one minute with one outcome.

    Attributes:
        minute: When it began, in milliseconds since the epoch.
        task_type: The task.
        outcome: `completed`, `failed`, `cancelled`; `retrying`: attempts that run again.
        count: How many.
    """

    minute: int
    task_type: str
    outcome: str
    count: int


@dataclass(frozen=True)
class VacuumHold:
    """The oldest of its kind that keeps PostgreSQL's vacuum from removing dead rows.

    Attributes:
        kind: `transaction`, `prepared transaction` or `replication slot`.
        transactions: How many transactions began since.
        seconds: How long it has been open; `None`: a replication slot has no time.
    """

    kind: str
    transactions: int
    seconds: Optional[float]


def count_waiting(transaction: Transaction, count_up_to: int) -> dict[str, Waiting]:
    """Return each task type that has due jobs, and how many.

    Args:
        transaction: Where to read.
        count_up_to: How many of each type are counted.
    """
    rows = transaction.run(_COUNT_WAITING, {"count_up_to": count_up_to}).fetchall()
    return {row[0]: Waiting(*row[1:]) for row in rows}


def oldest_of_all(transaction: Transaction, look_at: int) -> dict[str, int]:
    """Return how long, in milliseconds, the longest waiting among the oldest live jobs wait.

    Args:
        transaction: Where to read.
        look_at: How many of the oldest live jobs are looked at.
    """
    rows = transaction.run(_OLDEST_OF_ALL, {"look_at": look_at}).fetchall()
    return dict(rows)


def count_due_later(transaction: Transaction, count_up_to: int) -> dict[str, DueLater]:
    """Return each task type whose jobs wait for their time, the soonest of all types.

    Args:
        transaction: Where to read.
        count_up_to: How many are counted, all types together.
    """
    rows = transaction.run(_COUNT_DUE_LATER, {"count_up_to": count_up_to}).fetchall()
    return {row[0]: DueLater(count=row[1], due=int(row[2]), age_ms=row[3]) for row in rows}


def count_running(transaction: Transaction, count_up_to: int) -> dict[str, int]:
    """Return how many jobs of each task type are claimed."""
    rows = transaction.run(_COUNT_RUNNING, {"count_up_to": count_up_to}).fetchall()
    return dict(rows)


def list_live_workers(transaction: Transaction) -> list[LiveWorker]:
    """Return the workers whose lease holds and that serve others, by their label."""
    rows = transaction.run(_LIST_LIVE_WORKERS).fetchall()
    return [LiveWorker(*[*row[:-1], sorted(json.loads(row[-1]))]) for row in rows]


def count_ended(transaction: Transaction, since: int) -> list[EndedCount]:
    """Return what ended in the minute in which `since` lies, and after it, oldest first.

    Args:
        transaction: Where to read.
        since: In milliseconds since the epoch.
    """
    rows = transaction.run(_COUNT_ENDED, {"since": since}).fetchall()
    return [EndedCount(*row) for row in rows]


def dead_rows(transaction: Transaction) -> dict[str, int]:
    """Return how many dead rows each hot table has; PostgreSQL only."""
    return dict(transaction.run(_DEAD_ROWS).fetchall())


def oldest_snapshots(transaction: Transaction) -> list[VacuumHold]:
    """Return the oldest of each kind that keeps vacuum back; PostgreSQL only."""
    rows = transaction.run(_OLDEST_SNAPSHOTS).fetchall()
    return [
        VacuumHold(kind, transactions, None if seconds is None else float(seconds))
        for kind, transactions, seconds in rows
        if transactions is not None
    ]
