"""Jobs over HTTP: making them, looking at them, fetching their files, deleting them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from store_harness import (
    MAX_UPLOAD_BYTES,
    MEDIA,
    RunningStore,
    as_json,
    assert_problem,
    picture,
    running_store,
    wrong_values,
)

from cl_server.store.service_jobs import LIST_READ_BYTES

RESIZE = "/compute/jobs/image_resize"
JOB_KEYS = {
    "job_id",
    "task_type",
    "status",
    "progress",
    "params",
    "task_output",
    "error_message",
    "priority",
    "created_at",
    "updated_at",
    "started_at",
    "completed_at",
    "input_files",
    "output_files",
    "retry_count",
    "max_retries",
    "created_by",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path) as store:
        yield store


def resize(
    store: RunningStore, *names: str, who: dict[str, str] | None = None, **fields: Any
) -> httpx2.Response:
    data = {"width": "32", "height": "24", **fields}
    files = [("file", (name, picture())) for name in names]
    return store.client.post(RESIZE, data=data, files=files or None, headers=who or store.ann)


def test_a_job_is_made_from_an_upload_and_its_parameters(store: RunningStore) -> None:
    answer = resize(store, "a.jpg", priority="7", max_retries="0", timeout_seconds="2.5")

    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/compute/jobs/{job['job_id']}"
    assert job.keys() == JOB_KEYS
    assert uuid.UUID(job["job_id"]).version == 7
    assert (job["status"], job["progress"], job["task_type"]) == ("queued", 0, "image_resize")
    assert (job["priority"], job["max_retries"], job["retry_count"]) == (7, 0, 0)
    assert job["created_by"] == "2"
    assert job["params"]["input_paths"] == ["input/a.jpg"]
    assert job["params"]["output_paths"] == ["output/resized_a.jpg"]
    assert job["params"]["output_path"] == "output/resized_a.jpg"
    assert (job["params"]["width"], job["params"]["maintain_aspect_ratio"]) == (32, False)
    content = picture()
    assert job["input_files"] == [
        {
            "name": "a.jpg",
            "path": "input/a.jpg",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    assert job["output_files"] == []
    assert store.client.get(answer.headers["location"], headers=store.ann).json() == job
    claimed = store.worker.claim()
    assert claimed.timeout_seconds == 2.5
    assert "output_path" not in claimed.job.params


def test_parameters_may_come_as_json(store: RunningStore) -> None:
    params = as_json({"width": 32, "height": 24, "maintain_aspect_ratio": True})
    answer = store.client.post(
        RESIZE, data={"params": params}, files={"file": ("a.jpg", picture())}, headers=store.ann
    )
    assert answer.status_code == 201
    assert answer.json()["params"]["maintain_aspect_ratio"] is True


def test_an_empty_field_is_not_given(store: RunningStore) -> None:
    answer = resize(store, "a.jpg", maintain_aspect_ratio="", priority="", entity_ids="", params="")
    assert answer.status_code == 201
    assert answer.json()["priority"] == 5
    assert wrong_values(resize(store, "a.jpg", width="")) == ["width"]


def test_several_files_keep_their_order_and_never_overwrite_each_other(
    store: RunningStore,
) -> None:
    job = resize(store, "b.jpg", "sub/b.jpg", "b.jpg", "a.jpg").json()
    paths = ["input/b.jpg", "input/sub/b.jpg", "input/b (2).jpg", "input/a.jpg"]
    assert job["params"]["input_paths"] == paths
    assert len(set(job["params"]["output_paths"])) == 4
    assert "output_path" not in job["params"]
    assert sorted(file["path"] for file in job["input_files"]) == sorted(paths)


@pytest.mark.parametrize("written", ["[{0}, {1}]", "{0},{1}", "{0}, {1}"])
def test_media_of_the_store_can_be_inputs(store: RunningStore, written: str) -> None:
    first = store.upload(picture(), "a.jpg").json()
    second = store.upload(picture(colour="blue"), "a.jpg").json()

    job = resize(store, "a.jpg", entity_ids=written.format(first["id"], second["id"])).json()

    assert job["params"]["input_paths"] == ["input/a.jpg", "input/a (2).jpg", "input/a (3).jpg"]
    digests = {file["path"]: file["sha256"] for file in job["input_files"]}
    assert digests["input/a (3).jpg"] == second["sha256"]
    workspace = store.settings.compute_dir / "jobs" / job["job_id"]
    assert (workspace / "input/a (3).jpg").read_bytes() == picture(colour="blue")


def test_entities_may_be_named_by_repeating_the_field_or_in_json(store: RunningStore) -> None:
    ids = [store.upload(picture(colour=colour)).json()["id"] for colour in ("red", "blue")]
    repeated = store.client.post(
        RESIZE,
        data={"width": "3", "height": "2", "entity_ids": [str(each) for each in ids]},
        headers=store.ann,
    )
    as_document = store.client.post(
        RESIZE,
        json={"params": {"width": 3, "height": 2}, "entity_ids": ids, "priority": 9},
        headers=store.ann,
    )
    for answer in (repeated, as_document):
        assert answer.status_code == 201
        assert len(answer.json()["input_files"]) == 2


def test_deleting_a_job_leaves_the_media_that_it_read(store: RunningStore) -> None:
    entity = store.upload(picture()).json()
    job = resize(store, entity_ids=str(entity["id"])).json()
    assert store.client.delete(f"/compute/jobs/{job['job_id']}", headers=store.ann).is_success
    media = store.client.get(f"/entities/{entity['id']}/media", headers=store.ann)
    assert media.content == picture()


def test_media_that_one_may_not_read_cannot_be_an_input(store: RunningStore) -> None:
    entity_id = store.upload(picture()).json()["id"]
    outsider = store.signer.bearer("4", "ai_inference_support")
    assert_problem(resize(store, entity_ids=str(entity_id), who=outsider), 403)
    assert store.job_folders() == []


@pytest.mark.parametrize("written", ["0_{}", "+{}", "\u0661", '["\u0661"]', "[1.0]"])
def test_an_id_is_written_in_digits(store: RunningStore, written: str) -> None:
    entity_id = store.upload(picture()).json()["id"]
    assert entity_id == 1  # U+0661 is the Arabic digit

    refused = resize(store, entity_ids=written.format(entity_id))

    assert wrong_values(refused) == ["entity_ids"]


def test_more_entities_than_a_job_takes_are_one_wrong_value(store: RunningStore) -> None:
    for written in (",".join(map(str, range(1, 1002))), "x," * 1001):
        answer = resize(store, entity_ids=written)
        assert wrong_values(answer) == ["entity_ids"]
        assert "at most 1000" in answer.json()["detail"]


def test_an_entity_that_has_no_file_cannot_be_an_input(store: RunningStore) -> None:
    trip = store.add_collection()
    for entity_ids in (f"{trip}", "99", "x", "0", "-1", "1.5", "[true]", str(2**70)):
        assert wrong_values(resize(store, entity_ids=entity_ids)) == ["entity_ids"]
    assert store.job_folders() == []


def test_an_unknown_task_is_not_found_and_the_body_is_not_read(store: RunningStore) -> None:
    def body() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {**store.ann, "content-type": "multipart/form-data; boundary=b"}
    answer = store.client.post("/compute/jobs/sing", content=body(), headers=headers)
    assert "image_resize" in assert_problem(answer, 404)["detail"]


def test_every_wrong_value_is_listed_and_nothing_is_left(store: RunningStore) -> None:
    refused = resize(
        store, "a.jpg", width="wide", height="0", priority="11", max_retries="51", hight="3"
    )
    assert set(wrong_values(refused)) == {"width", "height", "priority", "max_retries", "hight"}
    assert store.job_folders() == []
    assert store.client.get("/compute/jobs", headers=store.admin).json()["items"] == []


@pytest.mark.parametrize(
    "data",
    [
        {"width": "3", "height": "2", "hight": "3"},
        {"width": "3", "height": "2", "hight": ["3", "4"]},
        {"params": '{"width": 3, "height": 2, "hight": 3}'},
        {"params": '{"width": 3, "height": 2, "hight": 3}', "hight": "3"},
    ],
)
def test_an_unknown_parameter_is_listed_once(store: RunningStore, data: dict[str, Any]) -> None:
    files = {"file": ("a.jpg", picture())}
    refused = store.client.post(RESIZE, data=data, files=files, headers=store.ann)
    assert wrong_values(refused) == ["hight"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"priority": "-1"}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"timeout_seconds": "0"}, "timeout_seconds"),
        ({"timeout_seconds": "nan"}, "timeout_seconds"),
        ({"params": "{"}, "params"),
        ({"params": "[1]"}, "params"),
        ({"params": '{"width": NaN}'}, "params"),
        ({"params": "[" * 100_000}, "params"),
        ({"params": '{"a":' * 101 + "1" + "}" * 101}, "params"),
        ({"width": str(10**30)}, "width"),
        ({"output_paths": "input/a.jpg"}, "output_paths"),
        ({"output_paths": "output/../../a.jpg"}, "output_paths"),
        ({"output_paths": "/tmp/a.jpg"}, "output_paths"),
        ({"output_paths": "output"}, "output_paths"),
        ({"input_paths": "input/other.jpg"}, "input_paths"),
        ({"input_paths": "../../media/a"}, "input_paths"),
    ],
)
def test_a_wrong_value_is_named(store: RunningStore, fields: dict[str, str], wrong: str) -> None:
    assert wrong in wrong_values(resize(store, "a.jpg", **fields))
    assert store.job_folders() == []


def test_more_paths_than_a_job_can_have_are_one_wrong_value(store: RunningStore) -> None:
    paths = as_json([f"output/{number}" for number in range(3001)])
    for name in ("input_paths", "output_paths"):
        answer = resize(store, "a.jpg", **{name: paths, "width": "x"})
        assert sorted(wrong_values(answer)) == [name, "width"]


def test_an_output_below_another_is_a_wrong_value(store: RunningStore) -> None:
    paths = ["output/x.jpg", "output/x.jpg/y.jpg"]
    assert wrong_values(resize(store, "a.jpg", "b.jpg", output_paths=paths)) == ["output_paths"]
    assert store.job_folders() == []


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("option", ["priority", "max_retries", "timeout_seconds"])
def test_true_is_no_number(store: RunningStore, option: str, flag: bool) -> None:
    entity_id = store.upload(picture()).json()["id"]
    body = {"width": 3, "height": 2, "entity_ids": [entity_id], option: flag}

    refused = store.client.post(RESIZE, json=body, headers=store.ann)

    assert wrong_values(refused) == [option]
    assert "a number is expected, not true or false" in refused.json()["detail"]


def test_what_a_task_says_of_a_value_stands_alone(store: RunningStore) -> None:
    body = {"params": {"width": True, "height": 2}}
    (_no_file, error) = assert_problem(
        store.client.post(RESIZE, json=body, headers=store.ann), 422
    )["errors"]
    assert error["msg"] == "a number is expected, not true or false"


def test_a_task_that_reads_files_needs_one(store: RunningStore) -> None:
    assert wrong_values(resize(store)) == ["file"]
    text = {"file": "not a file", "width": "1", "height": "1"}
    assert "file" in wrong_values(store.client.post(RESIZE, data=text, headers=store.ann))
    other = {"picture": ("a.jpg", picture())}
    assert wrong_values(store.client.post(RESIZE, files=other, headers=store.ann)) == ["picture"]


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "...", "nul", "a" * 300, "sub/../../a.jpg", "C:\\a.jpg%00"]
)
def test_a_bad_file_name_is_refused_and_nothing_is_left(store: RunningStore, name: str) -> None:
    assert wrong_values(resize(store, "good.jpg", name)) == ["file"]
    assert store.job_folders() == []


def test_a_file_over_the_limit_is_refused_and_nothing_is_left(store: RunningStore) -> None:
    files = [("file", ("a.jpg", picture())), ("file", ("b", b"x" * (MAX_UPLOAD_BYTES + 1)))]
    answer = store.client.post(RESIZE, files=files, headers=store.ann)
    assert "MAX_UPLOAD_BYTES" in assert_problem(answer, 413)["detail"]
    assert store.job_folders() == []


@pytest.mark.parametrize("publish", [True, False])
def test_a_finished_job_shows_its_files(store: RunningStore, publish: bool) -> None:
    """Also when the worker died between its completion and the moving of its files."""
    job_id = store.add_job()["job_id"]
    claimed = store.worker.claim()
    store.worker.write_output(claimed, "resized_a.jpg", b"small")
    path = f"/compute/jobs/{job_id}"

    running = store.client.get(path, headers=store.ann).json()
    assert (running["status"], running["output_files"]) == ("processing", [])
    file = f"{path}/files/output/resized_a.jpg"
    assert_problem(store.client.get(file, headers=store.ann), 404)

    store.worker.complete(claimed, publish=publish, width=32)

    answer = store.client.get(file, headers=store.ann)
    assert (answer.status_code, answer.content) == (200, b"small")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    ended = store.client.get(path, headers=store.ann).json()
    assert (ended["status"], ended["progress"]) == ("completed", 100)
    assert ended["task_output"] == {"width": 32}
    assert ended["updated_at"] == ended["completed_at"]
    digest = hashlib.sha256(b"small").hexdigest()
    assert ended["output_files"] == [
        {"name": "resized_a.jpg", "path": "output/resized_a.jpg", "size": 5, "sha256": digest}
    ]
    assert not (store.settings.compute_dir / "jobs" / job_id / "attempts").exists()


def finished_job(store: RunningStore, **outputs: bytes) -> tuple[str, Path]:
    """A completed job's address, and its `output` folder with these files, `.txt` each."""
    path = f"/compute/jobs/{store.add_job()['job_id']}"
    claimed = store.worker.claim()
    store.worker.complete(claimed)
    folder = store.settings.compute_dir / path.removeprefix("/compute/") / "output"
    for stem, content in outputs.items():
        (folder / f"{stem}.txt").write_bytes(content)
    return path, folder


