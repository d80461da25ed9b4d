"""What runs inside a worker's child process: it loads the modules once and runs one job at a time.

    python -m cl_server.worker.child SOCKET_FD LIFELINE_FD MEMORY_BYTES LOG_LEVEL

The main thread runs the jobs, as a module's author would expect. The watchdog thread listens to
the supervisor, and ends this process with all that it started when the supervisor is gone, or
when the lease under which the job runs can no longer be relied on. A module that holds Python's
global lock keeps it from running: for that the system and a thread in C stand behind it. No
database and no broker is imported here.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from cl_ml_tools.errors import DuplicateTask, UnknownTask
from cl_ml_tools.executor import Outcome, execute
from cl_ml_tools.jobs import Job, check_progress
from cl_ml_tools.registry import InstalledTasks, find_tasks
from cl_ml_tools.workspace import start_attempt

from .messages import MAX_OUTPUT_BYTES, decode, encode

__all__ = ["main"]

READ_BYTES = 64 * 1024

# The supervisor looks at what is really held, but only every so often. This limit holds between
# two looks; it counts what is reserved, too, which for many threads is far more than is used.
RESERVED_PER_HELD_BYTE = 2

# The watchdog is first: it ends the processes that a module has started, too.
BEHIND_WATCHDOG_SECONDS = 0.25


class Watchdog:
    """Listens to the supervisor and holds the job to its lease.

    Args:
        connection: The socket to the supervisor.
        deliver: Takes each message for the main thread.
    """

    def __init__(
        self, connection: socket.socket, deliver: Callable[[dict[str, Any]], None]
    ) -> None:
        self._connection = connection
        self._deliver = deliver
        self._lease_until = float("inf")
        self._working = threading.Event()
        self._standing = threading.Lock()
        self._nowhere = os.open(os.devnull, os.O_WRONLY)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def job_ended(self) -> None:
        """Say that nothing runs now that a lost lease would have to end."""
        self._working.clear()
        self._stand_behind()

    def _watch(self) -> None:
        rest = b""
        while True:
            if not select.select([self._connection], [], [], self._patience_seconds())[0]:
                continue
            chunk = self._connection.recv(READ_BYTES)
            if not chunk:
                end_process_group()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(decode(line))

    def _take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "lease":
            self._lease_until = message["until"]
            self._stand_behind()
            return
        if message["kind"] == "job":
            self._working.set()
            self._stand_behind()  # before it begins: a module may keep this thread from running
        self._deliver(message)

    def _stand_behind(self) -> None:
        """Have this process end with the lease also where no thread of Python's can run.

        Where it was does not matter, and a frozen supervisor reads no output: writing would wait.
        """
        with self._standing:
            faulthandler.cancel_dump_traceback_later()
            if self._working.is_set() and self._lease_until < float("inf"):
                left = max(0.0, self._lease_until - time.monotonic()) + BEHIND_WATCHDOG_SECONDS
                faulthandler.dump_traceback_later(left, file=self._nowhere, exit=True)

    def _patience_seconds(self) -> float | None:
        """Return how long the lease is good for; an idle child has none to lose."""
        if not self._working.is_set() or self._lease_until == float("inf"):
            return None
        left = self._lease_until - time.monotonic()
        if left <= 0:
            end_process_group()
        return left


class Supervisor:
    """The supervisor, as the main thread speaks to it.

    Args:
        connection: The socket to it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # a module may report its progress from any thread

    def tell(self, kind: str, **fields: Any) -> None:
        """Send one message; without anyone who listens this process ends."""
        self.send(encode(kind, **fields))

    def send(self, message: bytes) -> None:
        """Send a message that is encoded already."""
        with self._lock:
            try:
                self._connection.sendall(message)
            except (BrokenPipeError, ConnectionResetError):
                end_process_group()


