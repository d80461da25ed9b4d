"""Real workers on a real SQLite file, and a plug-in whose jobs behave as a test asks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import paho.mqtt.client as mqtt
from cli_stack import plain_environment
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import text

from cl_ml_tools import Job, NoOpBroadcaster
from cl_server.migrations import migrate
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.control import JobControl
from cl_server_shared.engine import (
    create_database_engine,
    create_session_factory,
    sqlite_module,
)

PLUGINS = Path(__file__).parent / "plugins"
PATIENCE_SECONDS = 30.0


class Workshop:
    """A data directory as the store makes it, its jobs, and the workers that a test starts on it."""

    def __init__(self, directory: Path, *, migrated: bool = True, **environment: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.data.mkdir()
        self.folder = directory / "signs"  # how a job and its test speak to each other
        self.folder.mkdir()
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        self.environment = {
            **plain_environment(directory),
            "CL_SERVER_DIR": str(self.data),
            "BROADCAST_TYPE": "none",
            "WORKER_CONCURRENCY": "1",
            "PYTHONPATH": search_path(self.plugins),
            **environment,
        }
        self.database = self.data / "media_store.db"
        self.engine = create_database_engine(f"sqlite:///{self.database}", module=sqlite_module())
        self.repository = SQLAlchemyJobRepository(create_session_factory(self.engine))
        self.repository.broadcaster = NoOpBroadcaster()
        self.storage = FileStorageService(self.data / "compute")
        self.workers: list[WorkerProcess] = []
        self.add_plugin("acting", "acting:Acting")
        if migrated:
            self.database.write_bytes(_migrated_database())

    def add_plugin(self, name: str, entry_point: str) -> None:
        """Make a distribution that brings one module of `cl_ml_tools.tasks`."""
        add_plugin(self.plugins, name, entry_point)

    def start_worker(self, *options: str, **environment: str) -> WorkerProcess:
        log = self.directory / f"worker-{len(self.workers)}.log"
        worker = WorkerProcess(options, {**self.environment, **environment}, log)
        self.workers.append(worker)
        return worker

    def ready_worker(self, *options: str, **environment: str) -> WorkerProcess:
        worker = self.start_worker(*options, **environment)
        worker.wait_for_log("registered as instance")
        return worker

    def add(self, do: str = "nothing", *, max_retries: int = 3, **params: Any) -> str:
        """Add a job of the plug-in's; it and the test share `folder`."""
        job_id = f"{do}-{time.time_ns()}"
        timeout_seconds = params.pop("timeout_seconds", None)
        job = Job(
            job_id=job_id,
            task_type="act",
            params={
                "do": do,
                "folder": str(self.folder),
                "output_paths": ["output/a.txt"],
                **params,
            },
        )
        return self.repository.add_job(
            job, max_retries=max_retries, timeout_seconds=timeout_seconds
        )

    def add_resize(self, picture: Path | bytes, name: str = "photo.jpg", **params: Any) -> str:
        job_id = f"resize-{time.time_ns()}"
        target = self.storage.create_job_directory(job_id) / "input" / name
        if isinstance(picture, bytes):
            target.write_bytes(picture)
        else:
            shutil.copy(picture, target)
        params = {"width": 32, "height": 24, **params, "input_paths": [f"input/{name}"]}
        return self.repository.add_job(Job(job_id=job_id, task_type="image_resize", params=params))

    def row(self, job_id: str) -> dict[str, Any]:
        with self.engine.connect() as connection:
            query = text("SELECT * FROM jobs WHERE job_id = :job_id")
            return dict(connection.execute(query, {"job_id": job_id}).mappings().one())

    def events(self, job_id: str) -> list[str]:
        with self.engine.connect() as connection:
            query = text(
                "SELECT event_type FROM job_events JOIN jobs ON jobs.id = entry_id "
                "WHERE job_id = :job_id ORDER BY job_events.id"
            )
            return list(connection.execute(query, {"job_id": job_id}).scalars())

    def end_waiting(self) -> None:
        """Let what waits for its re-run be due now."""
        with self.engine.begin() as connection:
            connection.execute(
                text("UPDATE queue_entries SET available_at = 1 WHERE available_at IS NOT NULL")
            )

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job that runs."""
        control = JobControl(create_session_factory(self.engine))
        control.broadcaster = NoOpBroadcaster()
        control.cancel_job(job_id)

    def kept_attempts(self, job_id: str) -> list[dict[str, Any]]:
        """The rows of `job_attempts`."""
        with self.engine.connect() as connection:
            query = text(
                "SELECT job_attempts.* FROM job_attempts JOIN jobs ON jobs.id = entry_id "
                "WHERE job_id = :job_id ORDER BY job_attempts.id"
            )
            return [dict(row) for row in connection.execute(query, {"job_id": job_id}).mappings()]

    def wait_for_status(
        self, job_id: str, *statuses: str, timeout_seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        wait_until(
            lambda: self.row(job_id)["status"] in statuses,
            timeout_seconds,
            lambda: f"{self.row(job_id)}\n{self.logs()}",
        )
        return self.row(job_id)

    def wait_for_end(self, job_id: str) -> dict[str, Any]:
        return self.wait_for_status(job_id, "completed", "error", "cancelled")

    def signs(self, kind: str) -> list[int]:
        """The process ids that jobs have left under a name."""
        return [int(path.name.partition("-")[2]) for path in self.folder.glob(f"{kind}-*")]

    def wait_for_sign(self, kind: str = "running") -> int:
        """Return the process id of a job that says that it runs."""
        wait_until(lambda: self.signs(kind), explain=self.logs)
        return self.signs(kind)[0]

    def let_go_on(self) -> None:
        (self.folder / "go").touch()

    def output(self, job_id: str) -> list[str]:
        output = self.storage.get_output_path(job_id)
        return sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())

    def attempts(self, job_id: str) -> list[str]:
        return [str(p) for p in (self.storage.get_job_path(job_id) / "attempts").glob("*")]

    def logs(self) -> str:
        return "\n".join(worker.log_path.read_text()[-5000:] for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.engine.dispose()


def search_path(plugins: Path) -> str:
    """The processes' PYTHONPATH: plug-ins, and what the tests themselves are run with."""
    ours = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(plugins), str(PLUGINS), *([ours] if ours else [])])