def shown_outputs(store: RunningStore, path: str) -> list[str]:
    """The names that the job shows: the same alone and in the list of jobs."""
    listed = store.client.get("/compute/jobs", headers=store.ann)
    alone = store.client.get(path, headers=store.ann)
    assert (listed.status_code, alone.status_code) == (200, 200), (listed.text, alone.text)
    assert listed.json()["items"][0]["output_files"] == alone.json()["output_files"]
    return [file["name"] for file in alone.json()["output_files"]]


def test_a_digest_is_read_again_when_the_file_changed(store: RunningStore) -> None:
    path, folder = finished_job(store)
    for content in (b"one", b"other"):
        (folder / "a.txt").write_bytes(content)
        listed = store.client.get("/compute/jobs", headers=store.ann).json()["items"][0]
        digest = hashlib.sha256(content).hexdigest()
        assert listed["output_files"][0]["sha256"] == digest
        assert store.client.get(path, headers=store.ann).json() == listed


def test_a_list_leaves_out_the_digest_of_a_file_that_takes_long_to_read(
    store: RunningStore,
) -> None:
    path, folder = finished_job(store, small=b"small")
    with (folder / "large.bin").open("wb") as file:
        file.truncate(LIST_READ_BYTES + 1)

    def digests(job: dict[str, Any]) -> list[bool]:
        return [file["sha256"] is not None for file in job["output_files"]]

    listed = store.client.get("/compute/jobs", headers=store.ann).json()["items"][0]
    assert digests(listed) == [False, True]
    assert digests(store.client.get(path, headers=store.ann).json()) == [True, True]
    listed = store.client.get("/compute/jobs", headers=store.ann).json()["items"][0]
    assert digests(listed) == [True, True]


