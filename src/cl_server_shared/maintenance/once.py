"""`run_maintenance_once`: maintenance for library users, who have no service that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from sqlalchemy.orm import Session

from ..config import Config
from ..duties import Duties, duty_lease_seconds
from ..file_storage import FileStorageService
from .plan import MaintenanceParts, plan_duties
from .relay import any_stranded
from .retention import RetentionLimits

__all__ = ["MaintenanceReport", "run_maintenance_once"]

# How long the broker may keep the call: to connect, and to acknowledge.
CONNECT_SECONDS = 2.0
FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class MaintenanceReport:
    """What one round of maintenance did.

    Attributes:
        counts: How many of what: `events_relayed`, `jobs_rescued`, `jobs_counted`,
            `events_deleted`, `jobs_deleted`, `counts_deleted`.
        held_elsewhere: The duties that another process holds: it does them.
    """

    counts: dict[str, int]
    held_elsewhere: tuple[str, ...]


def run_maintenance_once(
    session_factory: Callable[[], Session], *, storage: Optional[FileStorageService] = None
) -> MaintenanceReport:
    """Do one bounded pass of each maintenance duty that no other process holds.

    Call it now and then, every minute say, where jobs are used without `cl-server store` or
    `worker`. On SQLite a worker counts as dead only once this process has seen it silent for a
    while, so that it takes more than one call to rescue its jobs.

    Args:
        session_factory: As the repository's.
        storage: Where the workspaces of jobs are that retention deletes; `None`: rows only.

    Raises:
        SharedError: The database cannot be used.
    """
    parts = MaintenanceParts(
        session_factory,
        lease_seconds=Config.WORKER_LEASE_SECONDS,
        limits=RetentionLimits(Config.EVENT_RETENTION_HOURS, Config.JOB_RETENTION_DAYS),
        storage=storage,
    )
    duties = Duties(parts.database, duty_lease_seconds(parts.lease_seconds))
    if any_stranded(parts.database, parts.outbox):
        parts.outbox.wait_connected(CONNECT_SECONDS)
    counts: dict[str, int] = {}
    held_elsewhere = []
    for duty in plan_duties(parts):
        with duties.briefly(duty.name) as held:
            if held:
                counts.update(duty.run().counts)
                parts.flush_events(FLUSH_SECONDS)
            else:
                held_elsewhere.append(duty.name)
    return MaintenanceReport(counts, tuple(held_elsewhere))
