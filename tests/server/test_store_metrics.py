"""Statistics over HTTP, and `/metrics` as Prometheus reads it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from store_harness import (
    RunningStore,
    Signer,
    assert_problem,
    running_store,
    served_store,
    settings_in,
)

from cl_server.store.app import create_app
from cl_server.store.metrics import OutcomeTotals, StoreMetrics
from cl_server_shared.engine import create_database_engine, create_session_factory
from cl_server_shared.statistics import EndedCount, JobStatistics

MINUTE_MS = 60_000

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(answer: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer)
        for sample in family.samples
    }


def metrics(store: RunningStore) -> Samples:
    answer = store.client.get("/metrics", headers=store.admin)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return parsed(answer.text)


def of_type(name: str, task_type: str, **more: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted({"task_type": task_type, **more}.items()))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path) as store:
        yield store


# JSON


def test_statistics_tell_what_waits_runs_and_ended(store: RunningStore) -> None:
    store.worker.register({"image_resize": {}})
    for _ in range(3):
        store.add_job()
    store.worker.complete(store.worker.claim())
    store.worker.claim()
    store.worker.repository.release_instance()

    answer = store.client.get("/compute/statistics", headers=store.bob).json()

    (state,) = answer["task_types"]
    assert 0 <= state.pop("oldest_waiting_seconds") < 60
    assert state == {
        "task_type": "image_resize",
        "waiting": 2,
        "not_yet_due": 0,
        "running": 0,
        "served": False,
        "paused": False,
        "max_running": None,
    }
    assert answer["unserved"] == ["image_resize"]
    (ended,) = answer["ended"]
    assert (ended["task_type"], ended["outcome"], ended["count"]) == (
        "image_resize",
        "completed",
        1,
    )
    assert ended["minute"] % MINUTE_MS == 0
    assert answer["minutes"] == 60 and answer["counted_at_most"] > 0


@pytest.mark.parametrize("minutes", ["0", "1441", "all"])
def test_how_far_back_is_limited(store: RunningStore, minutes: str) -> None:
    answer = store.client.get(f"/compute/statistics?minutes={minutes}", headers=store.ann)
    assert_problem(answer, 422)


def test_workers_are_listed(store: RunningStore) -> None:
    assert store.client.get("/compute/workers", headers=store.ann).json() == {"items": []}
    store.worker.register({"image_resize": {}, "a": {}}, concurrency=3)

    (worker,) = store.client.get("/compute/workers", headers=store.ann).json()["items"]

    assert worker["worker_id"] == "tests"
    assert worker["host"] == socket.gethostname()
    assert (worker["task_types"], worker["concurrency"], worker["running"]) == (
        ["a", "image_resize"],
        3,
        0,
    )
    assert worker["lease_expires_at"] > time.time() * 1000


# /metrics


def test_metrics_tell_what_waits_runs_and_ended(store: RunningStore) -> None:
    store.worker.register({"image_resize": {}}, concurrency=2)
    for _ in range(4):
        store.add_job()
    store.worker.complete(store.worker.claim())
    store.worker.claim()

    found = metrics(store)

    assert found[of_type("cl_jobs_waiting", "image_resize")] == 2
    assert found[of_type("cl_jobs_running", "image_resize")] == 1
    assert found[of_type("cl_jobs_not_yet_due", "image_resize")] == 0
    assert found[of_type("cl_jobs_oldest_waiting_seconds", "image_resize")] < 60
    assert found[of_type("cl_task_type_unserved", "image_resize")] == 0
    assert found[of_type("cl_task_type_paused", "image_resize")] == 0
    assert found["cl_workers", ()] == 1
    assert found["cl_worker_places", ()] == 2
    assert found["cl_database_up", ()] == 1
    completed = of_type("cl_job_outcomes_total", "image_resize", outcome="completed")
    assert found[completed] == 1

    store.worker.complete(store.worker.claim())
    assert metrics(store)[completed] == 2

    store.worker.repository.release_instance()
    assert metrics(store)[of_type("cl_task_type_unserved", "image_resize")] == 1


def test_requests_are_counted_by_route_not_by_path(store: RunningStore) -> None:
    for number in range(3):
        store.client.get(f"/compute/jobs/job-{number}", headers=store.ann)
    store.client.get("/nowhere/1")
    store.client.get("/nowhere/2")
    store.client.request("BREW", "/coffee")

    found = metrics(store)

    def count(method: str, route: str, status: str) -> float:
        labels = {"method": method, "route": route, "status": status}
        return found["cl_http_request_duration_seconds_count", tuple(sorted(labels.items()))]

    assert count("GET", "/compute/jobs/{job_id}", "404") == 3
    assert count("GET", "unknown", "404") == 2
    assert count("other", "unknown", "404") == 1
    routes = {dict(labels).get("route") for _, labels in found}
    assert not any(route and "job-" in route for route in routes)


def test_without_a_database_the_rest_is_told(tmp_path: Path) -> None:
    engine = create_database_engine(f"sqlite:///{tmp_path}/empty.db")  # has no tables
    of_store = StoreMetrics(JobStatistics(create_session_factory(engine)))
    of_store.observe_request("GET", "/", 200, 0.1)

    found = parsed(of_store.render().decode())

    assert found["cl_database_up", ()] == 0
    assert any(name == "cl_http_request_duration_seconds_sum" for name, _ in found)
    assert not any(name.startswith("cl_jobs") for name, _ in found)
    engine.dispose()


def test_postgresqls_vacuum_is_told(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    of_store = StoreMetrics(JobStatistics(create_session_factory(engine)))
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(text("SELECT 1 FROM jobs"))
        found = parsed(of_store.render().decode())
    engine.dispose()

    assert found["cl_database_up", ()] == 1
    assert found["cl_postgresql_dead_rows", (("table", "queue_entries"),)] >= 0
    by = (("by", "transaction"),)
    assert found["cl_postgresql_vacuum_held_seconds", by] > 0
    assert found["cl_postgresql_vacuum_held_transactions", by] >= 0


# Who may


def test_on_loopback_no_token_is_needed(tmp_path: Path) -> None:
    with served_store(tmp_path) as store:
        assert store.client.get("/metrics").status_code == 200
        assert store.client.get("/metrics", headers=store.ann).status_code == 200
        assert_problem(store.client.get("/compute/statistics"), 401)


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"X-Forwarded-Proto": "https"},
    ],
)
def test_whoever_comes_through_a_proxy_is_not_on_loopback(
    tmp_path: Path, header: dict[str, str]
) -> None:
    with served_store(tmp_path) as store:
        assert_problem(store.client.get("/metrics", headers=header), 401)
        assert_problem(store.client.get("/metrics", headers={**header, **store.ann}), 403)
        assert store.client.get("/metrics", headers={**header, **store.admin}).status_code == 200


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("203.0.113.7", 401),
        ("::ffff:203.0.113.7", 401),
        ("10.0.0.1", 401),
        ("0.0.0.0", 401),
        ("localhost", 401),  # no address: no peer of a connection
    ],
)
def test_loopback_is_the_peers_address(tmp_path: Path, peer: str, status: int) -> None:
    from starlette.testclient import TestClient

    app = create_app(settings_in(tmp_path, Signer(tmp_path)))
    with TestClient(app, client=(peer, 50000)) as client:
        headers = {"Host": "127.0.0.1"}  # what anybody can write is of no weight
        assert client.get("/metrics", headers=headers).status_code == status


# Totals only grow


def test_totals_grow_by_what_each_minute_grew(tmp_path: Path) -> None:
    now_ms = 1_700_000_000_000 // MINUTE_MS * MINUTE_MS
    rows: dict[int, int] = {now_ms: 2}

    def count_ended(since: int) -> list[EndedCount]:
        return [
            EndedCount(minute, "a", "completed", count)
            for minute, count in sorted(rows.items())
            if minute > since - MINUTE_MS
        ]

    clock = [now_ms]
    totals = OutcomeTotals(count_ended, clock=lambda: clock[0])

    def total() -> int:
        return totals.read()["a", "completed"]

    assert total() == 2
    rows[now_ms] = 5
    assert total() == 5
    assert total() == 5
    clock[0] += 10 * MINUTE_MS
    rows[clock[0]] = 1
    assert total() == 6

    clock[0] += 600 * MINUTE_MS  # nobody asked for hours
    rows[clock[0]] = 10
    rows[clock[0] - 300 * MINUTE_MS] = 100
    assert total() == 116
    assert total() == 116

    rows.clear()  # pruned
    assert total() == 116


# Documentation


def test_every_metric_is_documented(store: RunningStore) -> None:
    store.add_job()
    store.worker.complete(store.worker.claim())
    with store.worker.engine.begin() as connection:
        connection.execute(text("INSERT INTO task_settings (task_type) VALUES ('a')"))
    answer = store.client.get("/metrics", headers=store.admin).text
    names = set(re.findall(r"^# TYPE (\w+) ", answer, re.M))
    for name in ("store", "worker"):
        source = (ROOT / f"src/cl_server/{name}/metrics.py").read_text()
        names |= set(re.findall(r'"(cl_[a-z_]+)"', source))
    documented = (ROOT / "docs" / "operators.md").read_text()
    assert len(names) > 12
    assert [name for name in sorted(names) if f"`{name}" not in documented] == []
