"""The command line and the client against a real `cl-server up`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cli_stack import LAKE, LIGHTHOUSE, PASSWORD, PHOTOS, Stack, size_of

from cl_server.client import Client
from cl_server.client.errors import Conflict
from cl_server_shared.engine import create_database_engine, sqlite_module

SIZE = ("--param", "width=32", "--param", "height=24")


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as signed_in:
        yield signed_in


# cl-server run


def test_photos_become_files_of_exactly_the_size_asked_for(stack: Stack, tmp_path: Path) -> None:
    photos = sorted(PHOTOS.glob("*.jpg"))

    ran = stack.command(
        "run", "image_resize", *photos, "--param", "width=320", "--param", "height=240",
        "-o", "out", cwd=tmp_path,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    results = {path.name: size_of(path) for path in (tmp_path / "out").iterdir()}
    assert results == {f"resized_{photo.name}": (320, 240) for photo in photos}
    assert f"[{len(photos)}/{len(photos)}]" in ran.stdout
    assert re.search(rf"^{len(photos)} done in ", ran.stdout, re.MULTILINE)


def test_one_job_for_all_files(stack: Stack, tmp_path: Path) -> None:
    ran = stack.command(
        "run", "image_resize", LIGHTHOUSE, LAKE, *SIZE, "--together", "--json", cwd=tmp_path
    )

    document = json.loads(ran.stdout)
    assert len(document["jobs"]) == 1
    assert document["jobs"][0]["results"] == ["resized_lighthouse.jpg", "resized_mountain_lake.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == set(document["jobs"][0]["results"])


def test_two_results_of_one_name_are_both_kept(stack: Stack, tmp_path: Path) -> None:
    for name, photo in (("a", LIGHTHOUSE), ("b", LAKE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(photo.read_bytes())

    ran = stack.command("run", "image_resize", "a/x.jpg", "b/x.jpg", *SIZE, "-o", "o", cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "resized_x.jpg",
        "resized_x (2).jpg",
    }


def test_nothing_is_overwritten_unless_asked_for(stack: Stack, tmp_path: Path) -> None:
    there = tmp_path / "resized_lighthouse.jpg"
    there.write_text("mine")
    command = ("run", "image_resize", LIGHTHOUSE, LAKE, *SIZE)

    refused = stack.command(*command, cwd=tmp_path)

    assert refused.returncode == 2
    assert "resized_lighthouse.jpg is there already; nothing was sent" in refused.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]

    forced = stack.command(*command, "--force", cwd=tmp_path)

    assert forced.returncode == 0, forced.stderr
    assert size_of(there) == (32, 24)


def test_a_result_whose_name_only_the_server_knows_is_not_overwritten_either(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "resized_lighthouse.jpg").write_text("mine")
    # A command line on whose machine no task is installed.
    code = (
        "import sys, cl_ml_tools.registry as r; r._entry_points = lambda _broken: []\n"
        "from cl_server.__main__ import main; sys.exit(main())"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code, "run", "image_resize", LIGHTHOUSE, LAKE, *SIZE],
        env=stack.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert ran.returncode == 1
    assert "resized_lighthouse.jpg is there already" in ran.stderr
    assert (tmp_path / "resized_lighthouse.jpg").read_text() == "mine"
    assert size_of(tmp_path / "resized_mountain_lake.jpg") == (32, 24)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_job_that_fails_is_told_with_its_reason(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("this is no picture")

    ran = stack.command(
        "run", "image_resize", "fake.jpg", LIGHTHOUSE, *SIZE, "-o", "o", cwd=tmp_path
    )

    assert ran.returncode == 1
    assert re.search(r"fake\.jpg: .*not a picture", ran.stderr)
    assert "1 done, 1 failed" in ran.stdout
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["resized_lighthouse.jpg"]


def copies(directory: Path, *names: str | bytes) -> list[Path]:
    directory.mkdir()
    paths = [directory / os.fsdecode(name) for name in names]
    for path in paths:
        path.write_bytes(LIGHTHOUSE.read_bytes())
    return paths


@pytest.mark.parametrize("bad", [b"CON.jpg", b"\xff.jpg"], ids=["refused", "not UTF-8"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_whose_name_is_refused_fails_alone_wherever_it_stands(
    stack: Stack, tmp_path: Path, place: int, bad: bytes
) -> None:
    files = copies(tmp_path / "in", b"a.jpg", b"b.jpg", bad)
    files.insert(place, files.pop())

    ran = stack.command("run", "image_resize", *files, *SIZE, "-o", "out", cwd=tmp_path)

    assert ran.returncode == 1, ran.stderr
    (line,) = ran.stderr.splitlines()
    assert files[place].stem.encode(errors="backslashreplace").decode() in line
    assert "2 done, 1 failed" in ran.stdout
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["resized_a.jpg", "resized_b.jpg"]


def test_where_no_file_can_be_sent_nothing_was_started(stack: Stack, tmp_path: Path) -> None:
    files = copies(tmp_path / "in", "CON.jpg", "NUL.jpg")

    ran = stack.command("run", "image_resize", *files, *SIZE, cwd=tmp_path)

    assert ran.returncode == 2
    assert "0 done, 2 failed" in ran.stdout


def test_json_is_json_whatever_the_terminal_shows(stack: Stack, tmp_path: Path) -> None:
    (file,) = copies(tmp_path / "ü😀", "a.jpg")

    ran = stack.command(
        "run", "image_resize", file, *SIZE, "--json", cwd=tmp_path, PYTHONIOENCODING="latin-1"
    )

    assert json.loads(ran.stdout)["jobs"][0]["inputs"] == [str(file)]


def test_wrong_parameters_end_a_run_behind_a_file_that_is_refused_too(
    stack: Stack, tmp_path: Path
) -> None:
    files = copies(tmp_path / "in", "CON.jpg", "NUL.jpg", "a.jpg", "b.jpg")

    ran = stack.command("run", "image_resize", *files, "-p", "width=0", cwd=tmp_path)

    assert ran.returncode == 2
    assert "image_resize was refused, nothing was run:" in ran.stderr
    assert "  width: " in ran.stderr


def test_a_folder_whose_name_is_not_utf8_is_shown_escaped(stack: Stack, tmp_path: Path) -> None:
    (file,) = copies(tmp_path / os.fsdecode(b"\xff"), "a.jpg")

    ran = stack.command("run", "image_resize", file, *SIZE, "-o", "o", cwd=tmp_path)
    as_json = stack.command("run", "image_resize", file, *SIZE, "--json", cwd=tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\udcff/a.jpg → " in ran.stdout
    assert json.loads(as_json.stdout)["jobs"][0]["inputs"] == [str(file)]


def test_a_refused_run_leaves_no_directory_behind(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for place in ("new/below", "mine"):
        ran = stack.command(
            "run", "image_resize", LIGHTHOUSE, "-p", "width=0", "-o", place, cwd=tmp_path
        )
        assert ran.returncode == 2, ran.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize("place", ["/proc/x", "/proc", "/proc/version", "/proc/version/x"])
def test_a_place_for_results_that_cannot_be_is_said_before_anything_is_sent(
    stack: Stack, client: Client, tmp_path: Path, place: str
) -> None:
    before = client.list_jobs()["items"][:1]

    refused = stack.command("run", "image_resize", LIGHTHOUSE, *SIZE, "-o", place, cwd=tmp_path)

    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"cl-server: -o {place}: ")
    assert client.list_jobs()["items"][:1] == before


def test_a_missing_file_is_said_before_anything_is_sent(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    before = client.list_jobs()["items"][:1]

    refused = stack.command("run", "image_resize", LIGHTHOUSE, "no.jpg", *SIZE, cwd=tmp_path)

    assert refused.returncode == 2
    assert refused.stderr == "cl-server: no.jpg does not exist; nothing was sent\n"
    assert client.list_jobs()["items"][:1] == before


def test_an_unknown_task_lists_those_there_are(stack: Stack, tmp_path: Path) -> None:
    refused = stack.command("run", "image_resiez", LIGHTHOUSE, cwd=tmp_path)

    assert refused.returncode == 2
    assert "no task 'image_resiez'; it has: image_conversion, image_resize" in refused.stderr


def test_each_wrong_parameter_is_a_line(stack: Stack, tmp_path: Path) -> None:
    refused = stack.command(
        "run", "image_resize", LIGHTHOUSE, LAKE, "-p", "width=0", "-p", "colour=red", cwd=tmp_path
    )

    assert refused.returncode == 2
    assert {line.strip().partition(":")[0] for line in refused.stderr.splitlines()[1:]} == {
        "width",
        "height",
        "colour",
    }
    assert list(tmp_path.iterdir()) == []


def heed_interrupts() -> None:
    """Undo what a shell does to its background jobs, of which this test run may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_no_half_file_and_no_traceback(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cl_server", "run", "image_resize", *[LIGHTHOUSE] * 30,
         "-p", "width=2000", "-p", "height=2000", "-o", "out"],
        env=stack.environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=heed_interrupts,
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            assert running.stdout.readline().startswith("[1/30]")
            running.send_signal(signal.SIGINT)
            _out, errors = running.communicate(timeout=20)
        finally:
            running.kill()
            for job in client.list_jobs(status="queued")["items"]:
                with suppress(Conflict):  # a worker took it meanwhile
                    client.delete_job(job["job_id"])

    assert running.returncode == 130
    assert re.search(r"stopped; \d+ jobs go on at the server", errors)
    assert "Traceback" not in errors
    for path in (tmp_path / "out").iterdir():
        assert size_of(path) == (2000, 2000)


