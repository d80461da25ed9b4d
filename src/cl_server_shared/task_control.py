"""`TaskControl`: pausing and limiting task types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from sqlalchemy.orm import Session

from cl_ml_tools.jobs import check_text

from .database import Database
from .sql import task_settings
from .wakeup import Wakeup

__all__ = ["MAX_REASON_CHARACTERS", "MAX_RUNNING_LIMIT", "TaskControl", "TaskSetting"]

MAX_REASON_CHARACTERS = 1000

# What its column holds.
MAX_RUNNING_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class TaskSetting:
    """The pause and the limit of one task type.

    Attributes:
        task_type: The task.
        max_running: How many of its jobs may run at once; `None`: as many as workers take.
        paused_at: Since when none is claimed, in milliseconds since the epoch; `None`: it is not
            paused.
        paused_by: Who paused it: a user's `sub`.
        pause_reason: Why.
    """

    task_type: str
    max_running: Optional[int] = None
    paused_at: Optional[int] = None
    paused_by: Optional[str] = None
    pause_reason: Optional[str] = None


class TaskControl:
    """Pauses and limits, on the session factory of the repository.

    They are in the database, so every worker keeps to them from its next claim on. Jobs that run
    are left alone.

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
        self._wakeup = Wakeup(self._database)

    def pause_task_type(
        self, task_type: str, reason: Optional[str] = None, by: Optional[str] = None
    ) -> None:
        """Have no more jobs of a task type claimed; they wait, and new ones are still taken.

        Args:
            task_type: The task; it need not be known here.
            reason: Why, for those who look.
            by: Who says so: a user's `sub`.

        Raises:
            ValueError: A text cannot be stored.
        """
        check_text("task_type", task_type)
        check_text("by", by)
        _check_reason(reason)
        with self._database.transaction() as transaction:
            task_settings.pause_task_type(transaction, task_type, reason, by)

    def resume_task_type(self, task_type: str) -> None:
        """Have jobs of a task type claimed again; one that is not paused stays as it is."""
        check_text("task_type", task_type)
        with self._database.transaction() as transaction:
            task_settings.resume_task_type(transaction, task_type)
        self._wakeup.announce()

    def limit_task_type(self, task_type: str, max_running: Optional[int]) -> None:
        """Let so many jobs of a task type run at once, over all workers.

        Args:
            task_type: The task; it need not be known here.
            max_running: How many, 1 or more; `None`: as many as workers take.

        Raises:
            ValueError: A value is out of range.
        """
        check_text("task_type", task_type)
        if max_running is not None and (
            isinstance(max_running, bool)
            or not isinstance(max_running, int)
            or not 1 <= max_running <= MAX_RUNNING_LIMIT
        ):
            raise ValueError(f"max_running {max_running!r} is not a whole number of at least 1")
        with self._database.transaction() as transaction:
            task_settings.limit_task_type(transaction, task_type, max_running)
        self._wakeup.announce()

    def list_task_settings(self) -> list[TaskSetting]:
        """Return the task types that are paused or limited, in the order of the alphabet."""
        with self._database.reading() as transaction:
            rows = task_settings.select_task_settings(transaction)
        return [TaskSetting(*row) for row in rows]


def _check_reason(reason: Optional[str]) -> None:
    if reason is not None and (
        not isinstance(reason, str)
        or not 0 < len(reason) <= MAX_REASON_CHARACTERS
        or "\0" in reason
    ):
        raise ValueError(f"reason: expected 1 to {MAX_REASON_CHARACTERS} characters of text")
