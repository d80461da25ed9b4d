"""How long jobs wait for this worker and run in it, for Prometheus; served where a port is set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

__all__ = ["WorkerMetrics"]

logger = logging.getLogger(__name__)

# From a worker that waits for jobs to a night of jobs that wait for a worker.
WAIT_BUCKETS_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 10800)

# From a thumbnail to an hour of video.
RUN_BUCKETS_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)


class WorkerMetrics:
    """The metrics of one worker process."""

    def __init__(self) -> None:
        # A series more for each, that nobody reads; prometheus_client has no types here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._waits = Histogram(
            "cl_worker_job_wait_seconds",
            "How long a job had been due when this worker claimed it, the first time that it was.",
            ["task_type"],
            buckets=WAIT_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self._runs = Histogram(
            "cl_worker_job_run_seconds",
            "How long an attempt took in its child process.",
            ["task_type", "outcome"],
            buckets=RUN_BUCKETS_SECONDS,
            registry=self._registry,
        )

    def observe_wait(self, task_type: str, seconds: float) -> None:
        """Count one job that was claimed for the first time."""
        self._waits.labels(task_type).observe(seconds)

    def observe_run(self, task_type: str, outcome: str, seconds: float) -> None:
        """Count one attempt.

        Args:
            task_type: Its job's task.
            outcome: `completed`, `failed`, `postponed`, `cancelled`, `given back` or `dropped`.
            seconds: How long it took.
        """
        self._runs.labels(task_type, outcome).observe(seconds)

    @contextmanager
    def serving(self, port: int) -> Iterator[None]:
        """Serve `/metrics` on loopback; a port that is taken is logged, and the worker works on.

        Args:
            port: 0: do not serve.
        """
        if port == 0:
            yield
            return
        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self._registry)
        except OSError as error:
            logger.error("no metrics: WORKER_METRICS_PORT=%d cannot be had: %s", port, error)
            yield
            return
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
