"""Retention: what was kept for long enough is deleted; never what waits or runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from ..database import Database
from ..file_storage import FileStorageService
from ..sql import retention
from .passes import Pass

__all__ = [
    "DeletedJobs",
    "RetentionLimits",
    "apply_retention",
    "delete_ended_jobs",
    "delete_old_events",
]

logger = logging.getLogger(__name__)

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS

# A broker may be away for a weekend and more: what it never got is kept for longer.
UNACKNOWLEDGED_AGE_MS = 7 * DAY_MS

COUNTS_AGE_MS = 30 * DAY_MS

# A few milliseconds for each transaction, and as long for others before the next one.
EVENTS_AT_ONCE = 500
JOBS_AT_ONCE = 100
PAUSE_SECONDS = 0.005

PASS_SECONDS = 2.0


@dataclass(frozen=True)
class RetentionLimits:
    """How long what is kept.

    Attributes:
        event_hours: Events; those that the broker never got, a week at least.
        job_days: Jobs that have ended; 0: for ever.
    """

    event_hours: float
    job_days: float


@dataclass(frozen=True)
class DeletedJobs:
    """What deleting ended jobs did.

    Attributes:
        count: How many jobs.
        freed_bytes: How large their workspaces were.
        more: Whether the time was over before the end.
    """

    count: int
    freed_bytes: int
    more: bool


def apply_retention(
    database: Database, limits: RetentionLimits, storage: Optional[FileStorageService] = None
) -> Pass:
    """Delete old events, ended jobs and counts, for a few seconds at most.

    Args:
        database: Where they are.
        limits: What is old.
        storage: Where the jobs' workspaces are; `None`: rows only.
    """
    give_up_at = time.monotonic() + PASS_SECONDS
    events, more = delete_old_events(database, round(limits.event_hours * HOUR_MS), give_up_at)
    jobs = DeletedJobs(0, 0, more=False)
    if limits.job_days:
        age_ms = round(limits.job_days * DAY_MS)
        jobs = delete_ended_jobs(database, age_ms, storage, give_up_at=give_up_at)
    with database.transaction() as transaction:
        counts = retention.delete_counts(transaction, COUNTS_AGE_MS)
    return Pass(
        {"events_deleted": events, "jobs_deleted": jobs.count, "counts_deleted": counts},
        more=more or jobs.more,
    )


def delete_old_events(database: Database, age_ms: int, give_up_at: float) -> tuple[int, bool]:
    """Delete events that were kept for long enough; return how many, and whether more are left.

    Args:
        database: Where they are.
        age_ms: How old they must be; those that no broker acknowledged, a week at least.
        give_up_at: When to stop, by `time.monotonic`.
    """
    deleted, after = 0, 0
    kept_age_ms = max(age_ms, UNACKNOWLEDGED_AGE_MS)
    while time.monotonic() < give_up_at:
        with database.reading() as transaction:
            page = retention.oldest_events(transaction, after, EVENTS_AT_ONCE, age_ms, kept_age_ms)
        doomed = [event.id for event in page if event.is_old and event.is_settled]
        if doomed:
            with database.transaction() as transaction:
                retention.delete_events(transaction, doomed)
            deleted += len(doomed)
            time.sleep(PAUSE_SECONDS)
        if len(page) < EVENTS_AT_ONCE or not page[-1].is_old:
            return deleted, False
        after = page[-1].id
    return deleted, True


def delete_ended_jobs(
    database: Database,
    age_ms: int,
    storage: Optional[FileStorageService],
    *,
    unacknowledged_age_ms: int = UNACKNOWLEDGED_AGE_MS,
    give_up_at: float = float("inf"),
) -> DeletedJobs:
    """Delete jobs that ended long ago, with all their rows, then their workspaces.

    Args:
        database: Where they are.
        age_ms: How long ago they must have ended.
        storage: Where their workspaces are; `None`: rows only.
        unacknowledged_age_ms: A job stays while an event of it, younger than this, is unpublished.
        give_up_at: When to stop, by `time.monotonic`.
    """
    count, freed_bytes, after = 0, 0, (-1, -1)
    while time.monotonic() < give_up_at:
        with database.reading() as transaction:
            page = retention.oldest_jobs(transaction, after, JOBS_AT_ONCE, age_ms)
        doomed = [job.id for job in page if job.is_over]
        if doomed:
            with database.transaction() as transaction:
                deleted = retention.delete_ended_jobs(
                    transaction, doomed, age_ms, unacknowledged_age_ms
                )
            count += len(deleted)
            freed_bytes += _delete_workspaces(storage, deleted) if storage is not None else 0
            time.sleep(PAUSE_SECONDS)
        if len(page) < JOBS_AT_ONCE:
            return DeletedJobs(count, freed_bytes, more=False)
        after = (page[-1].created_at, page[-1].id)
    return DeletedJobs(count, freed_bytes, more=True)


def _delete_workspaces(storage: FileStorageService, job_ids: Sequence[str]) -> int:
    """Delete the workspaces of jobs that are gone; return how large they were, in bytes."""
    freed_bytes = 0
    for job_id in job_ids:
        try:
            size = storage.measure_job(job_id).size_bytes
            freed_bytes += size if storage.cleanup_job(job_id) else 0
        except (OSError, ValueError) as error:  # it has no row any more, so it is found
            logger.warning("the workspace of job %s is left to the sweep: %s", job_id, error)
    return freed_bytes
