"""A real `cl-server up` of a test's own, and a look at every process that belongs to it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ports import free_port

WAIT_SECONDS = 60
MARK = "CL_TEST_MARK"


class Up:
    """`cl-server up`, as a person starts it; its processes are known by a mark that they inherit."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.directory = folder / "data"
        self.config_dir = folder / "config"
        self.auth_port, self.store_port = free_port(), free_port()
        self.mqtt_port = int(environment.get("MQTT_PORT", free_port()))
        self.mark = uuid.uuid4().hex
        self.environment = {
            **os.environ,
            "BROADCAST_TYPE": "mqtt",
            "CL_USER_CONFIG_DIR": str(self.config_dir),
            "MQTT_PORT": str(self.mqtt_port),
            "WORKER_CONCURRENCY": "1",
            **environment,
            MARK: self.mark,
        }
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        # As in a terminal: under nohup the tests ignore SIGHUP, and so would what they start.
        as_in_terminal = ["env", "--default-signal=HUP"]
        self.process = subprocess.Popen(
            [*as_in_terminal, sys.executable, "-m", "cl_server", "up", *self.options, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout and self.process.stderr
        for stream, kept in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=self._read, args=(stream, kept), daemon=True).start()

    @property
    def options(self) -> list[str]:
        ports = ["--auth-port", str(self.auth_port), "--store-port", str(self.store_port)]
        return ["--dir", str(self.directory), *ports]

    def _read(self, stream: Any, kept: list[str]) -> None:
        with stream:
            for line in stream:
                kept.append(line.rstrip("\n"))
                self._arrived.put(kept[-1])

    def wait_for_line(self, part: str) -> str:
        """Return the next line, of either stream, that has this in it."""
        give_up = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                line = self._arrived.get(timeout=max(give_up - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"no {part!r} in {self.lines} {self.errors}") from None
            if part in line:
                return line

    def wait_until_ready(self) -> Up:
        self.wait_for_line("CL_SERVER_DIR=")
        return self

    def note(self) -> dict[str, Any]:
        """What `up` tells the command line."""
        note: dict[str, Any] = json.loads((self.config_dir / "local-server.json").read_text())
        return note

    def pids(self) -> set[int]:
        """Return every process that carries the mark, and is not a zombie."""
        return {int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_ours(entry)}

    def pid_of(self, child: str) -> int:
        """Return the process id of a child, as the supervisor names it."""
        wanted = f"cl_server.supervisor.child\0{child}\0"
        for pid in self.pids():
            try:
                if wanted in Path(f"/proc/{pid}/cmdline").read_text():
                    return pid
            except (FileNotFoundError, ProcessLookupError):
                continue
        raise LookupError(child)

    def _is_ours(self, entry: Path) -> bool:
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return f"{MARK}={self.mark}".encode() in environment and state != "Z"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to `up` alone, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        """End whatever is left, for a test that failed half-way."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once a condition holds."""
    give_up = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.05)
