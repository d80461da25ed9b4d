"""What the chaos happens to: a store, eight workers, a broker and a database, all real."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

__all__ = ["LEASE_SECONDS", "Role", "Scene"]

LEASE_SECONDS = 3.0
WORKERS = 8
START_SECONDS = 60.0
ROOT = Path(__file__).parents[1]


class Role:
    """A process that is started again whenever it has ended.

    Args:
        name: What it is called, and its log.
        command: Its arguments.
        environment: All of its variables.
        log: Where it prints.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.starts = 0
        self._command = command
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 where it does not run."""
        return self._process.pid if self.runs and self._process is not None else 0

    @property
    def runs(self) -> bool:
        """Whether it runs, or is stopped and will go on."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; `None` where it has not."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Start it, in a session of its own."""
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill it, and what it started in its own group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def end(self, timeout_seconds: float) -> None:
        """Ask it to end, and kill it where it takes too long."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_seconds)
        self.kill()


class Scene:
    """Everything that runs, on a data directory of its own.

    Args:
        folder: Where data and logs are kept.
        database_url: What store, workers and adders use.

    Attributes:
        store_url: The store's address.
        workers: Eight, two of which share a `WORKER_ID`.
        acknowledged: The file of the ids that the library's adder was promised.
    """

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.acknowledged = folder / "acknowledged"
        self.acknowledged.touch()
        data = folder / "data"
        data.mkdir()
        store_port, broker_port = free_port(), free_port()
        self.store_url = f"http://127.0.0.1:{store_port}"
        plugins = folder / "plugins"
        make_plugin(plugins)
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join([str(plugins), str(ROOT), str(ROOT / "src")]),
            "CL_SERVER_DIR": str(data),
            "STORE_DATABASE_URL": database_url,
            "WORKER_DATABASE_URL": database_url,
            "STORE_PORT": str(store_port),
            "AUTH_DISABLED": "true",
            "BROADCAST_TYPE": "mqtt",
            "MQTT_BROKER": "127.0.0.1",
            "MQTT_PORT": str(broker_port),
            "MQTT_TOPIC": "chaos/events",
            "CAPABILITY_TOPIC_PREFIX": "chaos/workers",
            "WORKER_LEASE_SECONDS": str(LEASE_SECONDS),
            "WORKER_CONCURRENCY": "1",
            "WORKER_POLL_INTERVAL": "1",
        }
        self.broker = self._role("broker", "broker")
        self.store = self._role("store", "store")
        self.workers = [
            self._role(f"worker-{n}", "worker", "--tasks", "chaos", "--id", f"worker-{max(n, 1)}")
            for n in range(WORKERS)
        ]
        self.adder: Role | None = None

    @property
    def roles(self) -> list[Role]:
        """Every process that is kept running."""
        return [self.broker, self.store, *self.workers]

    def start(self) -> None:
        """Start everything, and return once the store answers."""
        self.broker.start()
        self.store.start()
        wait_until(self.store_answers, "the store answers")
        for worker in self.workers:
            worker.start()

    def start_adder(self, seconds: float) -> None:
        """Start the process that adds jobs through the library for some time."""
        command = [sys.executable, "-m", "chaos.adding", str(self.acknowledged), str(seconds)]
        self.adder = Role("adder", command, self.environment, self.folder / "adder.log")
        self.adder.start()

    def keep(self) -> None:
        """Start again what has ended."""
        for role in self.roles:
            if not role.runs:
                role.start()

    def store_answers(self) -> bool:
        """Return whether the store answers."""
        try:
            with urllib.request.urlopen(f"{self.store_url}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def end(self) -> None:
        """End everything."""
        for role in [*self.workers, self.store, self.broker, *([self.adder] if self.adder else [])]:
            role.end(10)

    def count_in_logs(self, text: str) -> int:
        """Return how often the workers logged something."""
        return sum(
            log.read_text(errors="replace").count(text) for log in self.folder.glob("worker-*.log")
        )

    def _role(self, name: str, *arguments: str) -> Role:
        command = [sys.executable, "-m", "cl_server", *arguments]
        return Role(name, command, self.environment, self.folder / f"{name}.log")


def make_plugin(folder: Path) -> None:
    """Make a distribution that brings the chaos's task."""
    info = folder / "chaos_tasks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cl_ml_tools.tasks]\nchaos = chaos.tasks:Chaos\n")


def free_port() -> int:
    """Return a port of loopback on which nothing listens.

    Below those that Linux gives to outgoing connections: what is killed has to get it again.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(
    condition: Callable[[], bool], what: str, timeout_seconds: float = START_SECONDS
) -> None:
    """Return once a condition holds; `TimeoutError` where it does not in time."""
    give_up = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not in {timeout_seconds:g} s: {what}")
        time.sleep(0.05)
