"""Counting ended jobs: from their events, in order, into a row per minute, task type and outcome."""

from __future__ import annotations

from ..transaction import Transaction
from .statement import statement

__all__ = ["count_next_events", "has_uncounted_events", "lock_cursor"]

DUTY = "counting"

_MAKE_CURSOR = statement(f"""
    INSERT INTO duties (name, holder, expires_at, cursor) VALUES ('{DUTY}', 0, 0, 0)
    ON CONFLICT (name) DO NOTHING
""")

_SELECT_CURSOR = f"SELECT cursor FROM duties WHERE name = '{DUTY}'"

# Locked until its batch is counted: whoever comes meanwhile waits, and goes on from there.
_LOCK_CURSOR = statement(_SELECT_CURSOR, postgresql=f"{_SELECT_CURSOR} FOR UPDATE")

_MOVE_CURSOR = statement(f"UPDATE duties SET cursor = :last WHERE name = '{DUTY}'")

# By the order that never changes behind a reader: see `sql/events.py`.
_HAS_UNCOUNTED = statement(
    f"SELECT 1 FROM job_events WHERE id > COALESCE(({_SELECT_CURSOR}), 0) LIMIT 1",
    postgresql=f"""
    SELECT 1 FROM job_events WHERE position > COALESCE(({_SELECT_CURSOR}), 0) LIMIT 1
    """,
)

_FIND_LAST = statement(
    """
    SELECT MAX(id), COUNT(*)
    FROM (SELECT id FROM job_events WHERE id > :after ORDER BY id LIMIT :limit) AS batch
    """,
    postgresql="""
    SELECT MAX(position), COUNT(*)
    FROM (SELECT position FROM job_events WHERE position > :after
          ORDER BY position LIMIT :limit) AS batch
    """,
)

_COUNTED = """
    SELECT event.created_at / 60000 * 60000 AS minute, jobs.task_type, event.event_type, COUNT(*)
    FROM job_events AS event JOIN jobs ON jobs.id = event.entry_id
    WHERE event.{place} > :after AND event.{place} <= :last
      AND event.event_type IN ('completed', 'failed', 'cancelled', 'retrying')
    GROUP BY 1, 2, 3
"""
_COUNT_EVENTS = statement(_COUNTED.format(place="id"), postgresql=_COUNTED.format(place="position"))

_ADD_COUNT = statement("""
    INSERT INTO job_counts (minute, task_type, outcome, count)
    VALUES (:minute, :task_type, :outcome, :count)
    ON CONFLICT (minute, task_type, outcome)
    DO UPDATE SET count = job_counts.count + excluded.count
""")


def has_uncounted_events(transaction: Transaction) -> bool:
    """Return whether there are events that nobody has counted yet, without taking a lock."""
    return transaction.run(_HAS_UNCOUNTED).fetchone() is not None


def lock_cursor(transaction: Transaction) -> int:
    """Return how far the counting came, locked until the end of the transaction."""
    row = transaction.run(_LOCK_CURSOR).fetchone()
    if row is None:
        transaction.run(_MAKE_CURSOR)
        row = transaction.run(_LOCK_CURSOR).fetchone()
    cursor: int = row[0]
    return cursor


def count_next_events(transaction: Transaction, after: int, limit: int) -> tuple[int, bool]:
    """Add the ends among the next events to the counts, and move the cursor behind them.

    A job that was deleted since is not counted: its task type is not known any more.

    Args:
        transaction: One that holds the cursor.
        after: The cursor.
        limit: How many events to go through at most.

    Returns:
        How many ends were counted, and whether there may be more events.
    """
    last, found = transaction.run(_FIND_LAST, {"after": after, "limit": limit}).fetchone()
    if not found:
        return 0, False
    ended = 0
    values = {"after": after, "last": last}
    for minute, task_type, outcome, count in transaction.run(_COUNT_EVENTS, values).fetchall():
        transaction.run(
            _ADD_COUNT,
            {"minute": minute, "task_type": task_type, "outcome": outcome, "count": count},
        )
        ended += count
    transaction.run(_MOVE_CURSOR, {"last": last})
    return ended, found == limit
