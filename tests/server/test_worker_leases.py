"""Workers that are killed or frozen, and databases that are away: no job is lost, none done twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from worker_harness import Workshop, wait_until, wait_until_gone, workshop_in

LEASE_SECONDS = "2"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop_in(
        tmp_path, WORKER_LEASE_SECONDS=LEASE_SECONDS, WORKER_POLL_INTERVAL="1"
    ) as shop:
        yield shop


@pytest.mark.parametrize("do", ["start_processes", pytest.param("hang", marks=pytest.mark.long)])
def test_nothing_runs_on_after_its_worker_was_killed(shop: Workshop, do: str) -> None:
    doomed = shop.ready_worker()
    shop.add(do, then="hang")
    child = shop.wait_for_sign()
    processes = doomed.children()
    assert child in processes
    assert set(shop.signs("left")) <= set(processes)
    doomed.signal(signal.SIGKILL)
    doomed.wait()
    wait_until_gone(*processes, timeout_seconds=5)


def test_the_job_of_a_killed_worker_is_done_by_another(shop: Workshop) -> None:
    doomed = shop.ready_worker()
    job_id = shop.add("wait")
    child = shop.wait_for_sign()
    processes = doomed.children()
    assert child in processes
    doomed.signal(signal.SIGKILL)
    doomed.wait()
    wait_until_gone(*processes, timeout_seconds=5)
    shop.let_go_on()
    began = time.monotonic()
    other = shop.ready_worker()
    shop.wait_for_status(job_id, "queued", timeout_seconds=15)
    assert time.monotonic() - began > 0.5
    waiting = shop.row(job_id)
    assert (waiting["retry_count"], waiting["error_message"]) == (
        1,
        "the worker that ran it went silent",
    )
    shop.end_waiting()
    assert shop.wait_for_end(job_id)["status"] == "completed"
    wait_until(lambda: shop.output(job_id) == ["a.txt"])
    wait_until(lambda: shop.attempts(job_id) == [])
    other.assert_calm()


def test_a_frozen_worker_ends_no_job_twice(shop: Workshop) -> None:
    frozen = shop.ready_worker()
    job_id = shop.add("wait")
    child = shop.wait_for_sign()
    other = shop.ready_worker()
    frozen.signal(signal.SIGSTOP)
    wait_until_gone(child, timeout_seconds=10)  # its watchdog does not wait for the supervisor
    shop.wait_for_status(job_id, "queued", timeout_seconds=15)
    shop.let_go_on()
    shop.end_waiting()
    assert shop.wait_for_end(job_id)["status"] == "completed"
    frozen.signal(signal.SIGCONT)
    frozen.wait_for_log("the lease is lost")
    frozen.wait_for_log("the claim was lost")
    row = shop.row(job_id)
    assert (row["status"], row["retry_count"]) == ("completed", 1)
    assert shop.events(job_id) == ["queued", "started", "retrying", "started", "completed"]
    assert shop.output(job_id) == ["a.txt"]
    other.terminate()
    assert shop.wait_for_end(shop.add())["status"] == "completed"  # by the one that was frozen
    frozen.assert_calm()


def test_a_job_that_holds_pythons_lock_ends_with_its_frozen_workers_lease(shop: Workshop) -> None:
    """No thread of the child runs then, its watchdog neither."""
    frozen = shop.ready_worker()
    shop.add("hang_with_gil")
    child = shop.wait_for_sign()
    frozen.signal(signal.SIGSTOP)
    wait_until_gone(child, timeout_seconds=10)


def test_what_a_frozen_worker_completes_too_late_is_discarded(tmp_path: Path) -> None:
    with workshop_in(tmp_path, WORKER_LEASE_SECONDS="3", WORKER_POLL_INTERVAL="1") as shop:
        frozen = shop.ready_worker()
        job_id = shop.add("wait")
        child = shop.wait_for_sign()
        other = shop.ready_worker()
        frozen.signal(signal.SIGSTOP)
        shop.let_go_on()
        wait_until(lambda: shop.signs("ended"), explain=shop.logs)  # nobody takes its result
        shop.wait_for_status(job_id, "queued", timeout_seconds=20)
        shop.end_waiting()
        ended = shop.wait_for_end(job_id)
        assert json.loads(ended["task_output"])["pid"] != child
        frozen.signal(signal.SIGCONT)
        frozen.wait_for_log("the claim was lost")
        assert shop.row(job_id) == ended
        assert shop.events(job_id) == ["queued", "started", "retrying", "started", "completed"]
        assert shop.output(job_id) == ["a.txt"]
        frozen.assert_calm()
        other.assert_calm()


def test_a_job_whose_claim_was_taken_away_is_ended(shop: Workshop) -> None:
    worker = shop.ready_worker()
    job_id = shop.add("hang")
    child = shop.wait_for_sign()
    shop.repository.delete_job(job_id)
    wait_until_gone(child, timeout_seconds=10)
    assert shop.wait_for_end(shop.add())["status"] == "completed"
    worker.assert_calm()


def test_an_outcome_without_a_claim_changes_nothing(tmp_path: Path) -> None:
    """The worker does not know yet that its instance was forgotten, and its job given to others."""
    with workshop_in(tmp_path, WORKER_LEASE_SECONDS="60") as shop:
        worker = shop.ready_worker()
        job_id = shop.add("wait", max_retries=0, progress=10)
        wait_until(lambda: shop.row(job_id)["progress"] == 10, explain=shop.logs)
        with shop.engine.begin() as connection:
            connection.execute(text("DELETE FROM workers"))
        assert shop.repository.rescue_expired_jobs() == 1
        shop.let_go_on()
        worker.wait_for_log("what this attempt did is discarded")
        row = shop.row(job_id)
        assert (row["status"], row["task_output"]) == ("error", None)
        assert row["error_message"] == "the worker that ran it went silent"
        assert shop.events(job_id) == ["queued", "started", "failed"]
        wait_until(lambda: shop.attempts(job_id) == [])
        assert shop.output(job_id) == []
        worker.assert_calm()


@contextmanager
def locked(shop: Workshop) -> Iterator[None]:
    """Hold the database's write lock."""
    with shop.engine.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        yield
        connection.rollback()