def main() -> None:
    """Run jobs until the supervisor says that it is over."""
    descriptor, lifeline, memory_bytes, log_level = sys.argv[1:]
    die_with_supervisor(int(lifeline))
    limit_resources(int(memory_bytes))
    ignore_polite_signals()
    prepare_output(log_level)
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    supervisor = Supervisor(connection)
    inbox: SimpleQueue[dict[str, Any]] = SimpleQueue()
    watchdog = Watchdog(connection, inbox.put)
    watchdog.start()
    try:
        tasks = find_tasks()
    except DuplicateTask as error:
        supervisor.tell("unusable", error=str(error))
        return
    supervisor.tell("ready")
    with asyncio.Runner() as runner:  # one loop for all jobs: a module may keep what is bound to it
        for message in iter(inbox.get, {"kind": "exit"}):
            if message["kind"] == "describe":
                supervisor.tell("described", **describe(tasks))
            else:
                outcome = run_job(runner, tasks, message, supervisor)
                sys.stdout.flush()
                sys.stderr.flush()
                watchdog.job_ended()
                tell_outcome(supervisor, outcome, message["job"]["job_id"])


def describe(tasks: InstalledTasks) -> dict[str, Any]:
    """Return what is installed: each task's parameters as JSON Schema, and what is broken."""
    return {
        "capabilities": {
            name: task.module.params_model(name).model_json_schema()
            for name, task in tasks.by_type.items()
        },
        "broken": [str(error) for error in tasks.broken],
    }


def run_job(
    runner: asyncio.Runner,
    tasks: InstalledTasks,
    message: dict[str, Any],
    supervisor: Supervisor,
) -> Outcome:
    """Run one attempt of the job in a message and return how it ended."""
    job = Job.model_validate(message["job"])
    try:
        module = tasks[job.task_type].module
    except UnknownTask as error:
        return Outcome(ok=False, error=str(error), retryable=False)
    job_path = Path(message["job_path"])
    try:
        output_path = start_attempt(job_path, message["attempt"])
    except OSError as error:
        return Outcome(ok=False, error=f"the attempt's folder cannot be made: {error}")
    outcome = runner.run(
        execute(
            module,
            job,
            job_path=job_path,
            output_path=output_path,
            progress_callback=progress_reporter(supervisor, job.job_id),
        )
    )
    if outcome.traceback and outcome.error and outcome.error.startswith("MemoryError"):
        return replace(outcome, error=f"{outcome.error}: see WORKER_JOB_MEMORY_BYTES")
    return outcome


def progress_reporter(supervisor: Supervisor, job_id: str) -> Callable[[int], None]:
    """Return the callback that a module tells its progress; it says nothing twice."""
    last = -1

    def report(progress: int) -> None:
        nonlocal last
        check_progress(progress)
        if progress != last:
            last = progress
            supervisor.tell("progress", job_id=job_id, progress=progress)

    return report


def tell_outcome(supervisor: Supervisor, outcome: Outcome, job_id: str) -> None:
    """Send how a job ended; a result that is too large makes it a failure for good."""
    message = encode("outcome", job_id=job_id, outcome=asdict(outcome))
    if len(message) > MAX_OUTPUT_BYTES:
        error = (
            f"the module returned {len(message)} bytes of task_output and may return "
            f"{MAX_OUTPUT_BYTES}: write what is large to a file of the job's output"
        )
        refused = Outcome(ok=False, error=error, retryable=False)
        message = encode("outcome", job_id=job_id, outcome=asdict(refused))
    supervisor.send(message)


def die_with_supervisor(lifeline: int) -> None:
    """Have Linux kill this process's group when the supervisor's end of a pipe is closed.

    The watchdog does so as well, but no thread runs while a module holds Python's global lock.
    """
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


def limit_resources(memory_bytes: int) -> None:
    """Leave no core files, and refuse memory far beyond what a job may hold."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = memory_bytes * RESERVED_PER_HELD_BYTE
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def ignore_polite_signals() -> None:
    """Leave the end to the supervisor, also where systemd sends SIGTERM to the whole group.

    A handler that does nothing, not `SIG_IGN`, which programs that a module starts would inherit.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)


def prepare_output(log_level: str) -> None:
    """Send what a module prints and logs to the supervisor, line by line."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    logging.basicConfig(level=log_level, format="%(levelname)s %(name)s: %(message)s")


def end_process_group() -> NoReturn:
    """Kill this process and all that it started and that stayed in its group."""
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL cannot be caught")


if __name__ == "__main__":
    main()
