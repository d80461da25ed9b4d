"""What becomes of jobs that behave, and of those that do not; one worker lives through it all."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text
from worker_harness import Workshop, is_alive, wait_until, wait_until_gone, workshop_in

from cl_ml_tools import Job

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
MEMORY_BYTES = 300 * 1024**2


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A worker that all tests of this file share: none of them may bring it down."""
    with workshop_in(
        tmp_path_factory.mktemp("jobs"),
        WORKER_CONCURRENCY="3",
        WORKER_JOB_MEMORY_BYTES=str(MEMORY_BYTES),
    ) as shop:
        worker = shop.ready_worker()
        yield shop
        assert worker.terminate() == 0
        worker.assert_calm()
        assert [line for line in worker.log() if line["level"] in ("ERROR", "CRITICAL")] == []


def test_a_photo_is_resized(shop: Workshop) -> None:
    job_id = shop.add_resize(PHOTOS / "lighthouse.jpg", width=64, height=48)
    row = shop.wait_for_end(job_id)
    assert (row["status"], row["progress"], row["error_message"]) == ("completed", 100, None)
    assert row["completed_at"] >= row["started_at"] >= row["created_at"]
    assert shop.events(job_id) == ["queued", "started", "completed"]
    wait_until(lambda: shop.output(job_id) == ["resized_photo.jpg"])
    with Image.open(shop.storage.get_output_path(job_id) / "resized_photo.jpg") as picture:
        assert picture.size == (64, 48)
    wait_until(lambda: shop.attempts(job_id) == [])


@pytest.mark.parametrize(
    ("do", "reason", "outcome"),
    [
        ("raise", "RuntimeError: the lens is dirty", "error"),
        ("error", "the film has run out", "error"),
        ("sys_exit", "exit code 3; its last output: the shutter is stuck", "crash"),
        ("os_exit", "exit code 4", "crash"),
        ("kill_itself", "killed by SIGKILL", "crash"),
        ("raise_base_exception", "exit code 1", "crash"),
        ("report_nonsense", "progress 101 is not a whole number from 0 to 100", "error"),
        ("eat_memory", "more than the 300 MiB that it may take (WORKER_JOB_MEMORY_BYTES)", "crash"),
        pytest.param(
            "eat_memory_elsewhere", "more than the 300 MiB", "crash", marks=pytest.mark.long
        ),
        ("allocate_too_much", "see WORKER_JOB_MEMORY_BYTES", "error"),
        ("no_json", "the module's task_output cannot be written as JSON", "error"),
        ("no_result", "not a dict whose status is ok or error", "error"),
    ],
)
def test_a_job_that_fails_runs_again_and_then_ends_with_the_reason(
    shop: Workshop, do: str, reason: str, outcome: str
) -> None:
    job_id = shop.add(do, max_retries=1)
    wait_until(lambda: shop.row(job_id)["retry_count"] == 1, explain=shop.logs)
    waiting = shop.row(job_id)
    assert (waiting["status"], waiting["progress"]) == ("queued", 0)
    assert reason in waiting["error_message"]
    shop.end_waiting()
    ended = shop.wait_for_end(job_id)
    assert (ended["status"], ended["retry_count"]) == ("error", 1)
    assert reason in ended["error_message"]
    assert ended["started_at"] == waiting["started_at"]
    assert shop.events(job_id) == ["queued", "started", "retrying", "started", "failed"]
    assert shop.output(job_id) == []
    assert shop.attempts(job_id) == []
    kept = shop.kept_attempts(job_id)
    assert [(row["attempt"], row["outcome"]) for row in kept] == [(1, outcome), (2, outcome)]
    assert all(reason in row["error"] for row in kept)
    assert all(row["ended_at"] >= row["started_at"] >= ended["started_at"] for row in kept)


def test_an_attempt_whose_folder_cannot_be_made_fails_and_says_so(shop: Workshop) -> None:
    job_id = "no-folder"
    job_path = shop.storage.create_job_directory(job_id)
    (job_path / "attempts").write_text("in the way")
    job = Job(job_id=job_id, task_type="act", params={"do": "nothing", "folder": str(shop.folder)})
    shop.repository.add_job(job, max_retries=0)

    ended = shop.wait_for_end(job_id)

    assert ended["status"] == "error"
    assert ended["error_message"].startswith("the attempt's folder cannot be made: ")
    assert str(job_path / "attempts") in ended["error_message"]


@pytest.mark.parametrize("do", ["hang_with_gil", "match_forever"])
def test_a_job_that_hangs_is_ended_by_its_timeout(shop: Workshop, do: str) -> None:
    job_id = shop.add(do, max_retries=0, timeout_seconds=0.5)
    ended = shop.wait_for_end(job_id)
    assert ended["status"] == "error"
    assert ended["error_message"] == "it took longer than the 0.5 seconds that it may take"
    (kept,) = shop.kept_attempts(job_id)
    assert (kept["outcome"], kept["error"]) == ("timeout", ended["error_message"])


def test_the_first_rerun_waits_one_to_two_seconds(shop: Workshop) -> None:
    job_id = shop.add("fail_once")
    row = shop.wait_for_end(job_id)
    assert (row["status"], row["retry_count"], row["error_message"]) == ("completed", 1, None)
    waited_ms = row["completed_at"] - row["started_at"]
    assert 1000 <= waited_ms < 5000
    wait_until(lambda: shop.output(job_id) == ["a.txt"])


