"""A real `cl-server up` for the tests of the client and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cl_server.client import Client
from cl_server.client.local_server import read_local_server
from cl_server_shared.config import Config
from ports import free_port

PASSWORD = "correct horse"
START_SECONDS = 40.0

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
LIGHTHOUSE, LAKE = PHOTOS / "lighthouse.jpg", PHOTOS / "mountain_lake.jpg"


@dataclass
class Stack:
    """A server that runs, and the environment in which the commands find it."""

    auth_url: str
    store_url: str
    environment: dict[str, str]
    directory: Path

    def client(self) -> Client:
        client = Client(self.store_url, self.auth_url)
        client.sign_in("admin", PASSWORD)
        return client

    def command(
        self, *arguments: str | Path, cwd: Path, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        every = {**self.environment, **environment}
        return run_command(*arguments, environment=every, cwd=cwd, stdin=stdin)


def run_command(
    *arguments: str | Path, environment: dict[str, str], cwd: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cl_server", *map(str, arguments)],
        env=environment,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def plain_environment(directory: Path) -> dict[str, str]:
    """This process's environment without what names a server, and with a config directory."""
    left_out = {*Config.settings(), "FORCE_COLOR", "COLUMNS"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "XDG_CONFIG_HOME": str(directory / "config"), "HOME": str(directory)}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    """`cl-server up`, on free ports, in directories of its own, without a broker."""
    auth_port, store_port = free_port(), free_port()
    environment = {
        **plain_environment(directory),
        "AUTH_PORT": str(auth_port),
        "STORE_PORT": str(store_port),
        "ADMIN_PASSWORD": PASSWORD,
        "BROADCAST_TYPE": "none",
        "CAPABILITY_CACHE_TIMEOUT": "0",
    }
    stack = Stack(
        f"http://127.0.0.1:{auth_port}", f"http://127.0.0.1:{store_port}", environment, directory
    )
    log_path = directory / "up.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cl_server", "up", "--dir", str(directory / "data")],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_ready(stack, process, log_path)
            yield stack
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(stack: Stack, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    config_dir = Path(stack.environment["XDG_CONFIG_HOME"]) / "cl-server"
    while read_local_server(config_dir) is None or not _has_workers(stack):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _has_workers(stack: Stack) -> bool:
    with urllib.request.urlopen(f"{stack.store_url}/compute/capabilities", timeout=5) as answer:
        return bool(json.load(answer)["num_workers"])