def add_plugin(folder: Path, name: str, entry_point: str) -> None:
    """Make a distribution in a folder of the search path; it brings one module."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cl_ml_tools.tasks]\n{name} = {entry_point}\n")


@cache
def _migrated_database() -> bytes:
    """What the store's migrations make of an empty file; they need not run for each test."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "media_store.db"
        engine = create_database_engine(f"sqlite:///{path}", module=sqlite_module())
        migrate("store", engine)
        engine.dispose()
        return path.read_bytes()


@contextmanager
def workshop_in(
    directory: Path, *, migrated: bool = True, **environment: str
) -> Iterator[Workshop]:
    shop = Workshop(directory, migrated=migrated, **environment)
    try:
        yield shop
    finally:
        shop.close()


class WorkerProcess:
    """One `cl-server worker`."""

    def __init__(self, options: Sequence[str], environment: dict[str, str], log_path: Path) -> None:
        self.log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cl_server", "worker", *options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=log_path.parent,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log; what is no JSON as its own message."""
        lines = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"level": "PLAIN", "message": line})
        return lines

    def said(self, part: str) -> bool:
        return any(part in line["message"] for line in self.log())

    def wait_for_log(self, part: str, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        wait_until(
            lambda: self.said(part) or self.process.poll() is not None,
            timeout_seconds,
            self.log_path.read_text,
        )
        assert self.said(part), self.log_path.read_text()

    def children(self) -> list[int]:
        return descendants(self.pid)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_seconds: float = PATIENCE_SECONDS) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end\n{self.log_path.read_text()}") from None

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def assert_calm(self) -> None:
        """Nothing broke inside the worker itself."""
        broken = [line for line in self.log() if "exception" in line or line["level"] == "PLAIN"]
        assert broken == []

    def close(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Listener:
    """An MQTT client of its own that hears everything below one topic."""

    def __init__(self, port: int, topic: str) -> None:
        self.messages: list[tuple[str, str]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self.messages.append(
            (message.topic, message.payload.decode())
        )
        self._client.on_connect = lambda *_: self._client.subscribe(f"{topic}/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_SECONDS)

    def heard(self, topic: str) -> list[dict[str, Any]]:
        """What was published on a topic, but for empty messages."""
        return [json.loads(payload) for t, payload in list(self.messages) if t == topic and payload]

    def last(self, topic: str) -> str | None:
        """The last message on a topic; empty where the topic was emptied."""
        return next((payload for t, payload in reversed(self.messages) if t == topic), None)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and that live."""
    found: list[int] = []
    tree = [pid]
    for member in tree:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                tree += map(int, children.read_text().split())
            except OSError:
                continue
    found = [member for member in tree[1:] if is_alive(member)]
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(*pids: int, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    wait_until(
        lambda: not any(map(is_alive, pids)),
        timeout_seconds,
        lambda: f"still there: {[pid for pid in pids if is_alive(pid)]}",
    )


def wait_until(
    condition: Callable[[], Any],
    timeout_seconds: float = PATIENCE_SECONDS,
    explain: Callable[[], str] = str,
) -> None:
    give_up = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < give_up, explain() or "it did not happen in time"
        time.sleep(0.02)
