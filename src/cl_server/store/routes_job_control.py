"""Over HTTP: ending jobs, running them again, and what became of each attempt."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from cl_server.http.access import CurrentIdentity, requires
from cl_server.http.error_pages import problem_responses
from cl_server.http.fields import body_of, fields_of

from .routes_jobs import COMPUTE, JobId
from .schemas import AttemptList, ChangedJobs, JobAnswer, JobChangeFields
from .service_jobs import JobService

__all__ = ["job_control_routes"]


def job_control_routes(jobs: JobService) -> APIRouter:
    """Return the routes.

    Args:
        jobs: What they call.
    """
    router = APIRouter(tags=["jobs"])

    @router.post(
        "/compute/jobs/{job_id}/cancel", status_code=202, responses=problem_responses(404, 409)
    )
    @requires(COMPUTE)
    def cancel_job(job_id: JobId, identity: CurrentIdentity) -> JobAnswer:
        """Cancel a job: one that waits is over at once, one that runs is told to end."""
        return jobs.cancel_job(job_id, identity)

    @router.post(
        "/compute/jobs/{job_id}/retry", status_code=202, responses=problem_responses(404, 409)
    )
    @requires(COMPUTE)
    def retry_job(job_id: JobId, identity: CurrentIdentity) -> JobAnswer:
        """Queue a failed or cancelled job again, as if it were new."""
        return jobs.retry_job(job_id, identity)

    @router.post("/compute/bulk", openapi_extra=body_of(JobChangeFields))
    @requires(COMPUTE)
    def change_jobs(
        fields: Annotated[JobChangeFields, fields_of(JobChangeFields)], identity: CurrentIdentity
    ) -> ChangedJobs:
        """Cancel or retry all jobs that match: one's own, an admin everybody's."""
        return jobs.change_jobs(fields, identity)

    @router.get("/compute/jobs/{job_id}/attempts", responses=problem_responses(404))
    @requires(COMPUTE)
    def list_attempts(job_id: JobId, identity: CurrentIdentity) -> AttemptList:
        """Show what is kept of a job's attempts: errors, tracebacks, what the task printed."""
        return jobs.list_attempts(job_id, identity)

    return router