@pytest.mark.long
def test_an_outcome_waits_while_the_database_is_locked(tmp_path: Path) -> None:
    with workshop_in(tmp_path, WORKER_LEASE_SECONDS="60") as shop:
        worker = shop.ready_worker()
        job_id = shop.add("wait")
        shop.wait_for_sign()
        with locked(shop):
            shop.let_go_on()
            wait_until(lambda: shop.attempts(job_id) != [])
            time.sleep(1)  # the lock must be held while the outcome is written
            assert shop.row(job_id)["status"] == "processing"
        assert shop.wait_for_end(job_id)["status"] == "completed"
        assert shop.events(job_id) == ["queued", "started", "completed"]
        worker.assert_calm()


def test_an_outcome_waits_while_the_database_is_away(tmp_path: Path) -> None:
    """Its tables are, which SQLite notices at once; a file that is moved away it would not."""
    with workshop_in(tmp_path, WORKER_LEASE_SECONDS="60") as shop:
        worker = shop.ready_worker()
        job_id = shop.add("wait")
        shop.wait_for_sign()
        with shop.engine.begin() as connection:
            connection.execute(text("ALTER TABLE jobs RENAME TO jobs_away"))
        shop.let_go_on()
        worker.wait_for_log("the outcome waits for the database")
        with shop.engine.begin() as connection:
            connection.execute(text("ALTER TABLE jobs_away RENAME TO jobs"))
        assert shop.wait_for_end(job_id)["status"] == "completed"
        assert shop.row(job_id)["retry_count"] == 0
        assert shop.wait_for_end(shop.add())["status"] == "completed"
        worker.assert_calm()


@pytest.mark.long
@pytest.mark.parametrize("running", [False, True])
def test_a_worker_ends_in_time_also_while_the_database_is_locked(
    tmp_path: Path, running: bool
) -> None:
    with workshop_in(tmp_path, WORKER_LEASE_SECONDS="60") as shop:
        worker = shop.ready_worker("--grace", "0.5")
        processes = [worker.pid, *worker.children()]
        if running:
            shop.add("wait")
            shop.wait_for_sign()
        with locked(shop):
            began = time.monotonic()
            assert worker.terminate() == 0
            assert time.monotonic() - began < 8
        wait_until_gone(*processes)
        worker.assert_calm()


@pytest.mark.long
def test_a_lease_that_cannot_be_renewed_ends_the_job_and_nothing_else(shop: Workshop) -> None:
    worker = shop.ready_worker()
    job_id = shop.add("wait")
    child = shop.wait_for_sign()
    with locked(shop):
        wait_until_gone(child, timeout_seconds=10)
    worker.wait_for_log("the lease is lost")
    shop.let_go_on()
    shop.wait_for_status(job_id, "queued", "completed", timeout_seconds=20)
    shop.end_waiting()
    assert shop.wait_for_end(job_id)["status"] == "completed"
    assert shop.row(job_id)["retry_count"] == 1
    worker.assert_calm()


@pytest.mark.long
def test_workers_that_are_killed_one_after_another_lose_nothing(shop: Workshop) -> None:
    shop.let_go_on()
    job_ids = [shop.add("count", pause=0.002, max_retries=50) for _ in range(40)]
    for _ in range(4):
        worker = shop.ready_worker(WORKER_CONCURRENCY="2")
        done = sum(shop.row(job_id)["status"] == "completed" for job_id in job_ids)
        wait_until(
            lambda done=done: sum(shop.row(i)["status"] == "completed" for i in job_ids) > done + 2
        )
        worker.signal(signal.SIGKILL)
        worker.wait()
    shop.ready_worker(WORKER_CONCURRENCY="2")
    give_up = time.monotonic() + 60
    while any(shop.row(job_id)["status"] != "completed" for job_id in job_ids):
        assert time.monotonic() < give_up, shop.logs()
        shop.end_waiting()
        time.sleep(0.2)
    for job_id in job_ids:
        assert shop.events(job_id).count("completed") == 1
        # As any reader does: a worker may have died between completing the job and showing its files.
        shop.storage.publish_output(job_id, shop.row(job_id)["retry_count"] + 1)
        assert shop.output(job_id) == ["a.txt"]
