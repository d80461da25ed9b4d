"""Which duties there are. A new one is a function and an entry in `plan_duties`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from sqlalchemy.orm import Session

from ..counting import count_ended_jobs
from ..database import Database
from ..duties import RESCUE
from ..file_storage import FileStorageService
from ..outbox import Outbox
from ..shared_db import SQLAlchemyJobRepository
from ..sql import counting
from ..statistics import JobStatistics
from .passes import Pass
from .relay import SteadyConnection, relay_events
from .rescue import rescue_jobs
from .retention import RetentionLimits, apply_retention
from .unserved import UnservedWatch
from .workspaces import sweep_workspaces

__all__ = ["MaintenanceDuty", "MaintenanceParts", "plan_duties"]

RELAY_SECONDS = 1.0
COUNTING_SECONDS = 5.0
RESCUES_PER_LEASE = 3
RETENTION_SECONDS = 300.0
SWEEP_SECONDS = 3600.0


@dataclass(frozen=True)
class MaintenanceDuty:
    """A duty, and how often it is done by whoever holds it.

    Attributes:
        name: Unique; a process that calls it the same does the same.
        every_seconds: From the end of a pass to the next one.
        run: Does one bounded pass.
        is_wanted: Whether this process can do it now; where not, it leaves it to others.
    """

    name: str
    every_seconds: float
    run: Callable[[], Pass]
    is_wanted: Callable[[], bool] = lambda: True


class MaintenanceParts:
    """What the duties of one process work with.

    Args:
        session_factory: As the repository's.
        lease_seconds: The workers'.
        limits: What retention keeps.
        storage: Where the workspaces are; `None`: they are left alone.
        check_storage: Raises where that folder is not the one that belongs to the database;
            `None`: that cannot be told, and no orphan is looked for.
    """

    def __init__(
        self,
        session_factory: Callable[[], Session],
        *,
        lease_seconds: float,
        limits: RetentionLimits,
        storage: Optional[FileStorageService] = None,
        check_storage: Optional[Callable[[], None]] = None,
    ) -> None:
        self.lease_seconds = lease_seconds
        self.limits = limits
        self.storage = storage
        self.check_storage = check_storage
        self.database = Database(session_factory)
        self.outbox = Outbox(self.database)
        self.queue = SQLAlchemyJobRepository(session_factory, lease_seconds=lease_seconds)
        self._unserved = UnservedWatch(JobStatistics(session_factory), self.outbox.broadcaster)

    def count(self) -> Pass:
        """Count jobs that ended, and tell of task types that wait and that nobody serves."""
        ended = count_ended_jobs(self.database)
        self._unserved.look()
        return Pass({"jobs_counted": ended}, more=False)

    def flush_events(self, timeout_seconds: float) -> None:
        """Wait until the broker has what was published here, or the time is over."""
        self.outbox.flush(timeout_seconds)
        self.queue.flush_events(timeout_seconds)


def plan_duties(parts: MaintenanceParts) -> Sequence[MaintenanceDuty]:
    """Return the duties that make sense for this database, this broker and these folders."""
    database, storage = parts.database, parts.storage
    duties = [
        MaintenanceDuty(
            RESCUE, parts.lease_seconds / RESCUES_PER_LEASE, lambda: rescue_jobs(parts.queue)
        ),
        MaintenanceDuty(counting.DUTY, COUNTING_SECONDS, parts.count),
        MaintenanceDuty(
            "retention", RETENTION_SECONDS, lambda: apply_retention(database, parts.limits, storage)
        ),
    ]
    if not parts.outbox.without_broker:
        duties.append(
            MaintenanceDuty(
                "relay",
                RELAY_SECONDS,
                lambda: relay_events(database, parts.outbox),
                is_wanted=SteadyConnection(parts.outbox),
            )
        )
    if storage is not None and parts.check_storage is not None:
        check = parts.check_storage
        duties.append(
            MaintenanceDuty(
                "workspaces",
                SWEEP_SECONDS,
                lambda: sweep_workspaces(database, storage, check_storage=check),
            )
        )
    return duties
