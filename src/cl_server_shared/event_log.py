"""Reading what happened, in an order that never changes behind the reader: what `/events` sends."""

from __future__ import annotations

from typing import Any, Callable, Optional

from sqlalchemy.orm import Session

from .database import Database
from .sql import events

__all__ = ["EventLog", "number_committed_events"]


class EventLog:
    """The kept events of all jobs, each at a position that only grows.

    Args:
        session_factory: As the repository's.
    """

    def __init__(self, session_factory: Callable[[], Session]) -> None:
        self._database = Database(session_factory)

    def read(
        self,
        after: int,
        limit: int,
        job_id: Optional[str] = None,
        created_by: Optional[str] = None,
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return the events behind a position, oldest first, as `(position, event)`.

        Whoever reads on from the last position that it got misses none, and gets none twice.

        Args:
            after: A position; 0: all that is kept.
            limit: How many at most.
            job_id: Only this job's.
            created_by: Only those of jobs that this user made.
        """
        number_committed_events(self._database)
        with self._database.reading() as transaction:
            return events.read_events(transaction, after, limit, job_id, created_by)

    def latest(self) -> int:
        """Return the position from which only what happens from now on is read."""
        number_committed_events(self._database)
        with self._database.reading() as transaction:
            return events.latest_position(transaction)


def number_committed_events(database: Database) -> None:
    """Give events that were committed since the last call their positions; PostgreSQL needs it."""
    if database.dialect == "sqlite":
        return
    more = True
    while more:
        with database.transaction() as transaction:
            more = events.number_events(transaction)
