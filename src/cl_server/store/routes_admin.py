"""What an administrator does with everybody's jobs, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cl_server.http.access import ADMIN, requires

from .schemas import CleanupAnswer, JobStorageSize
from .service_admin import AdminService

__all__ = ["admin_routes"]

# A hundred years.
MAX_DAYS = 36_500


def admin_routes(admin: AdminService) -> APIRouter:
    """Return the routes.

    Args:
        admin: What they call.
    """
    router = APIRouter(prefix="/compute/admin/jobs", tags=["admin"])

    @router.delete("/cleanup")
    @requires(ADMIN)
    def delete_old_jobs(
        days: Annotated[
            int, Query(ge=0, le=MAX_DAYS, description="How long ago they must have ended.")
        ] = 7,
    ) -> CleanupAnswer:
        """Delete jobs that ended long ago, with their files; never one that waits or runs."""
        return admin.delete_old_jobs(days)

    @router.get("/storage/size")
    @requires(ADMIN)
    def measure_storage() -> JobStorageSize:
        """Return how large the files of all jobs are together."""
        return admin.measure_storage()

    return router
