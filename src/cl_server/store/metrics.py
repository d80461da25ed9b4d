"""What `/metrics` says, as Prometheus reads it: jobs, workers, the database, and the store's requests."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cl_server_shared.errors import SharedError
from cl_server_shared.statistics import (
    EndedCount,
    JobStatistics,
    LiveWorker,
    TaskTypeState,
    VacuumState,
)

__all__ = ["StoreMetrics"]

logger = logging.getLogger(__name__)

# Methods that have a label of their own; anybody can make up more.
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

# How long after a minute's end something may still be added to its counts.
SETTLED_MS = 3_600_000


class StoreMetrics:
    """The metrics of one store process.

    Args:
        statistics: Where jobs and workers are counted, at each `render`.
    """

    def __init__(self, statistics: JobStatistics) -> None:
        # A series more for each, that nobody reads; prometheus_client has no types here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._registry.register(_JobCollector(statistics))
        self._durations = Histogram(
            "cl_http_request_duration_seconds",
            "From a request's arrival to the start of its answer.",
            ["method", "route", "status"],
            registry=self._registry,
        )

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            method: Its method.
            route: The template of its route, never its path.
            status: The answer's.
            seconds: How long it took until the answer began.
        """
        known = method if method in METHODS else "other"
        self._durations.labels(known, route, str(status)).observe(seconds)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format; what the database says is as of now."""
        return generate_latest(self._registry)


class _JobCollector(Collector):
    """Reads the database whenever metrics are asked for; without it, says that it is away."""

    def __init__(self, statistics: JobStatistics) -> None:
        self._statistics = statistics
        self._outcomes = OutcomeTotals(statistics.count_ended)

    def collect(self) -> Iterable[Metric]:
        is_up = GaugeMetricFamily("cl_database_up", "Whether the store's database answers.")
        try:
            found = [
                *_job_metrics(self._statistics.list_task_types()),
                *_worker_metrics(self._statistics.list_workers()),
                _outcome_metric(self._outcomes.read()),
                *_vacuum_metrics(self._statistics.vacuum_state()),
            ]
        except SharedError as error:
            logger.error("%s", error)
            is_up.add_metric([], 0)
            return [is_up]
        is_up.add_metric([], 1)
        return [is_up, *found]


class OutcomeTotals:
    """How many jobs ended with each outcome since this process began to look: numbers that only grow.

    The rows that they come from are pruned some day, and each minute's grow while it lasts, so what
    is added is how much each has grown.

    Args:
        count_ended: Returns the counts since a time in milliseconds.
        clock: Milliseconds since the epoch, for tests.
    """

    def __init__(
        self,
        count_ended: Callable[[int], list[EndedCount]],
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._count_ended = count_ended
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock() - SETTLED_MS
        self._seen: dict[tuple[int, str, str], int] = {}
        self._totals: Counter[tuple[str, str]] = Counter()

    def read(self) -> dict[tuple[str, str], int]:
        """Return the totals, by task type and outcome."""
        with self._lock:
            seen = {}
            for each in self._count_ended(self._since):
                key = (each.minute, each.task_type, each.outcome)
                grown = each.count - self._seen.get(key, 0)
                self._totals[each.task_type, each.outcome] += max(0, grown)
                seen[key] = each.count
            self._seen = seen
            self._since = max(self._since, self._clock() - SETTLED_MS)
            return dict(self._totals)


def _job_metrics(states: list[TaskTypeState]) -> Iterator[Metric]:
    def gauge(
        name: str, help_text: str, value_of: Callable[[TaskTypeState], float | None]
    ) -> Metric:
        family = GaugeMetricFamily(name, help_text, labels=["task_type"])
        for state in states:
            value = value_of(state)
            if value is not None:
                family.add_metric([state.task_type], value)
        return family

    yield gauge("cl_jobs_waiting", "Jobs that are due and unclaimed.", lambda s: s.waiting)
    yield gauge("cl_jobs_not_yet_due", "Jobs that wait for their time.", lambda s: s.not_yet_due)
    yield gauge("cl_jobs_running", "Jobs that are claimed.", lambda s: s.running)
    yield gauge(
        "cl_jobs_oldest_waiting_seconds",
        "How long the oldest waiting job has been due.",
        lambda s: s.oldest_waiting_seconds or 0,
    )
    yield gauge(
        "cl_task_type_unserved",
        "1 where jobs wait and no live worker runs the type.",
        lambda s: s.is_unserved,
    )
    yield gauge("cl_task_type_paused", "1 where operators paused the type.", lambda s: s.is_paused)
    yield gauge(
        "cl_task_type_max_running",
        "How many jobs of the type may run at once, where that is limited.",
        lambda s: s.max_running,
    )


def _worker_metrics(workers: list[LiveWorker]) -> Iterator[Metric]:
    places = sum(worker.concurrency for worker in workers)
    busy = sum(worker.running for worker in workers)
    yield GaugeMetricFamily("cl_workers", "Workers whose lease holds.", value=len(workers))
    yield GaugeMetricFamily("cl_worker_places", "Jobs that they run at once.", value=places)
    yield GaugeMetricFamily(
        "cl_worker_places_busy", "Jobs that they ran at their last renewal.", value=busy
    )


def _outcome_metric(totals: dict[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(
        "cl_job_outcomes", "Ended jobs and attempts.", labels=["task_type", "outcome"]
    )
    for (task_type, outcome), count in sorted(totals.items()):
        family.add_metric([task_type, outcome], count)
    return family


def _vacuum_metrics(state: VacuumState | None) -> Iterator[Metric]:
    if state is None:
        return
    dead = GaugeMetricFamily(
        "cl_postgresql_dead_rows", "Rows that vacuum has yet to remove.", labels=["table"]
    )
    for table, count in state.dead_rows.items():
        dead.add_metric([table], count)
    yield dead
    transactions = GaugeMetricFamily(
        "cl_postgresql_vacuum_held_transactions",
        "How many transactions began since the oldest one that keeps vacuum back.",
        labels=["by"],
    )
    seconds = GaugeMetricFamily(
        "cl_postgresql_vacuum_held_seconds",
        "How long the oldest one that keeps vacuum back has been open.",
        labels=["by"],
    )
    for hold in state.holds:
        transactions.add_metric([hold.kind], hold.transactions)
        if hold.seconds is not None:
            seconds.add_metric([hold.kind], hold.seconds)
    yield transactions
    yield seconds
