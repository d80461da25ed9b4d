"""The sweep over workspaces.

Those whose job is gone, or never came to be, are deleted. Where a worker died between completing a
job and showing its files, that is done.
"""

from __future__ import annotations

import logging
import time
from typing import Callable

from ..database import Database
from ..file_storage import FileStorageService
from ..sql.retention import completing_attempts
from .passes import Pass

__all__ = ["sweep_workspaces"]

logger = logging.getLogger(__name__)

# A workspace is made before its job's row is; an upload may take long in between.
MIN_AGE_SECONDS = 24 * 3600

JOBS_AT_ONCE = 500


def sweep_workspaces(
    database: Database,
    storage: FileStorageService,
    *,
    check_storage: Callable[[], None] = lambda: None,
    min_age_seconds: float = MIN_AGE_SECONDS,
) -> Pass:
    """Delete the workspaces that belong to no job, and show the files of jobs that have completed.

    Args:
        database: Where the jobs are.
        storage: Where the workspaces are.
        check_storage: Raises where the folder is not the one that belongs to the database.
        min_age_seconds: For how long nothing in them may have been changed.
    """
    check_storage()
    job_ids, deleted, published = storage.list_workspaces(), 0, 0
    for start in range(0, len(job_ids), JOBS_AT_ONCE):
        page = job_ids[start : start + JOBS_AT_ONCE]
        with database.reading() as transaction:
            known = completing_attempts(transaction, page)
        for job_id in page:
            attempt = known.get(job_id)
            if attempt is not None:
                published += _publish_output(storage, job_id, attempt)
            elif job_id not in known and _is_abandoned(storage, job_id, min_age_seconds):
                deleted += _delete_unless_known(database, storage, job_id)
    return Pass({"workspaces_deleted": deleted, "outputs_published": published})


def _publish_output(storage: FileStorageService, job_id: str, attempt: int) -> bool:
    try:
        return storage.publish_output(job_id, attempt)
    except OSError as error:  # the next sweep comes by again
        logger.warning("the output of job %s stays with its attempt: %s", job_id, error)
        return False


def _is_abandoned(storage: FileStorageService, job_id: str, min_age_seconds: float) -> bool:
    changed_at = storage.measure_job(job_id).changed_at
    return changed_at is not None and time.time() - changed_at > min_age_seconds


def _delete_unless_known(database: Database, storage: FileStorageService, job_id: str) -> bool:
    """Delete a workspace, once it is certain that it still has no job."""
    with database.reading() as transaction:
        if completing_attempts(transaction, [job_id]):
            return False
    try:
        return storage.cleanup_job(job_id)
    except OSError as error:  # the next sweep comes by again
        logger.warning("the workspace of job %s stays: %s", job_id, error)
        return False