def test_only_plain_files_are_shown_and_handed_out(store: RunningStore) -> None:
    path, folder = finished_job(store, plain=b"plain")
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to("plain.txt")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(folder):
        listening.bind("socket")

    assert shown_outputs(store, path) == ["plain.txt"]
    for name in ("fifo", "socket", "loop", "loop/x", "link", "fifo/x", "plain.txt/x"):
        assert_problem(store.client.get(f"{path}/files/output/{name}", headers=store.ann), 404)


def test_a_fifo_among_what_an_attempt_wrote_stops_nobody(store: RunningStore) -> None:
    path = f"/compute/jobs/{store.add_job()['job_id']}"
    claimed = store.worker.claim()
    store.worker.write_output(claimed, "a.txt", b"a")
    attempt = store.settings.compute_dir / path.removeprefix("/compute/") / "attempts/1"
    os.mkfifo(attempt / "fifo")
    store.worker.complete(claimed, publish=False)
    assert shown_outputs(store, path) == ["a.txt"]


def test_a_file_that_cannot_be_named_or_read_breaks_no_answer(
    store: RunningStore, caplog: pytest.LogCaptureFixture
) -> None:
    path, folder = finished_job(store, a=b"a", closed=b"b")
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.txt")).write_bytes(b"c")
    (folder / "closed.txt").chmod(0)

    assert shown_outputs(store, path) == ["a.txt", "closed.txt"]
    assert "caf\\udce9.txt" in caplog.text


