"""What waits: made due, counted against limits, looked for without a claim."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Optional

from ..transaction import Transaction
from .statement import Statement, statement

__all__ = ["NOT_PAUSED", "is_any_due", "look_for_jobs", "make_due", "room_per_type"]

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

NOT_PAUSED = "NOT IN (SELECT task_type FROM task_settings WHERE paused_at IS NOT NULL)"


# Whoever claims of a limited type holds its row meanwhile, so that two never count the same room.
_LIMITS = """
    SELECT task_type, max_running FROM task_settings
    WHERE max_running IS NOT NULL AND task_type IN ({wanted}) ORDER BY task_type
"""
_LOCK_LIMITS = statement(
    _LIMITS.format(wanted="SELECT key FROM json_each(:wanted)"),
    postgresql=_LIMITS.format(wanted="SELECT json_object_keys(CAST(:wanted AS JSON))")
    + " FOR UPDATE",
)

# From live rows, not from a counter: nothing can go out of step with what really runs. SQLite is
# told the index: without statistics it may read all that waits instead.
_RUNNING = "queue_entries AS running INDEXED BY ix_queue_entries_claimed_by"
_RUNNING_POSTGRESQL = "queue_entries AS running"
_PER_TYPE = """
    SELECT task_type, COUNT(*) FROM {running} WHERE claimed_by IS NOT NULL GROUP BY task_type
"""
_COUNT_RUNNING = statement(
    _PER_TYPE.format(running=_RUNNING),
    postgresql=_PER_TYPE.format(running=_RUNNING_POSTGRESQL),
)

# Without locks: whether an empty claim means that nothing is there, or that others hold the heads.
# SQLite has one writer, who is never kept from a row: there an empty claim is the truth, and this
# tells what was added since. By each type's head, as the claim does it: `EXISTS` makes both planners
# read whatever waits of other types (100,000: 20-40 ms instead of 0.1).
_CLOSED = """
    SELECT 1 FROM task_settings AS settings
    WHERE settings.task_type = wanted.task_type AND (
        settings.paused_at IS NOT NULL OR settings.max_running <= (
            SELECT COUNT(*) FROM {running}
            WHERE running.claimed_by IS NOT NULL AND running.task_type = settings.task_type))
"""
_ANY_WAITING = statement(
    f"""
    SELECT 1 FROM (SELECT value AS task_type FROM json_each(:task_types)) AS wanted
    WHERE (SELECT rank FROM queue_entries INDEXED BY ix_queue_entries_claim
           WHERE task_type = wanted.task_type AND claimed_by IS NULL AND rank IS NOT NULL
           ORDER BY rank LIMIT 1) IS NOT NULL
      AND NOT EXISTS ({_CLOSED.format(running=_RUNNING)})
    LIMIT 1
    """,
    postgresql=f"""
    SELECT 1 FROM json_array_elements_text(CAST(:task_types AS JSON)) AS wanted (task_type)
    CROSS JOIN LATERAL (
        SELECT rank FROM queue_entries
        WHERE task_type = wanted.task_type AND claimed_by IS NULL AND rank IS NOT NULL
        ORDER BY rank LIMIT 1
    ) AS head
    WHERE NOT EXISTS ({_CLOSED.format(running=_RUNNING_POSTGRESQL)})
    LIMIT 1
    """,
)

_NEXT_DUE_IN_MS = statement("""
    SELECT MIN(available_at) - :now FROM queue_entries WHERE available_at IS NOT NULL
""")

# One round trip: what an idle worker looks for before it sleeps, and whenever it is woken.
_LOOK = Statement(
    f"SELECT ({_ANY_WAITING.sqlite}), ({_NEXT_DUE_IN_MS.sqlite})",
    f"SELECT ({_ANY_WAITING.postgresql}), ({_NEXT_DUE_IN_MS.postgresql})",
)

# The same for who has not said yet what it is looking for: by the claim's index, as its order is.
_HEAD = """
    SELECT 1 FROM queue_entries WHERE claimed_by IS NULL AND rank IS NOT NULL
    ORDER BY task_type, rank, id LIMIT 1
"""
_LOOK_FOR_ANY = Statement(
    f"SELECT ({_HEAD}), ({_NEXT_DUE_IN_MS.sqlite})",
    f"SELECT ({_HEAD}), ({_NEXT_DUE_IN_MS.postgresql})",
)


def make_due(transaction: Transaction) -> bool:
    """Give jobs whose time has come their place in the queue; return whether there may be more."""
    made_due: int = transaction.run(_MAKE_DUE).rowcount
    return made_due == _DUE_AT_ONCE


def room_per_type(
    transaction: Transaction, task_types: Sequence[str], limit: int
) -> tuple[dict[str, int], bool]:
    """Return how many more of each task type may run, and whether any of them is limited.

    Args:
        transaction: Keeps others from claiming of the limited types.
        task_types: Which.
        limit: As many as are asked for at most.
    """
    room = dict.fromkeys(task_types, limit)
    limits = transaction.run(_LOCK_LIMITS, {"wanted": json.dumps(room)}).fetchall()
    if limits:
        running = dict(transaction.run(_COUNT_RUNNING).fetchall())
        for task_type, max_running in limits:
            room[task_type] = min(limit, max_running - running.get(task_type, 0))
    return {task_type: left for task_type, left in room.items() if left > 0}, bool(limits)


def is_any_due(transaction: Transaction, task_types: Iterable[str]) -> bool:
    """Return whether a job may be claimed now, or one of whatever type has yet to be made due."""
    is_waiting, due_in_ms = look_for_jobs(transaction, list(task_types))
    return is_waiting or (due_in_ms is not None and due_in_ms <= 0)


def look_for_jobs(
    transaction: Transaction, task_types: Sequence[str]
) -> tuple[bool, Optional[int]]:
    """Return whether a due job waits that may be claimed now, and when the next one becomes due.

    The latter in milliseconds from now, of whatever type; `None` where none waits for its time.
    Takes no lock. No task types at all: whatever waits.
    """
    values = {"task_types": json.dumps(list(task_types))}
    look = _LOOK if task_types else _LOOK_FOR_ANY
    waiting, due_in_ms = transaction.run(look, values).fetchone()
    return waiting is not None, due_in_ms
