"""What an administrator does with the jobs of everybody."""

from __future__ import annotations

from cl_server_shared import FileStorageService
from cl_server_shared.database import Database
from cl_server_shared.maintenance.retention import DAY_MS, delete_ended_jobs

from .schemas import CleanupAnswer, JobStorageSize
from .storage_folders import MarkedFolder

__all__ = ["AdminService"]


class AdminService:
    """Looks after the jobs and their files.

    Args:
        database: Where the jobs are.
        storage: Their workspaces.
        folder: The one below which the workspaces are.
    """

    def __init__(
        self, database: Database, storage: FileStorageService, folder: MarkedFolder
    ) -> None:
        self._database = database
        self._storage = storage
        self._folder = folder

    def delete_old_jobs(self, days: int) -> CleanupAnswer:
        """Delete every job that ended so long ago, with its files; never one that waits or runs.

        Args:
            days: How long ago; 0: all that have ended.

        Raises:
            WrongStorageFolder: The disk is not there any more.
        """
        self._folder.check()
        deleted = delete_ended_jobs(
            self._database, days * DAY_MS, self._storage, unacknowledged_age_ms=0
        )
        return CleanupAnswer(deleted_count=deleted.count, freed_space=deleted.freed_bytes)

    def measure_storage(self) -> JobStorageSize:
        """Return how large all workspaces are together, and how many there are.

        Raises:
            WrongStorageFolder: The disk is not there any more.
        """
        self._folder.check()
        job_ids = self._storage.list_workspaces()
        total_size = sum(self._storage.measure_job(job_id).size_bytes for job_id in job_ids)
        return JobStorageSize(total_size=total_size, job_count=len(job_ids))
