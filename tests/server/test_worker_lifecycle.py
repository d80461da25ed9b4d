"""How a worker starts, when it ends, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_harness import WorkerProcess, Workshop, wait_until, wait_until_gone, workshop_in

from cl_server.migrations import migrate

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "lighthouse.jpg"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop_in(tmp_path) as shop:
        yield shop


def running_job(shop: Workshop, worker: WorkerProcess, do: str = "wait") -> tuple[str, list[int]]:
    """Add a job; return it, once it runs, and the worker's processes."""
    job_id = shop.add(do)
    shop.wait_for_sign()
    return job_id, [worker.pid, *worker.children()]


def test_once_runs_one_job_or_none(shop: Workshop) -> None:
    first, second = shop.add(), shop.add()
    assert shop.start_worker("--once", WORKER_CONCURRENCY="2").wait() == 0
    assert [shop.row(job_id)["status"] for job_id in (first, second)] == ["completed", "queued"]
    shop.repository.delete_job(second)
    began = time.monotonic()
    assert shop.start_worker("--once").wait() == 0
    assert time.monotonic() - began < 200


def test_drain_runs_what_is_due_of_the_named_tasks_and_ends(shop: Workshop) -> None:
    """It ends with its last job: not a poll later, which would be a minute here."""
    job_ids, other = [shop.add() for _ in range(20)], shop.add_resize(PHOTO)
    worker = shop.start_worker(
        "--drain", "--tasks", "act", WORKER_CONCURRENCY="2", WORKER_POLL_INTERVAL="60"
    )
    assert worker.wait() == 0
    assert {shop.row(job_id)["status"] for job_id in job_ids} == {"completed"}
    assert shop.row(other)["status"] == "queued"
    worker.assert_calm()


def test_a_task_that_is_not_installed_is_refused(shop: Workshop) -> None:
    worker = shop.start_worker("--tasks", "act,image_paint")
    assert worker.wait() == 2
    (line,) = [entry["message"] for entry in worker.log() if entry["level"] == "PLAIN"]
    assert "'image_paint'" in line
    assert "act, image_conversion, image_resize" in line
    wait_until_gone(worker.pid, *worker.children())


def test_once_and_drain_exclude_each_other(shop: Workshop) -> None:
    assert shop.start_worker("--once", "--drain").wait() == 2


BROKEN = {
    "broken_import": "raise RuntimeError('no camera is connected')",
    "broken_exit": "import sys; sys.exit('bye')",
    "broken_schema": """
from typing import Any, Callable
from cl_ml_tools import BaseJobParams, ComputeModule

class Params(BaseJobParams):
    on_done: Callable[[], None]

class Module(ComputeModule):
    supported_task_types = ["unspeakable"]
    def params_model(self, task_type): return Params
    async def process(self, *args): return {"status": "ok"}
""",
}


def test_a_plugin_that_is_broken_is_named_and_the_others_work(shop: Workshop) -> None:
    for name, code in BROKEN.items():
        (shop.plugins / f"{name}.py").write_text(code)
        shop.add_plugin(name.replace("_", "-"), f"{name}:Module")
    job_id = shop.add()
    worker = shop.start_worker("--drain")
    assert worker.wait() == 0
    assert shop.row(job_id)["status"] == "completed"
    errors = [line["message"] for line in worker.log() if line["level"] == "ERROR"]
    assert len(errors) == len(BROKEN)
    assert any("broken-import" in error and "no camera is connected" in error for error in errors)
    assert any("broken-exit" in error for error in errors)
    assert any("broken-schema" in error and "Callable" in error for error in errors)


@pytest.mark.long
def test_two_plugins_with_one_task_are_refused(shop: Workshop) -> None:
    (shop.plugins / "other.py").write_text("from acting import Acting\nclass Other(Acting): pass\n")
    shop.add_plugin("other", "other:Other")
    worker = shop.start_worker()
    assert worker.wait() == 2
    assert worker.said("'act'") and worker.said("other") and worker.said("acting")


