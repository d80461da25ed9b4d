"""How long starting takes: imports, the command line, the whole server; beside an idle Python."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

_IMPORTS = (
    "from cl_server_shared import (Config, FileStorageService, Job, QueueEntry, "
    "SQLAlchemyJobRepository, run_compute_job)"
)

_COMMAND_LINE = Path(sys.executable).with_name("cl-server")

# What is started, over and over, each beside the others.
_COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import sqlalchemy.orm, pydantic": [sys.executable, "-c", "import sqlalchemy.orm, pydantic"],
    "import cl_server_shared": [sys.executable, "-c", "import cl_server_shared"],
    # Its names are imported at their first use (docs/decisions/0006): this is all of them.
    "every public name of cl_server_shared": [sys.executable, "-c", _IMPORTS],
    "cl-server --help": [str(_COMMAND_LINE), "--help"],
}

_READY_SECONDS = 30
_STOP_SECONDS = 15


@dataclass(frozen=True)
class Startup:
    """How long starting something took.

    Attributes:
        name: What was started.
        milliseconds: Of each run; empty where it did not work.
        problem: Why it did not.
    """

    name: str
    milliseconds: list[float]
    problem: str | None = None

    @property
    def median_ms(self) -> float:
        """The median of the runs, in milliseconds."""
        return median(self.milliseconds)


def measure_startup(rounds: int) -> list[Startup]:
    """Measure how long each command takes from its start to its end, interleaved.

    Args:
        rounds: How often each is run, after one run that does not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    problems: dict[str, str] = {}
    for number in range(rounds + 1):
        for name, command in _COMMANDS.items():
            if name in problems:
                continue
            started = time.perf_counter()
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                problems[name] = f"it failed: {error.__class__.__name__}"
            if number:
                taken[name].append(1000 * (time.perf_counter() - started))
    return [
        Startup(name, [] if name in problems else taken[name], problems.get(name))
        for name in _COMMANDS
    ]


def measure_up(rounds: int) -> Startup:
    """Measure how long `cl-server up` takes until the store says that it is ready.

    Each run but the first finds its databases made, as a user's does.

    Args:
        rounds: How often it is started, after one start that does not count.
    """
    name = "cl-server up, until ready"
    with TemporaryDirectory(prefix="cl-bench-") as folder:
        try:
            taken = [_start_and_stop(folder) for _ in range(rounds + 1)]
        except OSError as error:
            return Startup(name, [], str(error) if isinstance(error, _NotReady) else "not started")
    return Startup(name, taken[1:])


class _NotReady(OSError):
    """The server did not come up; says why."""


def _start_and_stop(folder: str) -> float:
    started = time.perf_counter()
    with running_up(folder):
        return 1000 * (time.perf_counter() - started)


@contextmanager
def running_up(folder: str, *options: str) -> Iterator[int]:
    """Run `cl-server up`; yield its process id once it is ready.

    Args:
        folder: Where everything is kept.
        options: Further ones of its own.

    Raises:
        OSError: It was not started, or did not come up; says why.
    """
    auth_port, store_port, mqtt_port = _free_ports(3)
    environment = {**os.environ, "MQTT_PORT": str(mqtt_port), "CL_USER_CONFIG_DIR": folder}
    environment.pop("BROADCAST_TYPE", None)
    ports = ["--auth-port", str(auth_port), "--store-port", str(store_port)]
    started = time.perf_counter()
    server = subprocess.Popen(
        [str(_COMMAND_LINE), "up", "--dir", folder, *ports, *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for url in (f"http://127.0.0.1:{store_port}/readyz", f"http://127.0.0.1:{auth_port}/"):
            _wait_until_ready(server, url, started + _READY_SECONDS)
        yield server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, give_up: float) -> None:
    while time.perf_counter() < give_up:
        if server.poll() is not None:
            raise _NotReady(f"it ended with exit code {server.returncode}")
        with suppress(URLError, ConnectionError, TimeoutError):
            with urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        time.sleep(0.01)
    raise _NotReady(f"it was not ready within {_READY_SECONDS} s")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
