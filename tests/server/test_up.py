"""`cl-server up`: the real command with its real children."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from up_process import Up, wait_until

from broker_process import BrokerProcess, wait_until_listening
from cl_ml_tools import MQTTBroadcaster
from cl_server.client import Client
from ports import free_port

START = Callable[..., Up]

LOOPBACK = "0100007F"  # 127.0.0.1, as in /proc/net/tcp


@pytest.fixture
def start(tmp_path: Path) -> Iterator[START]:
    """Starts `up`, and sees to it that nothing of it outlives the test."""
    started: list[Up] = []

    def start_up(*arguments: str, **environment: str) -> Up:
        started.append(Up(tmp_path, *arguments, **environment))
        return started[-1]

    yield start_up
    for up in started:
        up.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `up` for tests that leave it running."""
    up = Up(tmp_path_factory.mktemp("up"))
    try:
        yield up.wait_until_ready()
    finally:
        up.kill()


def refused(up: Up) -> str:
    """Return the one line with which `up` refuses to start."""
    assert up.process.wait(60) == 2
    wait_until(lambda: bool(up.errors), "nothing was said")
    assert up.pids() == set()
    assert up.lines == []
    (line,) = up.errors
    return line


def client_of(up: Up) -> Client:
    note = up.note()
    return Client(note["store_url"], note["auth_url"], token=note["token"])


def make_photos(folder: Path, count: int) -> None:
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        where = folder / "more" if number % 2 else folder
        Image.new("RGB", (700, 400), (number * 60, 80, 120)).save(where / f"photo {number}.jpg")
    (folder / "notes.txt").write_text("no picture")


def database_files(up: Up) -> dict[str, int]:
    """Every file of a database, with its mode."""
    files = [path for path in up.directory.glob("*.db*") if "-idle-" not in path.name]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}


# A life from its start to its end


def test_it_starts_everything_says_where_and_ends_without_a_trace(start: START) -> None:
    up = start().wait_until_ready()
    wait_until(lambda: any("password" in line for line in up.lines), "no password")

    said = dict(line.strip().split("=", 1) for line in up.lines if "=" in line)
    assert said == {
        "CL_AUTH_URL": f"http://127.0.0.1:{up.auth_port}",
        "CL_STORE_URL": f"http://127.0.0.1:{up.store_port}",
        "CL_COMPUTE_URL": f"http://127.0.0.1:{up.store_port}/compute",
        "CL_MQTT_URL": f"mqtt://localhost:{up.mqtt_port}",
        "CL_SERVER_DIR": str(up.directory),
    }
    password = next(line for line in up.lines if "password  " in line).split()[1]
    with Client(said["CL_STORE_URL"], said["CL_AUTH_URL"]) as client:
        client.sign_in("admin", password)
        assert client.me()["is_admin"]
        assert client.capabilities()["num_workers"] == 1
    for path in up.directory.rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes()

    began = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - began < 10
    assert up.pids() == set()
    assert not (up.config_dir / "local-server.json").exists()
    assert up.errors == []
    assert database_files(up) == {"user_auth.db": 0o600, "media_store.db": 0o600}


def test_photos_are_imported_once_and_each_resized_once(start: START, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_photos(photos, 3)
    whole = (photos / "photo 0.jpg").read_bytes()
    (photos / "copy.jpg").write_bytes(whole)
    (photos / "cut off.jpg").write_bytes(whole[:300])

    first = start("--import", str(photos))
    summary = "4 new, 1 already here; 3 resized, 1 failed"
    assert first.wait_for_line(" new, ") == f"{photos}: {summary}"
    assert any("cut off.jpg was not resized" in line for line in first.errors)
    with client_of(first) as client:
        jobs = client.list_jobs(task_type="image_resize", status="completed")["items"]
        assert len(jobs) == 3
        for job in jobs:
            (output,) = job["output_files"]
            saved = client.download_job_file(job["job_id"], output, tmp_path / job["job_id"])
            with Image.open(saved) as picture:
                assert picture.size == (512, 293)
    assert first.stop(signal.SIGINT) == 0

    (photos / "cut off.jpg").unlink()
    second = start("--import", str(photos))
    assert second.wait_for_line(" new, ") == f"{photos}: 0 new, 4 already here"
    assert not any("password" in line for line in second.lines)
    with client_of(second) as client:
        assert len(client.list_jobs(task_type="image_resize")["items"]) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_leaves_nothing_of_a_database_but_its_file(
    start: START, number: signal.Signals
) -> None:
    up = start().wait_until_ready()
    with client_of(up) as client, client.events().connect():
        assert set(database_files(up).values()) == {0o600}
        assert up.stop(number) == 0

    assert database_files(up).keys() == {"user_auth.db", "media_store.db"}


def test_killing_it_leaves_nothing_running(start: START) -> None:
    up = start("--workers", "2").wait_until_ready()
    assert up.note()["pid"] == up.process.pid
    with client_of(up) as client:
        assert client.capabilities()["num_workers"] == 2

    up.process.kill()
    up.process.wait()

    wait_until(lambda: not up.pids(), "children are left")


def test_a_second_interrupt_ends_everything_at_once(start: START) -> None:
    up = start().wait_until_ready()
    os.kill(up.pid_of("worker"), signal.SIGSTOP)  # it will not end by itself

    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: not _is_running(up, "web"), "the first signal did nothing")
    assert _is_running(up, "worker")
    assert up.stop(signal.SIGINT) == 0

    wait_until(lambda: not up.pids(), "children are left")