# cl-server jobs


def test_jobs_are_listed_shown_and_followed(stack: Stack, client: Client, tmp_path: Path) -> None:
    made = client.create_job("image_resize", [LAKE], {"width": 40, "height": 30})

    lines = stack.command("jobs", "follow", made["job_id"], "--json", cwd=tmp_path)
    listed = stack.command("jobs", "list", "--json", "--limit", "3", cwd=tmp_path)
    plain = stack.command("jobs", "list", "--task", "image_resize", cwd=tmp_path)
    shown = stack.command("jobs", "show", made["job_id"], cwd=tmp_path)

    assert lines.returncode == 0, lines.stderr
    assert json.loads(lines.stdout.splitlines()[-1])["event_type"] == "completed"
    assert made["job_id"] in {job["job_id"] for job in json.loads(listed.stdout)["jobs"]}
    assert re.search(rf"^{made['job_id']}\timage_resize\tcompleted\t100%\t", plain.stdout, re.M)
    assert "parameters\twidth=40\nparameters\theight=30" in shown.stdout
    assert "output\toutput/resized_mountain_lake.jpg" in shown.stdout


def test_a_followed_job_that_fails_gives_its_reason_and_exit_code(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "fake.png").write_text("this is no picture")
    made = client.create_job("image_resize", [tmp_path / "fake.png"], {"width": 4, "height": 3})

    followed = stack.command("jobs", "follow", made["job_id"], cwd=tmp_path)

    assert followed.returncode == 1
    assert "failed: fake.png is not a picture" in followed.stdout
    lines = stack.command("jobs", "follow", made["job_id"], "--json", cwd=tmp_path).stdout
    (last,) = [json.loads(line) for line in lines.splitlines()]
    with closing(client.past_events(made["job_id"])) as events:
        kept = next(event for event in events if event["event_type"] == "failed")
    assert last == kept
    assert isinstance(last["event_id"], int)
    assert (last["event_type"], last["status"]) == ("failed", "error")


