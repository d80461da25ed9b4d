"""Jobs over HTTP."""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AfterValidator
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.workspace import check_name
from cl_server.http.access import CurrentIdentity, requires
from cl_server.http.error_pages import problem_responses
from cl_server.logs import bind_log_context

from .content import DOWNLOAD_RESPONSES, send_file
from .multipart import read_form
from .schemas import MAX_ID, JobAnswer, JobOptionFields, JobPage, PublicStatus, StorableText
from .service_jobs import JobService
from .task_catalogue import TaskCatalogue

__all__ = ["COMPUTE", "JobId", "job_routes"]

COMPUTE = "ai_inference_support"

JobId = Annotated[str, AfterValidator(check_name)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern="^[!-~]+$",
        description="Made up by the client for this request: sent again with it, the request "
        "makes no second job but answers with the first (200). Each user's keys are their own; "
        "one stands for its job until that is deleted.",
    ),
]

_REPEATED = {"model": JobAnswer, "description": "The job that this request made before."}


def job_routes(jobs: JobService, tasks: TaskCatalogue, *, max_file_bytes: int) -> APIRouter:
    """Return the routes.

    Args:
        jobs: What they call.
        tasks: Which tasks there are.
        max_file_bytes: How large each uploaded file may be.
    """
    router = APIRouter(tags=["jobs"])
    _add_creation(router, jobs, tasks, max_file_bytes)
    _add_reading(router, jobs)
    _add_deletion(router, jobs)
    return router


def _add_creation(
    router: APIRouter, jobs: JobService, tasks: TaskCatalogue, max_file_bytes: int
) -> None:
    @router.post(
        "/compute/jobs/{task_type}",
        status_code=201,
        responses={200: _REPEATED, **problem_responses(404, 409, 429)},
        openapi_extra=_new_job_body(),
    )
    @requires(COMPUTE)
    async def create_job(
        request: Request,
        response: Response,
        task_type: str,
        identity: CurrentIdentity,
        idempotency_key: IdempotencyKey = None,
    ) -> JobAnswer:
        """Make a job from uploaded files, entities and parameters."""
        task = await run_in_threadpool(tasks.find_task, task_type)
        async with jobs.draft_job(task, identity, idempotency_key) as draft:
            with bind_log_context(job_id=draft.job_id):
                fields = await read_form(request, draft.receive_file, max_file_bytes=max_file_bytes)
                job_id = await run_in_threadpool(draft.add, fields)
        if not draft.added:
            response.status_code = 200
        response.headers["Location"] = f"/compute/jobs/{job_id}"
        return await run_in_threadpool(jobs.get_job, job_id, identity)


def _add_reading(router: APIRouter, jobs: JobService) -> None:
    @router.get("/compute/jobs")
    @requires(COMPUTE)
    def list_jobs(
        identity: CurrentIdentity,
        status: Annotated[PublicStatus | None, Query()] = None,
        task_type: Annotated[StorableText | None, Query()] = None,
        created_by: Annotated[StorableText | None, Query(description="A user's `sub`.")] = None,
        cursor: Annotated[
            int | None, Query(ge=1, le=MAX_ID, description="The last page's `next_cursor`.")
        ] = None,
    ) -> JobPage:
        """List jobs, newest first: one's own, an admin everybody's."""
        return jobs.list_jobs(
            identity, status=status, task_type=task_type, created_by=created_by, before_id=cursor
        )

    @router.get("/compute/jobs/{job_id}", responses=problem_responses(404))
    @requires(COMPUTE)
    def get_job(job_id: JobId, identity: CurrentIdentity) -> JobAnswer:
        """Return a job."""
        return jobs.get_job(job_id, identity)

    @router.get(
        "/compute/jobs/{job_id}/files/{path:path}",
        response_class=Response,
        responses={**DOWNLOAD_RESPONSES, **problem_responses(400, 404, 416)},
    )
    @requires(COMPUTE)
    def get_job_file(
        request: Request,
        job_id: JobId,
        path: Annotated[str, Path(description="`output/a.jpg`.")],
        identity: CurrentIdentity,
    ) -> Response:
        """Return a file of a job's workspace."""
        found = jobs.find_file(job_id, path, identity)
        mime_type = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return send_file(request, found, name=found.name, mime_type=mime_type)


def _add_deletion(router: APIRouter, jobs: JobService) -> None:
    @router.delete(
        "/compute/jobs/{job_id}",
        status_code=204,
        response_class=Response,
        responses=problem_responses(404, 409),
    )
    @requires(COMPUTE)
    async def delete_job(job_id: JobId, identity: CurrentIdentity) -> None:
        """Delete a job and its files; one that waits or runs is cancelled first."""
        await jobs.delete_job(job_id, identity)


def _new_job_body() -> dict[str, Any]:
    properties: dict[str, Any] = {
        **JobOptionFields.model_json_schema()["properties"],
        "entity_ids": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "Entities whose files are inputs: a JSON list, a comma list, or repeated.",
        },
        "params": {
            "type": "object",
            "description": "The task's parameters; or one field for each of them.",
        },
    }
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    fields = {"type": "object", "properties": properties, "additionalProperties": True}
    with_files = {**fields, "properties": {**properties, "file": files}}
    content = {
        "multipart/form-data": {"schema": with_files},
        "application/x-www-form-urlencoded": {"schema": fields},
        "application/json": {"schema": fields},
    }
    return {"requestBody": {"content": content, "required": True}}
