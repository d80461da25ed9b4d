"""Over HTTP: ending jobs, running them again, attempts, pauses and limits, caps, one key one job."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from store_harness import RunningStore, assert_problem, picture, running_store, wrong_values

from cl_server.http.errors import TooManyRequests
from cl_server.store.job_admission import JobAdmission

RESIZE = "/compute/jobs/image_resize"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path, cancel_wait_seconds=0.3) as store:
        yield store


def post(
    store: RunningStore, path: str, who: dict[str, str] | None = None, **fields: Any
) -> httpx2.Response:
    return store.client.post(path, json=fields or None, headers=who or store.ann)


def status_of(store: RunningStore, job_id: str) -> str:
    status: str = store.client.get(f"/compute/jobs/{job_id}", headers=store.admin).json()["status"]
    return status


def fail_next(store: RunningStore, error: str = "broken") -> str:
    claimed = store.worker.claim()
    store.worker.repository.fail_job(claimed.claim, error, retryable=False)
    return claimed.job.job_id


def end_as_asked(store: RunningStore, job_id: str) -> None:
    """What a worker does about a cancel request."""
    store.worker.repository.update_job(job_id, status="cancelled")


# Cancel and retry


def test_a_waiting_job_is_cancelled_and_retried(store: RunningStore) -> None:
    job_id = store.add_job(priority="7")["job_id"]

    cancelled = post(store, f"/compute/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert store.worker.repository.fetch_next_job(["image_resize"]) is None

    retried = post(store, f"/compute/jobs/{job_id}/retry")
    assert (retried.status_code, retried.json()["status"]) == (202, "queued")
    assert (retried.json()["completed_at"], retried.json()["priority"]) == (None, 7)
    assert store.worker.claim().attempt == 1


def test_a_running_job_is_asked_to_end(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    store.worker.claim()
    asked = post(store, f"/compute/jobs/{job_id}/cancel")
    assert (asked.status_code, asked.json()["status"]) == (202, "processing")
    end_as_asked(store, job_id)
    assert status_of(store, job_id) == "cancelled"


def test_what_a_jobs_state_forbids_is_a_conflict(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    claimed = store.worker.claim()
    assert_problem(post(store, f"/compute/jobs/{job_id}/retry"), 409)
    store.worker.complete(claimed)
    for change in ("cancel", "retry"):
        problem = assert_problem(post(store, f"/compute/jobs/{job_id}/{change}"), 409)
        assert "completed" in problem["detail"]
    failed_id = store.add_job()["job_id"]
    fail_next(store)
    problem = assert_problem(post(store, f"/compute/jobs/{failed_id}/cancel"), 409)
    assert "is failed" in problem["detail"]


def test_only_its_maker_and_an_admin_change_a_job(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    for change in ("cancel", "retry"):
        assert_problem(post(store, f"/compute/jobs/{job_id}/{change}", store.bob), 404)
        assert_problem(post(store, f"/compute/jobs/none/{change}", store.admin), 404)
    attempts = f"/compute/jobs/{job_id}/attempts"
    assert_problem(store.client.get(attempts, headers=store.bob), 404)
    assert status_of(store, job_id) == "queued"
    assert post(store, f"/compute/jobs/{job_id}/cancel", store.admin).status_code == 202


def test_those_who_listen_hear_of_both(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    post(store, f"/compute/jobs/{job_id}/cancel")
    post(store, f"/compute/jobs/{job_id}/retry")
    query = text("SELECT event_type FROM job_events ORDER BY id")
    with store.worker.engine.connect() as connection:
        assert list(connection.scalars(query)) == ["queued", "cancelled", "queued"]


# Deleting


def test_deleting_a_running_job_ends_it_first(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    claimed = store.worker.claim()
    path = f"/compute/jobs/{job_id}"
    problem = assert_problem(store.client.delete(path, headers=store.ann), 409)
    assert "asked to end" in problem["detail"]
    query = text("SELECT cancel_requested FROM queue_entries")
    with store.worker.engine.connect() as connection:
        assert connection.scalar(query) == 1
    assert store.job_folders() == [job_id]
    store.worker.complete(claimed)  # it was quicker
    assert store.client.delete(path, headers=store.ann).status_code == 204
    assert store.job_folders() == []


def test_deleting_waits_for_the_end_of_a_running_job(tmp_path: Path) -> None:
    with running_store(tmp_path, cancel_wait_seconds=20) as store:
        job_id = store.add_job()["job_id"]
        store.worker.claim()
        query = text("SELECT cancel_requested FROM queue_entries")

        def work() -> None:
            give_up = time.monotonic() + 15
            with store.worker.engine.connect() as connection:
                while connection.scalar(query) != 1 and time.monotonic() < give_up:
                    connection.rollback()
                    time.sleep(0.01)
            end_as_asked(store, job_id)

        worker = threading.Thread(target=work)
        worker.start()
        answer = store.client.delete(f"/compute/jobs/{job_id}", headers=store.ann)
        worker.join(20)
        assert answer.status_code == 204
        assert store.job_folders() == []


def test_a_job_whose_worker_is_gone_is_deleted_at_once(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    store.worker.claim()
    with store.worker.engine.begin() as connection:
        connection.execute(text("UPDATE workers SET lease_expires_at = 1"))
    path = f"/compute/jobs/{job_id}"
    assert store.client.delete(path, headers=store.ann).status_code == 204
    assert_problem(store.client.get(path, headers=store.ann), 404)


# All that match


def test_all_that_match_are_changed(store: RunningStore) -> None:
    mine = [store.add_job()["job_id"] for _ in range(3)]
    files = {"file": ("a.jpg", picture())}
    data = {"width": "3", "height": "2"}
    other = store.client.post(RESIZE, data=data, files=files, headers=store.bob).json()["job_id"]

    found = post(store, "/compute/bulk", action="cancel", everything=True, dry_run=True)
    assert found.json() == {"job_ids": mine, "next_cursor": None}
    nothing = post(store, "/compute/bulk", action="cancel", created_by="3").json()
    assert nothing["job_ids"] == []
    as_form = {"action": "cancel", "task_type": "image_resize", "status": "queued"}
    cancelled = store.client.post("/compute/bulk", data=as_form, headers=store.ann)
    assert cancelled.json()["job_ids"] == mine
    assert status_of(store, other) == "queued"

    retried = post(store, "/compute/bulk", store.admin, action="retry", status="cancelled")
    assert retried.json()["job_ids"] == mine
    own = post(store, "/compute/bulk", store.admin, action="cancel", mine=True)
    assert own.json()["job_ids"] == []
    admin = store.signer.bearer("9", "ai_inference_support", "admin")
    everybodys = post(store, "/compute/bulk", admin, action="cancel", everything=True)
    assert everybodys.json()["job_ids"] == [*mine, other]


def test_a_bulk_request_must_say_what_it_means(store: RunningStore) -> None:
    path = "/compute/bulk"
    assert wrong_values(post(store, path, action="cancel")) == ["everything"]
    assert wrong_values(post(store, path, action="delete", mine=True)) == ["action"]
    assert wrong_values(post(store, path, action="cancel", status="failed")) == ["status"]
    assert wrong_values(post(store, path, action="retry", status="queued")) == ["status"]
    assert wrong_values(post(store, path, action="retry", mine=True, cursor=0)) == ["cursor"]
    assert wrong_values(post(store, path, action="retry", mine=True, cursor=True)) == ["cursor"]


def test_a_misspelt_filter_changes_no_job(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    answer = post(store, "/compute/bulk", action="cancel", mine=True, task_typ="none")
    assert wrong_values(answer) == ["task_typ"]
    assert status_of(store, job_id) == "queued"


# Attempts


def test_attempts_show_what_each_left_behind(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    path = f"/compute/jobs/{job_id}/attempts"
    assert store.client.get(path, headers=store.ann).json() == {"items": []}
    with store.worker.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO job_attempts (entry_id, attempt, worker, started_at, ended_at, "
                "outcome, error, traceback, output) "
                "SELECT id, 1, 'w', 5, 9, 'crash', 'it crashed', 'Traceback', 'hello' FROM jobs"
            )
        )
    assert store.client.get(path, headers=store.ann).json() == {
        "items": [
            {
                "attempt": 1,
                "worker": "w",
                "started_at": 5,
                "ended_at": 9,
                "outcome": "crash",
                "error": "it crashed",
                "traceback": "Traceback",
                "output": "hello",
            }
        ]
    }


# Pauses and limits


def put_task(store: RunningStore, task_type: str, **fields: Any) -> httpx2.Response:
    return store.client.put(f"/compute/tasks/{task_type}", json=fields, headers=store.admin)


def test_a_task_is_paused_limited_and_resumed(store: RunningStore) -> None:
    paused = put_task(store, "image_resize", paused=True, reason="broken", max_running=2).json()
    assert (paused["paused"], paused["pause_reason"], paused["paused_by"]) == (True, "broken", "1")
    assert paused["max_running"] == 2 and paused["paused_at"] > 0
    assert put_task(store, "image_resize").json() == paused  # what is not given stays

    tasks = store.client.get("/compute/tasks", headers=store.ann).json()["items"]
    assert paused in tasks
    assert store.add_job()["status"] == "queued"  # new ones are still taken

    resumed = put_task(store, "image_resize", paused=False).json()
    assert (resumed["paused"], resumed["pause_reason"], resumed["max_running"]) == (False, None, 2)
    form = {"max_running": ""}
    unlimited = store.client.put("/compute/tasks/image_resize", data=form, headers=store.admin)
    assert unlimited.json()["max_running"] is None


def test_a_task_whose_workers_are_down_can_be_paused(store: RunningStore) -> None:
    assert put_task(store, "elsewhere", paused=True).json()["served"] is False
    names = [
        task["task_type"]
        for task in store.client.get("/compute/tasks", headers=store.ann).json()["items"]
    ]
    assert "elsewhere" in names and names == sorted(names)
    assert put_task(store, "elsewhere", paused=False).json()["paused"] is False


def test_wrong_settings_are_refused(store: RunningStore) -> None:
    for wrong in (0, True):
        assert wrong_values(put_task(store, "t", max_running=wrong)) == ["max_running"]
    assert wrong_values(put_task(store, "t", reason="why")) == ["reason"]
    assert wrong_values(put_task(store, "t", paused="maybe")) == ["paused"]
    assert wrong_values(put_task(store, "t", max_runing=2)) == ["max_runing"]
    assert wrong_values(put_task(store, "x" * 256, paused=True)) == ["task_type"]


# Idempotency


def keyed(
    store: RunningStore,
    key: str,
    who: dict[str, str] | None = None,
    content: bytes = b"",
    name: str = "a.jpg",
    **fields: str,
) -> httpx2.Response:
    return store.client.post(
        RESIZE,
        data={"width": "32", "height": "24", **fields},
        files={"file": (name, content or picture())},
        headers={**(who or store.ann), "Idempotency-Key": key},
    )


def test_the_same_request_under_one_key_is_the_first_job_again(store: RunningStore) -> None:
    first = keyed(store, "k")
    assert first.status_code == 201
    again = keyed(store, "k")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert store.job_folders() == [first.json()["job_id"]]
    store.worker.complete(store.worker.claim())
    after_its_end = keyed(store, "k")
    assert (after_its_end.status_code, after_its_end.json()["status"]) == (200, "completed")


def test_another_request_under_one_key_is_a_conflict(store: RunningStore) -> None:
    job_id = keyed(store, "k").json()["job_id"]
    for answer in (
        keyed(store, "k", width="33"),
        keyed(store, "k", content=picture(colour="blue")),
        keyed(store, "k", name="b.jpg"),
    ):
        assert job_id in assert_problem(answer, 409)["detail"]
    assert store.job_folders() == [job_id]


def test_each_users_keys_are_their_own(store: RunningStore) -> None:
    answers = [keyed(store, "k"), keyed(store, "k", store.bob)]
    assert [answer.status_code for answer in answers] == [201, 201]
    store.client.delete(answers[0].headers["location"], headers=store.ann)
    assert keyed(store, "k").status_code == 201  # with its job, a key is gone


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "ä"])
def test_a_bad_key_is_refused(store: RunningStore, key: str) -> None:
    headers = [*store.ann.items(), ("Idempotency-Key", key.encode("latin-1"))]
    answer = store.client.post(RESIZE, content=b"x", headers=headers)
    assert wrong_values(answer) == ["Idempotency-Key"]
    assert store.job_folders() == []


def test_of_two_requests_at_once_under_one_key_one_makes_a_job(store: RunningStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: keyed(store, "k"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert len(store.job_folders()) == 1


# Caps


def test_too_many_waiting_jobs_are_refused_before_the_body_is_read(tmp_path: Path) -> None:
    with running_store(tmp_path, max_waiting_jobs_per_user=2, max_waiting_jobs=3) as store:
        first = keyed(store, "k").json()
        store.add_job()

        def body() -> Iterator[bytes]:
            raise AssertionError("the body was read")
            yield b""

        kind = {"content-type": "multipart/form-data; boundary=b"}
        answer = store.client.post(RESIZE, content=body(), headers={**store.ann, **kind})
        problem = assert_problem(answer, 429)
        assert "MAX_WAITING_JOBS_PER_USER" in problem["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        assert keyed(store, "k").json() == first  # that adds none

        assert keyed(store, "b", store.bob).status_code == 201
        problem = assert_problem(keyed(store, "c", store.bob), 429)
        assert "(MAX_WAITING_JOBS)" in problem["detail"]


class CountedJobs:
    """Stands where `JobReader` does: how many wait, and how often that was asked for."""

    def __init__(self) -> None:
        self.by_user: dict[str | None, int] = {}
        self.asked: list[str] = []

    def count_live_jobs(self, limit: int) -> int:
        self.asked.append("all")
        return min(limit, sum(self.by_user.values()))

    def count_live_jobs_by_user(self) -> dict[str | None, int]:
        self.asked.append("by user")
        return dict(self.by_user)


def test_waiting_jobs_are_counted_once_a_second_at_most() -> None:
    jobs, now = CountedJobs(), [100.0]
    admission = JobAdmission(
        jobs,
        max_jobs=100,
        max_jobs_per_user=10,
        monotonic=lambda: now[0],  # type: ignore[arg-type]
    )
    for sub in ("a",) * 9 + ("b",):
        admission.admit(sub)
        admission.settle(sub, added=True)
    assert jobs.asked == ["all"]
    jobs.by_user = {"a": 9, "b": 1}
    admission.admit("a")  # ten in all: now it matters whose they are
    assert jobs.asked == ["all", "all", "by user"]
    admission.settle("a", added=True)
    with pytest.raises(TooManyRequests):
        admission.admit("a")
    admission.admit("b")
    admission.settle("b", added=False)
    jobs.by_user = {"b": 1}
    with pytest.raises(TooManyRequests):
        admission.admit("a")
    assert len(jobs.asked) == 3
    now[0] += 1.1
    admission.admit("a")
    assert len(jobs.asked) == 4


def test_a_job_counts_while_its_files_come_in_and_no_more_once_it_is_given_up() -> None:
    jobs, now = CountedJobs(), [100.0]
    admission = JobAdmission(
        jobs,
        max_jobs=4,
        max_jobs_per_user=3,
        monotonic=lambda: now[0],  # type: ignore[arg-type]
    )
    for _ in range(3):
        admission.admit("a")
    for _ in range(2):  # counting anew does not forget them
        with pytest.raises(TooManyRequests, match="of yours"):
            admission.admit("a")
        now[0] += 1.1
    admission.admit("b")
    with pytest.raises(TooManyRequests, match="MAX_WAITING_JOBS\\)"):
        admission.admit("b")
    admission.settle("a", added=False)
    admission.admit("a")


def test_requests_at_once_are_no_way_around_a_limit(tmp_path: Path) -> None:
    with (
        running_store(tmp_path, max_waiting_jobs_per_user=3) as store,
        ThreadPoolExecutor(9) as pool,
    ):
        answers = list(pool.map(lambda number: keyed(store, f"k{number}"), range(9)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(201), statuses.count(429)) == (3, 6)