def test_a_job_whose_events_are_gone_tells_its_end_itself(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    made = client.create_job("image_resize", [LAKE], {"width": 4, "height": 3})
    client.wait_for_job(made["job_id"], timeout_seconds=30)
    database = create_database_engine(
        f"sqlite:///{stack.directory}/data/media_store.db", module=sqlite_module()
    )
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM job_events")
    database.dispose()

    followed = stack.command("jobs", "follow", made["job_id"], "--json", cwd=tmp_path)

    (event,) = [json.loads(line) for line in followed.stdout.splitlines()]
    assert (event["event_id"], event["event_type"]) == (None, "completed")
    assert followed.returncode == 0


@pytest.mark.parametrize("job_id", ["..", ".", "", "a/b", os.fsdecode(b"\xff")])
@pytest.mark.parametrize("command", ["show", "follow", "cancel", "retry"])
def test_what_can_be_no_jobs_id_is_said(
    stack: Stack, tmp_path: Path, command: str, job_id: str
) -> None:
    shown = stack.command("jobs", command, job_id, cwd=tmp_path)

    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert line.startswith("cl-server: '") and " is not there: it " in line


def test_a_wrong_id_does_not_keep_the_others_from_being_cancelled(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    shown = stack.command("jobs", "cancel", "..", "no-such-job", cwd=tmp_path)

    assert shown.returncode == 1
    assert len(shown.stderr.splitlines()) == 2


def test_a_job_that_is_not_there_is_said(stack: Stack, tmp_path: Path) -> None:
    for command in ("show", "follow"):
        refused = stack.command("jobs", command, "nope", cwd=tmp_path)

        assert refused.returncode == 1
        assert refused.stderr == "cl-server: there is no job 'nope'\n"


def test_an_unknown_status_is_usage(stack: Stack, tmp_path: Path) -> None:
    refused = stack.command("jobs", "list", "--status", "done", cwd=tmp_path)

    assert refused.returncode == 2
    assert "expected one of queued, processing, completed, failed, cancelled" in refused.stderr


def test_jobs_are_counted(stack: Stack, client: Client, tmp_path: Path) -> None:
    client.wait_for_job(
        client.create_job("image_resize", [LAKE], {"width": 40, "height": 30})["job_id"]
    )

    document = json.loads(stack.command("jobs", "stats", "--json", cwd=tmp_path).stdout)
    plain = stack.command("jobs", "stats", "--minutes", "5", cwd=tmp_path)
    empty = stack.command("jobs", "stats", "--minutes", "1441", cwd=tmp_path)

    (state,) = [s for s in document["task_types"] if s["task_type"] == "image_resize"]
    assert (state["waiting"], state["running"], state["served"]) == (0, 0, True)
    completed = [each["count"] for each in document["ended"] if each["outcome"] == "completed"]
    assert document["unserved"] == [] and sum(completed) >= 1
    lines = plain.stdout.splitlines()
    assert lines[0].startswith("task\twaiting\toldest\tlater\trunning\tcompleted\tfailed")
    assert re.search(r"^image_resize\t-\t-\t-\t-\t\d+\t", plain.stdout, re.M)
    assert empty.returncode == 2


def test_workers_are_listed(stack: Stack, tmp_path: Path) -> None:
    document = json.loads(stack.command("workers", "list", "--json", cwd=tmp_path).stdout)
    plain = stack.command("workers", "list", cwd=tmp_path)

    (worker,) = document["workers"]
    assert worker["task_types"] == ["image_conversion", "image_resize"]
    assert worker["running"] <= worker["concurrency"]
    header, line = plain.stdout.splitlines()
    assert header.split("\t")[:4] == ["worker", "instance", "host", "pid"]
    assert line.split("\t")[:4] == [
        worker["worker_id"],
        str(worker["instance_id"]),
        worker["host"],
        str(worker["pid"]),
    ]


# Signing in


def test_signing_in_and_out(stack: Stack, tmp_path: Path) -> None:
    own = replace(stack, environment={**stack.environment, "XDG_CONFIG_HOME": str(tmp_path)})
    login = ("login", "--user", "admin", "--password-stdin")

    unknown = own.command("jobs", "list", cwd=tmp_path)
    wrong = own.command(*login, cwd=tmp_path, stdin="wrong\n")
    right = own.command(*login, "--json", cwd=tmp_path, stdin=f"{PASSWORD}\n")
    known = own.command("jobs", "list", cwd=tmp_path)
    out = own.command("logout", cwd=tmp_path)
    again = own.command("jobs", "list", cwd=tmp_path)

    assert unknown.stderr == "cl-server: you are not signed in: run `cl-server login`\n"
    assert (wrong.returncode, "refused" in wrong.stderr) == (1, True)
    assert json.loads(right.stdout)["username"] == "admin"
    assert (known.returncode, known.stderr) == (0, "")
    assert "admin" in out.stdout
    assert again.returncode == 1
    assert PASSWORD not in right.stdout + right.stderr


def test_without_a_terminal_login_says_how(stack: Stack, tmp_path: Path) -> None:
    refused = stack.command("login", cwd=tmp_path)

    assert refused.returncode == 2
    assert "--password-stdin" in refused.stderr


def test_a_new_password_is_made_on_the_servers_machine(stack: Stack, tmp_path: Path) -> None:
    unknown = stack.command("users", "passwd", "nobody", cwd=tmp_path)
    made = stack.command("users", "passwd", "admin", "--json", cwd=tmp_path)
    with Client(stack.store_url, stack.auth_url) as client:
        client.sign_in("admin", json.loads(made.stdout)["password"])
        assert client.me()["username"] == "admin"
    given = stack.command(
        "users", "passwd", "admin", "--password-stdin", cwd=tmp_path, stdin=PASSWORD
    )

    assert (unknown.returncode, unknown.stderr) == (2, "cl-server: there is no user 'nobody'\n")
    assert given.returncode == 0, given.stderr
    assert PASSWORD not in given.stdout


# docs/clients.md


def test_every_command_of_the_documentation_runs(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(PHOTOS.parent)
    programs = Path(sys.executable).parent
    page = (PHOTOS.parents[1] / "docs" / "clients.md").read_text()
    script = "set -euo pipefail\n" + "\n".join(
        body if language == "sh" else f"python - <<'END'\n{body}END"
        for language, body in re.findall(r"^```(sh|python)\n(.*?)^```", page, re.M | re.S)
    )

    ran = subprocess.run(
        ["bash", "-c", script],
        env={
            **stack.environment,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        },
        cwd=tmp_path, capture_output=True, text=True, timeout=110,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr + ran.stdout[-2000:]
    assert size_of(tmp_path / "out" / "harbour.jpg") == (320, 240)