@pytest.mark.long
def test_a_child_that_does_not_end_is_killed_in_time(start: START) -> None:
    up = start().wait_until_ready()
    for child in ("worker", "web", "broker"):
        os.kill(up.pid_of(child), signal.SIGSTOP)

    began = time.monotonic()
    assert up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 10.5
    wait_until(lambda: not up.pids(), "children are left")


def test_a_broker_that_is_there_is_used(start: START, tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path).start()
    try:
        up = start(MQTT_PORT=str(broker.port)).wait_until_ready()
        assert not _is_running(up, "broker")
        assert f"  CL_MQTT_URL=mqtt://localhost:{broker.port}" in up.lines
        assert up.stop() == 0
        wait_until_listening(broker.port)
    finally:
        broker.stop()


def test_without_a_broker_wanted_none_is_started(start: START) -> None:
    up = start(BROADCAST_TYPE="none").wait_until_ready()

    assert not _is_running(up, "broker")
    assert not any("MQTT" in line for line in up.lines)
    assert up.stop(signal.SIGHUP) == 0  # as when the terminal is closed
    assert up.pids() == set()


# While it runs


def test_the_command_line_needs_no_sign_in(running: Up) -> None:
    path = running.config_dir / "local-server.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert running.note()["pid"] == running.process.pid
    assert running.note()["server_dir"] == str(running.directory)
    with client_of(running) as client:
        assert client.list_jobs()["items"] == []
        assert client.me()["username"] == "admin"


def test_its_own_broker_listens_on_loopback_only(running: Up) -> None:
    client = MQTTBroadcaster("127.0.0.1", running.mqtt_port)
    try:
        assert client.wait_connected(10)
        assert client.publish_tracked("a", "b").result(10)
    finally:
        client.disconnect()
    ports = {running.mqtt_port, running.auth_port, running.store_port}
    assert _listeners(ports) == {(LOOPBACK, port) for port in ports}


def test_a_second_one_on_the_same_directory_is_refused(running: Up) -> None:
    ports = ["--auth-port", str(free_port()), "--store-port", str(free_port())]
    done = subprocess.run(
        [sys.executable, "-m", "cl_server", "up", "--dir", str(running.directory), *ports],
        env=running.environment,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"(process {running.process.pid})" in line
    assert running.note()["pid"] == running.process.pid


@pytest.mark.parametrize("child", ["worker", "web", "broker"])
def test_a_child_that_dies_is_started_again(running: Up, child: str) -> None:
    before = running.pid_of(child)
    os.kill(before, signal.SIGKILL)

    line = running.wait_for_line("it starts again in")
    assert line == f"cl-server: the {child} was ended by SIGKILL; it starts again in 1 s"
    wait_until(lambda: _is_running(running, child), "it was not started again")
    assert running.pid_of(child) != before
    url = f"http://127.0.0.1:{running.store_port}/readyz"
    wait_until(lambda: _answers(url), "the store does not answer")
    wait_until_listening(running.mqtt_port)


# What it refuses


def test_a_port_in_use_is_said_before_anything_starts(start: START, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(start("--store-port", str(port)))
    assert f"the store service cannot listen on 127.0.0.1:{port}" in line
    assert line.endswith("choose another with --store-port or STORE_PORT")


def test_one_port_for_two_services_is_refused(start: START) -> None:
    port = str(free_port())
    assert port in refused(start("--auth-port", port, "--store-port", port))


def test_a_directory_that_cannot_be_made_is_named(start: START, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file/data" in refused(start("--dir", f"{tmp_path}/file/data"))


def test_a_directory_that_cannot_be_written_to_is_named(start: START) -> None:
    assert "/proc/1" in refused(start("--dir", "/proc/1"))  # even root cannot


def test_a_folder_to_import_that_is_not_there_is_named(start: START, tmp_path: Path) -> None:
    assert f"--import {tmp_path}/none" in refused(start("--import", f"{tmp_path}/none"))


def test_a_malformed_setting_is_said_once(start: START) -> None:
    assert "WORKER_CONCURRENCY='many'" in refused(start(WORKER_CONCURRENCY="many"))


def test_another_machines_broker_needs_credentials(start: START) -> None:
    line = refused(start(MQTT_BROKER="192.0.2.1"))
    assert "MQTT_BROKER='192.0.2.1'" in line
    assert "MQTT_USERNAME" in line


def test_what_a_child_refuses_ends_all_with_its_line(start: START, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "private_key.pem").write_text("no key")
    line = refused(start())
    assert "private_key.pem" in line


# The broker where there is no mosquitto

WITHOUT_MOSQUITTO = """
import shutil, sys
shutil.which = lambda *_, **__: None
sys.argv = ["cl-server", "broker", "--port", sys.argv[1]]
from cl_server.__main__ import main
sys.exit(main())
"""


def test_the_embedded_broker_serves_where_there_is_no_mosquitto(server_dir: Path) -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", WITHOUT_MOSQUITTO, str(port)])
    try:
        wait_until_listening(port)
        client = MQTTBroadcaster("127.0.0.1", port)
        heard: list[str] = []
        client.subscribe("presence/+", lambda _topic, payload: heard.append(payload))
        assert client.wait_connected(10)
        client.publish_retained("presence/a", "here")
        wait_until(lambda: heard == ["here"], "nothing was heard")
        client.disconnect()
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def _is_running(up: Up, child: str) -> bool:
    try:
        up.pid_of(child)
    except LookupError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _listeners(ports: set[int]) -> set[tuple[str, int]]:
    """Return what listens on these ports, each with its address, as the kernel says."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            if state == "0A" and int(port, 16) in ports:
                found.add((address, int(port, 16)))
    return found