def test_an_error_reads_failed(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    store.worker.repository.fail_job(
        store.worker.claim().claim, "it is no picture", retryable=False
    )

    job = store.client.get(f"/compute/jobs/{job_id}", headers=store.ann).json()

    assert (job["status"], job["error_message"]) == ("failed", "it is no picture")
    for status, found in (("failed", [job_id]), ("completed", [])):
        page = store.client.get(f"/compute/jobs?status={status}", headers=store.ann).json()
        assert [item["job_id"] for item in page["items"]] == found
    assert_problem(store.client.get("/compute/jobs?status=error", headers=store.ann), 422)


def test_a_result_that_is_no_json_breaks_no_answer(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    store.worker.complete(store.worker.claim())
    with store.worker.engine.begin() as connection:  # as other programs may have written it
        output = '{"nan": NaN, "half": "\\ud800"}'
        connection.execute(text("UPDATE jobs SET task_output = :output"), {"output": output})
    job = store.client.get(f"/compute/jobs/{job_id}", headers=store.ann).json()
    assert job["task_output"] == {"nan": None, "half": "?"}


def test_a_file_outside_of_what_a_job_shows_is_not_handed_out(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    other = store.add_job()["job_id"]
    workspace = store.settings.compute_dir / "jobs" / job_id
    (workspace / "output/link").symlink_to(store.settings.media_dir / ".cl-server-storage")

    def status(path: str) -> int:
        answer = store.client.get(f"/compute/jobs/{job_id}/files/{path}", headers=store.ann)
        return answer.status_code

    assert status("input/a.jpg") == 200
    assert status("input") == 400
    assert status("input/") == 400
    assert status("") == 400
    assert status("output/none.jpg") == 404
    assert status(".digests.json") == 404
    assert status("attempts/1/a.jpg") == 404
    assert status("output/link") == 403
    assert status(f"..%2F{other}%2Finput%2Fa.jpg") == 403
    assert status("%2Fetc%2Fpasswd") == 403
    assert status("input%2F..%2Finput%2Fa.jpg") == 422
    assert status("input/a.jpg%00") == 422
    assert status("input/" + "a" * 300) == 422


def test_a_bad_job_id_is_refused(store: RunningStore) -> None:
    for job_id in ("%2E%2E", "a%00", "nul", "x" * 300, "..."):
        answer = store.client.get(f"/compute/jobs/{job_id}", headers=store.ann)
        assert wrong_values(answer) == ["job_id"]
    unknown = store.client.get(f"/compute/jobs/{uuid.uuid4()}", headers=store.ann)
    assert_problem(unknown, 404)


def test_jobs_are_listed_newest_first_and_page_by_page(store: RunningStore) -> None:
    made = [store.add_job()["job_id"] for _ in range(51)]

    first = store.client.get("/compute/jobs", headers=store.ann).json()
    second = store.client.get(
        f"/compute/jobs?cursor={first['next_cursor']}", headers=store.ann
    ).json()

    assert [job["job_id"] for job in first["items"] + second["items"]] == made[::-1]
    assert len(second["items"]) == 1
    assert second["next_cursor"] is None
    other = store.client.get("/compute/jobs?task_type=image_conversion", headers=store.ann)
    assert other.json() == {"items": [], "next_cursor": None}
    assert_problem(store.client.get("/compute/jobs?cursor=x", headers=store.ann), 422)


def test_only_its_maker_and_an_admin_see_a_job(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    path = f"/compute/jobs/{job_id}"
    for url in (path, f"{path}/files/input/a.jpg", f"/events?job_id={job_id}"):
        assert_problem(store.client.get(url, headers=store.bob), 404)
    assert_problem(store.client.delete(path, headers=store.bob), 404)
    for query in ("", "?created_by=2", "?created_by=3"):
        page = store.client.get(f"/compute/jobs{query}", headers=store.bob).json()
        assert page["items"] == []
    by_permission = store.signer.bearer("9", "ai_inference_support", "admin")
    for admin in (store.admin, by_permission):
        assert store.client.get(path, headers=admin).status_code == 200
        page = store.client.get("/compute/jobs?created_by=2", headers=admin).json()
        assert [job["job_id"] for job in page["items"]] == [job_id]


def test_a_waiting_job_and_an_ended_one_are_deleted_with_their_files(store: RunningStore) -> None:
    waiting = store.add_job(priority="0")["job_id"]
    ended = store.add_job(priority="9")["job_id"]
    store.worker.complete(store.worker.claim())
    for job_id in (waiting, ended):
        path = f"/compute/jobs/{job_id}"
        deleted = store.client.delete(path, headers=store.ann)
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert "content-type" not in deleted.headers
        assert_problem(store.client.get(path, headers=store.ann), 404)
        assert_problem(store.client.delete(path, headers=store.ann), 404)
    assert store.job_folders() == []
    assert store.worker.repository.fetch_next_job(["image_resize"]) is None


def test_tasks_are_those_installed_and_those_that_workers_announce(store: RunningStore) -> None:
    remote = {"type": "object", "properties": {"n": {"type": "integer"}, "input_paths": {}}}
    store.worker.register({"image_resize": {"type": "object"}, "remote": remote})

    tasks = {
        task["task_type"]: task
        for task in store.client.get("/compute/tasks", headers=store.ann).json()["items"]
    }

    assert list(tasks) == sorted(tasks)
    assert tasks["image_resize"]["served"]
    assert "width" in tasks["image_resize"]["parameters"]["properties"]
    assert tasks["remote"] == {
        "task_type": "remote",
        "parameters": remote,
        "served": True,
        "paused": False,
        "paused_at": None,
        "paused_by": None,
        "pause_reason": None,
        "max_running": None,
    }
    assert not tasks["image_conversion"]["served"]


def test_a_task_that_only_a_worker_has_is_taken_with_its_paths_checked(
    store: RunningStore,
) -> None:
    remote = {"type": "object", "properties": {"n": {"type": "integer"}, "output_paths": {}}}
    store.worker.register({"remote": {**remote, "additionalProperties": True}})

    def post(**fields: str) -> httpx2.Response:
        files = {"file": ("a.bin", b"abc")}
        return store.client.post(
            "/compute/jobs/remote", data=fields, files=files, headers=store.ann
        )

    answer = post(n="3", name="x")
    assert answer.status_code == 201
    assert answer.json()["params"] == {"n": 3, "name": "x", "input_paths": ["input/a.bin"]}
    assert wrong_values(post(output_paths="../a")) == ["output_paths"]
    assert wrong_values(post(params='{"input_paths": 3}')) == ["input_paths"]
    store.worker.repository.release_instance()
    assert_problem(post(n="3"), 404)


def test_capabilities_count_idle_workers(store: RunningStore) -> None:
    path = "/compute/capabilities"
    assert store.client.get(path).json() == {"num_workers": 0, "capabilities": {}}
    store.worker.register({"image_resize": {}, "remote": {}})
    expected = {"num_workers": 1, "capabilities": {"image_resize": 1, "remote": 1}}
    assert store.client.get(path).json() == expected
    store.worker.repository.renew_lease(running=1)
    assert store.client.get(path).json()["capabilities"] == {"image_resize": 0, "remote": 0}


def test_capabilities_are_kept_for_a_while(tmp_path: Path) -> None:
    with running_store(tmp_path, capability_cache_seconds=600) as store:
        assert store.client.get("/compute/capabilities").json()["num_workers"] == 0
        store.worker.register({"remote": {}})
        assert store.client.get("/compute/capabilities").json()["num_workers"] == 0


def test_a_guest_may_not_use_media_as_inputs_without_the_permission_to_compute(
    tmp_path: Path,
) -> None:
    with running_store(tmp_path, read_auth_enabled=False) as store:
        entity_id = store.upload(picture()).json()["id"]
        assert_problem(resize(store, entity_ids=str(entity_id), who={"x": "y"}), 401)
        assert_problem(
            resize(store, entity_ids=str(entity_id), who=store.signer.bearer("5", *MEDIA)), 403
        )
        reader = store.signer.bearer("4", "ai_inference_support")
        assert resize(store, entity_ids=str(entity_id), who=reader).status_code == 201
