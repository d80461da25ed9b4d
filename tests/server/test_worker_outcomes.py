"""Jobs that somebody cancels while they run, and what attempts leave behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_harness import Workshop, wait_until, wait_until_gone, workshop_in


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop_in(tmp_path) as shop:
        yield shop


def test_a_running_job_that_is_cancelled_ends_at_once(shop: Workshop) -> None:
    worker = shop.ready_worker()
    job_id = shop.add("hang_with_gil")
    child = shop.wait_for_sign()
    shop.cancel(job_id)
    ended = shop.wait_for_end(job_id)
    assert (ended["status"], ended["retry_count"]) == ("cancelled", 0)
    wait_until_gone(child)  # it was dead before the job was let go
    assert shop.events(job_id) == ["queued", "started", "cancelled"]
    (kept,) = shop.kept_attempts(job_id)
    assert (kept["attempt"], kept["outcome"], kept["error"]) == (1, "cancelled", None)
    assert (shop.output(job_id), shop.attempts(job_id)) == ([], [])
    assert shop.wait_for_end(shop.add())["status"] == "completed"
    worker.assert_calm()


def test_a_job_can_be_cancelled_while_its_worker_stops(shop: Workshop) -> None:
    worker = shop.ready_worker("--grace", "60")
    job_id = shop.add("wait")
    shop.wait_for_sign()
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("stopping")
    shop.cancel(job_id)
    assert worker.wait() == 0
    assert shop.row(job_id)["status"] == "cancelled"
    assert shop.events(job_id) == ["queued", "started", "cancelled"]
    worker.assert_calm()


def test_a_job_that_is_cancelled_as_the_grace_time_ends_is_not_given_back(shop: Workshop) -> None:
    """The look at who wants what cancelled comes too late for this one."""
    worker = shop.ready_worker("--grace", "60")
    job_id = shop.add("wait")
    shop.wait_for_sign()
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("stopping")
    worker.signal(signal.SIGSTOP)
    shop.cancel(job_id)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)
    assert worker.wait() == 0
    assert shop.row(job_id)["status"] == "cancelled"
    assert shop.events(job_id) == ["queued", "started", "cancelled"]


def test_what_an_attempt_printed_and_logged_is_kept_with_it(shop: Workshop) -> None:
    """Each job's with the job, in a child that runs one after the other."""
    shop.ready_worker()
    printed, raised, silent = shop.add("print"), shop.add("raise"), shop.add()
    for job_id in (printed, silent):
        assert shop.wait_for_end(job_id)["status"] == "completed"
    wait_until(lambda: shop.kept_attempts(raised))
    (kept,) = shop.kept_attempts(printed)
    assert kept["outcome"] == "completed"
    assert kept["output"] == "click\nWARNING camera: the battery is low\n"
    (kept,) = shop.kept_attempts(raised)
    assert (kept["output"], kept["worker"]) == (None, "worker-default")
    assert kept["traceback"].startswith("Traceback (most recent call last)")
    assert kept["traceback"].endswith("RuntimeError: the lens is dirty\n")
    assert shop.kept_attempts(silent) == []