def test_a_module_can_postpone_its_job_at_no_cost(shop: Workshop) -> None:
    asked_at = time.time_ns() // 1_000_000
    job_id = shop.add("later", max_retries=0)
    wait_until(lambda: shop.events(job_id)[2:], explain=shop.logs)
    row = shop.row(job_id)
    assert (row["status"], row["retry_count"], row["progress"]) == ("queued", 0, 0)
    assert row["error_message"] is None
    with shop.engine.connect() as connection:
        query = text(
            "SELECT available_at FROM queue_entries "
            "WHERE id = (SELECT id FROM jobs WHERE job_id = :job_id)"
        )
        due_at = connection.execute(query, {"job_id": job_id}).scalar_one()
    assert 3600_000 <= due_at - asked_at < 3700_000
    (kept,) = shop.kept_attempts(job_id)
    assert (kept["outcome"], kept["output"]) == ("postponed", "the sun is not up yet\n")
    assert shop.attempts(job_id) == []
    shop.end_waiting()
    assert shop.wait_for_end(job_id)["status"] == "completed"
    assert shop.events(job_id) == ["queued", "started", "queued", "started", "completed"]
    wait_until(lambda: shop.output(job_id) == ["a.txt"])


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("finally_raise", "there is no picture in it"),
        ("large_output", "write what is large to a file"),
    ],
)
def test_what_cannot_get_better_fails_at_once(shop: Workshop, do: str, reason: str) -> None:
    ended = shop.wait_for_end(shop.add(do))
    assert (ended["status"], ended["retry_count"]) == ("error", 0)
    assert reason in ended["error_message"]


def test_output_that_is_long_or_no_text_harms_nobody(shop: Workshop) -> None:
    job_ids = [shop.add("print_a_lot"), shop.add("print_rubbish"), shop.add("nothing")]
    assert {shop.wait_for_end(job_id)["status"] for job_id in job_ids} == {"completed"}
    worker = shop.workers[0]
    worker.wait_for_log("the rest is not logged")
    assert sum("a line of output" in line["message"] for line in worker.log()) <= 1000
    logged = next(line for line in worker.log() if "a line of output" in line["message"])
    assert logged["job_id"] == job_ids[0]
    (kept,) = shop.kept_attempts(job_ids[0])
    assert (kept["outcome"], kept["error"]) == ("completed", None)
    assert len(kept["output"]) == 64 * 1024
    assert kept["output"].endswith("yyy\n")


def test_processes_that_a_job_started_end_with_its_child(shop: Workshop) -> None:
    job_id = shop.add("start_processes", then="exit", max_retries=0)
    assert "exit code 5" in shop.wait_for_end(job_id)["error_message"]
    wait_until_gone(*shop.signs("left"))


def test_jobs_run_in_children_that_are_warm_and_replaced_when_they_die(shop: Workshop) -> None:
    shop.let_go_on()
    children = shop.workers[0].children()
    outputs = [json.loads(shop.wait_for_end(shop.add("wait"))["task_output"]) for _ in range(3)]
    (shop.folder / "go").unlink()
    assert {output["pid"] for output in outputs} <= set(children)
    os.kill(outputs[-1]["pid"], signal.SIGKILL)
    # Collected by the worker: until its last thread has ended nobody can be told of its death.
    wait_until(lambda: not Path(f"/proc/{outputs[-1]['pid']}").exists(), explain=shop.logs)
    assert shop.wait_for_end(shop.add())["retry_count"] == 0
    wait_until(lambda: len(shop.workers[0].children()) == 3)


def huge_png() -> bytes:
    """A PNG of 20,000 x 10,000 white pixels: 200 megapixels in some 30 kB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0)
    row = b"\0" + b"\xff" * 2_500
    pixels = zlib.compress(row * 10_000, 9)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def truncated_jpeg() -> bytes:
    output = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(output, "JPEG")
    return output.getvalue()[: len(output.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("letter.jpg", b"Dear reader, this is not a photo.\n", ["letter.jpg", "not a picture"]),
        ("half.jpg", truncated_jpeg(), ["half.jpg", "damaged or cut off"]),
        ("nothing.jpg", b"", ["nothing.jpg", "empty"]),
        ("bomb.png", huge_png(), ["bomb.png", "20000 x 10000"]),
    ],
)
def test_a_file_that_is_no_picture_fails_at_once_with_a_sentence(
    shop: Workshop, name: str, content: bytes, words: list[str]
) -> None:
    pids = set(shop.workers[0].children())
    job_id = shop.add_resize(content, name)
    ended = shop.wait_for_end(job_id)
    assert (ended["status"], ended["retry_count"]) == ("error", 0)
    assert [word for word in words if word not in ended["error_message"]] == []
    assert "Error" not in ended["error_message"]  # no exception's name
    assert shop.output(job_id) == []
    assert pids & set(shop.workers[0].children())
    assert is_alive(shop.workers[0].pid)


def test_progress_reaches_the_database_and_the_last_one_always(shop: Workshop) -> None:
    job_id = shop.add("wait", progress=42)
    wait_until(lambda: shop.row(job_id)["progress"] == 42, explain=shop.logs)
    assert shop.output(job_id) == []  # nothing is seen before the job is completed
    shop.let_go_on()
    assert shop.wait_for_end(job_id)["progress"] == 100
    wait_until(lambda: shop.output(job_id) == ["a.txt"])
