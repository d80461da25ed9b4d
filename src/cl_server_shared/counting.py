"""Counting: how many jobs ended, per minute, task type and outcome."""

from __future__ import annotations

import time

from .database import Database
from .event_log import number_committed_events
from .sql.counting import count_next_events, has_uncounted_events, lock_cursor

__all__ = ["count_ended_jobs"]

# How many events one transaction goes through: a few milliseconds, which keep no claim waiting.
EVENTS_AT_ONCE = 1000


def count_ended_jobs(database: Database, *, limit_seconds: float = 1.0) -> int:
    """Add jobs that ended since the last call to `job_counts`, each exactly once.

    Any number of processes may call it at once. A reader may, too, to see what ended a moment ago.

    Args:
        database: Where the jobs are.
        limit_seconds: After how long to leave the rest to the next call.

    Returns:
        How many ends were counted, attempts that run again included.
    """
    give_up = time.monotonic() + limit_seconds
    number_committed_events(database)
    with database.reading() as transaction:
        more = has_uncounted_events(transaction)
    ended = 0
    while more:
        with database.transaction() as transaction:
            cursor = lock_cursor(transaction)
            counted, more = count_next_events(transaction, cursor, EVENTS_AT_ONCE)
        ended += counted
        if time.monotonic() > give_up:
            break
    return ended
