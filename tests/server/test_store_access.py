"""Every route of the store, called as everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from store_harness import RunningStore, assert_problem, picture, running_store

OPEN = {"/", "/compute", "/compute/capabilities", "/healthz", "/readyz", "/openapi.json"}

# Each route that is not open, and the one permission that opens it.
NEEDS = {
    ("GET", "/entities"): "media_store_read",
    ("POST", "/entities"): "media_store_write",
    ("GET", "/entities/{entity_id}"): "media_store_read",
    ("GET", "/entities/{entity_id}/media"): "media_store_read",
    ("HEAD", "/entities/{entity_id}/media"): "media_store_read",
    ("POST", "/compute/jobs/{task_type}"): "ai_inference_support",
    ("GET", "/compute/jobs"): "ai_inference_support",
    ("GET", "/compute/jobs/{job_id}"): "ai_inference_support",
    ("GET", "/compute/jobs/{job_id}/files/{path:path}"): "ai_inference_support",
    ("DELETE", "/compute/jobs/{job_id}"): "ai_inference_support",
    ("POST", "/compute/jobs/{job_id}/cancel"): "ai_inference_support",
    ("POST", "/compute/jobs/{job_id}/retry"): "ai_inference_support",
    ("GET", "/compute/jobs/{job_id}/attempts"): "ai_inference_support",
    ("POST", "/compute/bulk"): "ai_inference_support",
    ("DELETE", "/compute/admin/jobs/cleanup"): "admin",
    ("GET", "/compute/admin/jobs/storage/size"): "admin",
    ("GET", "/compute/tasks"): "ai_inference_support",
    ("PUT", "/compute/tasks/{task_type}"): "admin",
    ("GET", "/compute/statistics"): "ai_inference_support",
    ("GET", "/compute/workers"): "ai_inference_support",
    ("GET", "/events"): "ai_inference_support",
    ("GET", "/metrics"): "admin",  # or loopback: test_store_metrics.py
}
PERMISSIONS = sorted({*NEEDS.values(), "admin"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path) as store:
        yield store


def status(store: RunningStore, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of a request whose body must not be read before it is decided."""
    url = path.replace(":path", "").format(
        entity_id=99, job_id="none", task_type="none", path="output/a"
    )
    if url == "/events":
        url = "/events?job_id=none"  # ends at once
    return store.client.request(method, url, headers=headers).status_code


def test_every_route_is_in_this_table(store: RunningStore) -> None:
    routes = {
        (method, route.path)
        for route in store.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert {route for route in routes if route[1] not in OPEN} == NEEDS.keys()


def test_a_permission_opens_its_routes_and_no_others(store: RunningStore) -> None:
    for permission in PERMISSIONS:
        holder = store.signer.bearer("7", permission)
        for (method, path), needed in NEEDS.items():
            refused = status(store, method, path, holder) == 403
            assert refused == (permission != needed), (permission, method, path)


def test_without_a_token_only_what_is_open_answers(store: RunningStore) -> None:
    for method, path in NEEDS:
        assert status(store, method, path, {}) == 401
        assert status(store, method, path, {"Authorization": "Bearer nonsense"}) == 401
    for path in OPEN:
        assert store.client.get(path).status_code == 200


def test_an_admin_may_do_everything(store: RunningStore) -> None:
    for method, path in NEEDS:
        assert status(store, method, path, store.admin) not in (401, 403)


def test_guests_read_media_and_nothing_else(tmp_path: Path) -> None:
    with running_store(tmp_path, read_auth_enabled=False) as store:
        assert store.client.get("/").json()["guestMode"] == "on"
        for (method, path), needed in NEEDS.items():
            expected = needed != "media_store_read"
            assert (status(store, method, path, {}) == 401) == expected


def test_auth_disabled_opens_all_and_says_so(tmp_path: Path) -> None:
    with running_store(tmp_path, auth_disabled=True) as store:
        assert store.client.get("/healthz").json()["auth_disabled"] is True
        for method, path in NEEDS:
            assert status(store, method, path, {}) not in (401, 403)
        answer = store.client.post(
            "/entities",
            files={"image": ("a.jpg", picture())},
            data={"is_collection": "false"},
        )
        assert answer.status_code == 201
        data = {"width": "1", "height": "1", "entity_ids": str(answer.json()["id"])}
        job = store.client.post("/compute/jobs/image_resize", data=data)
        assert (job.status_code, job.json()["created_by"]) == (201, "0")


@pytest.mark.parametrize("path", ["/entities", "/compute/jobs/image_resize"])
def test_who_may_not_is_told_before_the_body_is_read(store: RunningStore, path: str) -> None:
    def body() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert_problem(store.client.post(path, content=body(), headers=headers), 401)
    reader = {**store.signer.bearer("7", "media_store_read"), **headers}
    assert_problem(store.client.post(path, content=body(), headers=reader), 403)
