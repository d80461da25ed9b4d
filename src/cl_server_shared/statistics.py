"""`JobStatistics`: what operators look at. What a call costs is bounded: see `COUNTED_AT_MOST`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional

from sqlalchemy.orm import Session

from .counting import count_ended_jobs
from .database import Database
from .sql import stats
from .sql.stats import EndedCount, LiveWorker, VacuumHold
from .sql.task_settings import select_task_settings

__all__ = [
    "COUNTED_AT_MOST",
    "COUNTED_LATER_AT_MOST",
    "EndedCount",
    "JobStatistics",
    "LiveWorker",
    "TaskTypeState",
    "UnservedType",
    "VacuumHold",
    "VacuumState",
]

# How many jobs of one type that wait, or that run, are counted: what an index alone reads in
# a few milliseconds.
COUNTED_AT_MOST = 20_000

# How many jobs that wait for their time are counted, all types together, the soonest first: no
# index has both their time and their type, and each row that is read costs ten times as much.
COUNTED_LATER_AT_MOST = 5_000

# How many of the oldest live jobs are looked at for the longest waiting: a millisecond.
OLDEST_LOOKED_AT = 1000

NONE_WAITING = stats.Waiting(count=0, age_ms=0)
NO_SETTINGS = (None, None, None)
NONE_LATER = stats.DueLater(count=0, due=0, age_ms=0)

# How long a reader helps counting what ended, where nobody did.
COUNTING_SECONDS = 0.2


@dataclass(frozen=True)
class TaskTypeState:
    """What waits and runs of one task type, counted no further than the constants above say.

    Attributes:
        task_type: The task.
        waiting: How many jobs are due and unclaimed.
        not_yet_due: How many wait for their time: for a re-run, or added for later.
        running: How many are claimed.
        oldest_waiting_seconds: How long the oldest of those that wait has been due; `None`: none
            waits. Where a thousand live jobs of other types are older, that of the next to run.
        is_served: Whether a live worker runs the type.
        is_paused: Whether operators paused it.
        max_running: How many of its jobs may run at once; `None`: as many as workers take.
    """

    task_type: str
    waiting: int = 0
    not_yet_due: int = 0
    running: int = 0
    oldest_waiting_seconds: Optional[float] = None
    is_served: bool = False
    is_paused: bool = False
    max_running: Optional[int] = None

    @property
    def is_unserved(self) -> bool:
        """Whether jobs wait that no live worker can run."""
        return self.waiting > 0 and not self.is_served


@dataclass(frozen=True)
class UnservedType:
    """A task type that waits and that no live worker runs."""

    task_type: str
    oldest_waiting_seconds: float


@dataclass(frozen=True)
class VacuumState:
    """How PostgreSQL's vacuum keeps up.

    Attributes:
        dead_rows: How many each hot table has, by PostgreSQL's own estimate.
        holds: Who keeps them from being removed, the oldest of each kind.
    """

    dead_rows: dict[str, int]
    holds: list[VacuumHold]


class JobStatistics:
    """Counts of jobs and workers, for display and monitoring. Threads may share it.

    Args:
        session_factory: As the repository's.
        clock: Milliseconds since the epoch, for tests.
    """

    def __init__(
        self,
        session_factory: Callable[[], Session],
        *,
        clock: Optional[Callable[[], int]] = None,
    ) -> None:
        self._database = Database(session_factory, clock)

    def list_task_types(self) -> list[TaskTypeState]:
        """Return each task type that has live jobs, a worker or a setting, by its name."""
        with self._database.reading() as transaction:
            waiting = stats.count_waiting(transaction, COUNTED_AT_MOST)
            oldest = stats.oldest_of_all(transaction, OLDEST_LOOKED_AT)
            later = stats.count_due_later(transaction, COUNTED_LATER_AT_MOST)
            running = stats.count_running(transaction, COUNTED_AT_MOST)
            settings = {row[0]: row for row in select_task_settings(transaction)}
            served = _served_types(stats.list_live_workers(transaction))
        states = []
        for task_type in sorted({*waiting, *later, *running, *settings, *served}):
            due = waiting.get(task_type, NONE_WAITING)
            timed = later.get(task_type, NONE_LATER)
            count = due.count + timed.due
            age_ms = max(due.age_ms, oldest.get(task_type, 0), timed.age_ms)
            _, max_running, paused_at, *_ = settings.get(task_type, NO_SETTINGS)
            states.append(
                TaskTypeState(
                    task_type,
                    waiting=count,
                    not_yet_due=timed.count - timed.due,
                    running=running.get(task_type, 0),
                    oldest_waiting_seconds=_seconds(age_ms) if count else None,
                    is_served=task_type in served,
                    is_paused=paused_at is not None,
                    max_running=max_running,
                )
            )
        return states

    def list_workers(self) -> list[LiveWorker]:
        """Return the workers whose lease holds, by their label."""
        with self._database.reading() as transaction:
            return stats.list_live_workers(transaction)

    def list_unserved_types(self) -> list[UnservedType]:
        """Return the task types that wait and that no live worker runs, by their names."""
        with self._database.reading() as transaction:
            served = _served_types(stats.list_live_workers(transaction))
            waiting = stats.count_waiting(transaction, 1)
            later = stats.count_due_later(transaction, OLDEST_LOOKED_AT)
        ages_ms = {task_type: due.age_ms for task_type, due in waiting.items()}
        for task_type, timed in later.items():
            if timed.due:
                ages_ms[task_type] = max(timed.age_ms, ages_ms.get(task_type, 0))
        return [
            UnservedType(task_type, _seconds(age_ms))
            for task_type, age_ms in sorted(ages_ms.items())
            if task_type not in served
        ]

    def count_ended(self, since: int) -> list[EndedCount]:
        """Return how many jobs ended, per minute, task type and outcome, oldest first.

        Args:
            since: In milliseconds since the epoch; all of the minute in which it lies.
        """
        count_ended_jobs(self._database, limit_seconds=COUNTING_SECONDS)
        with self._database.reading() as transaction:
            return stats.count_ended(transaction, since)

    def vacuum_state(self) -> Optional[VacuumState]:
        """Return how PostgreSQL's vacuum keeps up; `None` on SQLite, which needs none."""
        if self._database.dialect != "postgresql":
            return None
        with self._database.reading() as transaction:
            return VacuumState(stats.dead_rows(transaction), stats.oldest_snapshots(transaction))


def _served_types(workers: Iterable[LiveWorker]) -> set[str]:
    return {task_type for worker in workers for task_type in worker.task_types}


def _seconds(age_ms: int) -> float:
    return max(0, age_ms) / 1000  # an SQLite file's clocks may differ
