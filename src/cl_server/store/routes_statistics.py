"""Jobs and workers as a whole: for people, and for Prometheus."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST

from cl_server.http.access import ADMIN_OR_LOOPBACK, requires
from cl_server_shared.statistics import (
    COUNTED_AT_MOST,
    JobStatistics,
    LiveWorker,
    TaskTypeState,
)

from .metrics import StoreMetrics
from .routes_jobs import COMPUTE
from .schemas_statistics import (
    EndedJobs,
    JobStatisticsAnswer,
    TaskTypeAnswer,
    WorkerAnswer,
    WorkerList,
)

__all__ = ["statistics_routes"]

MINUTE_MS = 60_000
MAX_MINUTES = 24 * 60

METRICS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


def statistics_routes(statistics: JobStatistics, metrics: StoreMetrics) -> APIRouter:
    """Return the routes.

    Args:
        statistics: Where jobs and workers are counted.
        metrics: What Prometheus reads.
    """
    router = APIRouter(tags=["statistics"])

    @router.get("/compute/statistics")
    @requires(COMPUTE)
    def get_statistics(
        minutes: Annotated[
            int, Query(ge=1, le=MAX_MINUTES, description="How far back `ended` goes.")
        ] = 60,
    ) -> JobStatisticsAnswer:
        """Count what waits and runs per task type, everybody's, and what ended per minute."""
        states = statistics.list_task_types()
        since = time.time_ns() // 1_000_000 - (minutes - 1) * MINUTE_MS
        ended = statistics.count_ended(since)
        return JobStatisticsAnswer(
            task_types=[_task_type(state) for state in states],
            unserved=[state.task_type for state in states if state.is_unserved],
            ended=[EndedJobs.model_validate(asdict(each)) for each in ended],
            minutes=minutes,
            counted_at_most=COUNTED_AT_MOST,
        )

    @router.get("/compute/workers")
    @requires(COMPUTE)
    def list_workers() -> WorkerList:
        """List the workers that live: where, what they run, and how busy they are."""
        return WorkerList(items=[_worker(worker) for worker in statistics.list_workers()])

    @router.get("/metrics", response_class=Response, responses=METRICS_RESPONSES)
    @requires(ADMIN_OR_LOOPBACK)
    def get_metrics() -> Response:
        """Say all of it, and more, to Prometheus."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _task_type(state: TaskTypeState) -> TaskTypeAnswer:
    return TaskTypeAnswer(
        task_type=state.task_type,
        waiting=state.waiting,
        not_yet_due=state.not_yet_due,
        running=state.running,
        oldest_waiting_seconds=state.oldest_waiting_seconds,
        served=state.is_served,
        paused=state.is_paused,
        max_running=state.max_running,
    )


def _worker(worker: LiveWorker) -> WorkerAnswer:
    return WorkerAnswer(
        instance_id=worker.instance_id,
        worker_id=worker.label,
        host=worker.host,
        pid=worker.pid,
        task_types=worker.task_types,
        concurrency=worker.concurrency,
        running=worker.running,
        started_at=worker.started_at,
        renewed_at=worker.renewed_at,
        lease_expires_at=worker.lease_expires_at,
    )
