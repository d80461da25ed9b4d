"""Cancel, retry, pause and limit from the command line, against a real `cl-server up`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_stack import LAKE, PASSWORD, Stack

from cl_server.client import Client
from cl_server.client.errors import Conflict, InvalidRequest

SIZE = {"width": 30, "height": 20}


@pytest.fixture
def admin(stack: Stack, tmp_path: Path) -> Stack:
    """The same server, with an admin signed in."""
    config = tmp_path / "config"
    config.mkdir()
    note = Path(stack.environment["XDG_CONFIG_HOME"]) / "cl-server" / "local-server.json"
    own = replace(stack, environment={**stack.environment, "XDG_CONFIG_HOME": str(config)})
    (config / "cl-server").mkdir(mode=0o700)
    (config / "cl-server" / "local-server.json").write_bytes(note.read_bytes())
    (config / "cl-server" / "local-server.json").chmod(0o600)
    login = ("login", "--user", "admin", "--password-stdin", "--store-url", stack.store_url)
    signed_in = own.command(
        *login, "--auth-url", stack.auth_url, cwd=tmp_path, stdin=f"{PASSWORD}\n"
    )
    assert signed_in.returncode == 0, signed_in.stderr
    return own


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as signed_in:
        yield signed_in


@pytest.fixture
def paused(client: Client) -> Iterator[None]:
    client.pause_task("image_resize", "the tests want jobs that wait")
    yield
    client.change_jobs("cancel", task_type="image_resize")
    client.resume_task("image_resize")


def document(stack: Stack, directory: Path, *arguments: str) -> Any:
    ran = stack.command(*arguments, "--json", cwd=directory)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_jobs_are_cancelled_and_retried_by_id(
    stack: Stack, client: Client, paused: None, tmp_path: Path
) -> None:
    first, second = (client.create_job("image_resize", [LAKE], SIZE)["job_id"] for _ in range(2))

    cancelled = stack.command("jobs", "cancel", first, second, cwd=tmp_path)
    assert cancelled.stdout == f"{first}\tcancelled\n{second}\tcancelled\n"
    retried = document(stack, tmp_path, "jobs", "retry", first)
    assert retried == {"jobs": [{"job_id": first, "status": "queued", "error": None}]}

    refused = stack.command("jobs", "cancel", "nope", first, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "cl-server: there is no job 'nope'\n"
    assert refused.stdout == f"{first}\tcancelled\n"  # the others were seen to


def test_jobs_are_changed_by_what_they_are(
    stack: Stack, client: Client, paused: None, tmp_path: Path
) -> None:
    made = [client.create_job("image_resize", [LAKE], SIZE)["job_id"] for _ in range(3)]

    cancelled = document(
        stack, tmp_path, "jobs", "cancel", "--task", "image_resize", "--status", "queued", "--mine"
    )
    assert cancelled == {"job_ids": made}
    again = stack.command("jobs", "cancel", "--all", "--yes", cwd=tmp_path)
    assert again.stdout == "0 jobs cancelled\n"

    for arguments in ((), ("--all", made[0])):
        refused = stack.command("jobs", "retry", *arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.startswith("cl-server: give the jobs' ids, or say which with --task")
    wrong = stack.command("jobs", "retry", "--status", "queued", cwd=tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr == ("cl-server: status: to retry jobs, expected cancelled or failed\n")


def test_the_log_of_a_job_shows_its_attempts(stack: Stack, client: Client, tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("this is no picture")
    job = client.create_job("image_resize", [tmp_path / "fake.png"], SIZE)
    assert client.wait_for_job(job["job_id"], timeout_seconds=30)["status"] == "failed"

    shown = stack.command("jobs", "show", "--log", job["job_id"], cwd=tmp_path).stdout
    assert "attempt 1: error" in shown
    assert "fake.png is not a picture" in shown.partition("attempt 1: error")[2]
    (attempt,) = document(stack, tmp_path, "jobs", "show", "--log", job["job_id"])["attempts"]
    assert (attempt["attempt"], attempt["outcome"]) == (1, "error")


def test_tasks_are_paused_limited_and_listed(admin: Stack, client: Client, tmp_path: Path) -> None:
    paused = admin.command("tasks", "pause", "image_resize", "--reason", "broken", cwd=tmp_path)
    assert (paused.stdout, paused.stderr) == ("image_resize is paused: its jobs wait\n", "")
    job_id = client.create_job("image_resize", [LAKE], SIZE)["job_id"]
    limited = document(admin, tmp_path, "tasks", "limit", "image_resize", "2")
    assert (limited["paused"], limited["max_running"]) == (True, 2)
    listed = admin.command("tasks", "list", cwd=tmp_path).stdout
    assert "image_resize\tyes\t2\t" in listed and "\tbroken\n" in listed
    assert client.get_job(job_id)["status"] == "queued"

    admin.command("tasks", "limit", "image_resize", "none", cwd=tmp_path)
    resumed = document(admin, tmp_path, "tasks", "resume", "image_resize")
    assert (resumed["paused"], resumed["max_running"]) == (False, None)
    assert client.wait_for_job(job_id, timeout_seconds=30)["status"] == "completed"


def test_who_may_not_pause_is_told_how(stack: Stack, tmp_path: Path) -> None:
    refused = stack.command("tasks", "pause", "image_resize", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.endswith("sign in as an admin with `cl-server login`\n")
    unknown = stack.command("tasks", "pause", "image_risize", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "the server has no task 'image_risize'; it has: " in unknown.stderr
    wrong = stack.command("tasks", "limit", "image_resize", "0", cwd=tmp_path)
    assert wrong.returncode == 2


def test_a_call_that_is_made_again_with_its_key_makes_no_second_job(client: Client) -> None:
    first = client.create_job("image_resize", [LAKE], SIZE, idempotency_key="made-up")
    again = client.create_job("image_resize", [LAKE], SIZE, idempotency_key="made-up")
    assert again["job_id"] == first["job_id"]
    with pytest.raises(Conflict, match="Idempotency-Key"):
        client.create_job("image_resize", [LAKE], {**SIZE, "width": 31}, idempotency_key="made-up")
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        client.create_job("image_resize", [LAKE], SIZE, idempotency_key="a b")
