"""Events over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from cl_server.http.access import CurrentIdentity, requires
from cl_server.http.error_pages import problem_responses

from .event_stream import EventFeed, EventFilter
from .routes_jobs import COMPUTE, JobId
from .schemas import MAX_ID
from .service_jobs import JobService

__all__ = ["event_routes"]

RESPONSES = {
    200: {
        "description": "Server-Sent Events; `data` is one event as JSON.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **problem_responses(404),
}


def event_routes(feed: EventFeed, jobs: JobService) -> APIRouter:
    """Return the route.

    Args:
        feed: What wakes the streams.
        jobs: Says whose job it is.
    """
    router = APIRouter(tags=["events"])

    @router.get("/events", response_class=StreamingResponse, responses=RESPONSES)
    @requires(COMPUTE)
    async def follow_events(
        identity: CurrentIdentity,
        job_id: Annotated[JobId | None, Query(description="Only this job's.")] = None,
        last_event_id: Annotated[
            int | None,
            Header(ge=0, le=MAX_ID, description="Resume behind it; 0: all that is kept."),
        ] = None,
    ) -> StreamingResponse:
        """Follow what happens to jobs: one's own, an admin everybody's."""
        if job_id is not None:
            await run_in_threadpool(jobs.check_visible, job_id, identity)
        wanted = EventFilter(job_id, None if identity.may_administer else identity.sub)
        return StreamingResponse(
            await feed.open(wanted, last_event_id),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    return router