@pytest.mark.long
def test_plugins_that_end_the_process_leave_a_line_and_exit_code_1(shop: Workshop) -> None:
    (shop.plugins / "deadly.py").write_text("import os; os._exit(7)")
    shop.add_plugin("deadly", "deadly:Module")
    worker = shop.start_worker()
    assert worker.wait() == 1
    assert worker.said("exit code 7")


def test_sigterm_lets_the_running_job_end(shop: Workshop) -> None:
    worker = shop.ready_worker()
    job_id, processes = running_job(shop, worker)
    waiting = shop.add()
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("stopping")
    shop.let_go_on()
    assert worker.wait() == 0
    assert shop.row(job_id)["status"] == "completed"
    assert shop.output(job_id) == ["a.txt"]
    assert (shop.row(waiting)["status"], shop.row(waiting)["retry_count"]) == ("queued", 0)
    wait_until_gone(*processes)
    worker.assert_calm()


@pytest.mark.parametrize("do", ["hang_with_gil", pytest.param("wait", marks=pytest.mark.long)])
def test_what_runs_after_the_grace_time_is_put_back_at_no_cost(shop: Workshop, do: str) -> None:
    worker = shop.ready_worker("--grace", "0.3")
    job_id, processes = running_job(shop, worker, do)
    began = time.monotonic()
    assert worker.terminate() == 0
    assert 0.3 <= time.monotonic() - began < 20
    row = shop.row(job_id)
    assert (row["status"], row["retry_count"], row["progress"]) == ("queued", 0, 0)
    assert row["error_message"] is None
    assert shop.events(job_id) == ["queued", "started", "queued"]
    assert shop.attempts(job_id) == []
    wait_until_gone(*processes)
    worker.assert_calm()


def test_a_second_signal_ends_it_at_once(shop: Workshop) -> None:
    worker = shop.ready_worker("--grace", "60")
    job_id, processes = running_job(shop, worker)
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("stopping")
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 20
    assert (shop.row(job_id)["status"], shop.row(job_id)["retry_count"]) == ("queued", 0)
    wait_until_gone(*processes)


def test_ctrl_c_ends_an_idle_worker_at_once(shop: Workshop) -> None:
    worker = shop.ready_worker()
    processes = [worker.pid, *worker.children()]
    began = time.monotonic()
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0
    assert time.monotonic() - began < 20
    wait_until_gone(*processes)
    worker.assert_calm()


@pytest.mark.long
def test_processes_that_jobs_left_behind_end_with_the_worker(shop: Workshop) -> None:
    worker = shop.ready_worker()
    assert shop.wait_for_end(shop.add("start_processes", then="return"))["status"] == "completed"
    (left,) = shop.signs("left")
    assert worker.terminate() == 0
    wait_until_gone(left)


@pytest.mark.long
def test_a_worker_that_still_loads_its_modules_can_be_stopped(shop: Workshop) -> None:
    (shop.plugins / "slow.py").write_text("import time; time.sleep(600)")
    shop.add_plugin("slow", "slow:Module")
    worker = shop.start_worker()
    wait_until(worker.children)
    processes = worker.children()
    assert worker.terminate() == 0
    wait_until_gone(*processes)
    worker.assert_calm()


def test_a_worker_that_starts_before_the_store_waits_and_says_so(tmp_path: Path) -> None:
    with workshop_in(tmp_path, migrated=False) as shop:
        worker = shop.start_worker("--drain")
        worker.wait_for_log("start the store")
        migrate("store", shop.engine)
        assert worker.wait() == 0
        worker.assert_calm()


@pytest.mark.long
def test_a_worker_that_waits_for_the_store_can_be_stopped(tmp_path: Path) -> None:
    with workshop_in(tmp_path, migrated=False) as shop:
        worker = shop.start_worker()
        worker.wait_for_log("start the store")
        assert worker.terminate() == 0


def test_an_idle_worker_that_stops_leaves_nothing_of_the_database_but_its_file(
    shop: Workshop,
) -> None:
    worker = shop.ready_worker()
    shop.engine.dispose()  # the last one to close is the worker

    assert worker.terminate() == 0

    left = {path.name for path in shop.data.glob("*.db*") if "-idle-" not in path.name}
    assert left == {shop.database.name}
