"""The process in which `run_compute_job` runs a module: whatever ends it is the attempt's outcome.

    parent ── job ──► child ── progress, outcome ──► parent

The child is forked before the parent opens the database, connects to the broker or starts a
thread: none of these outlives a fork. SQLite above all: a module may open the database itself, and
the library would believe that it holds the locks that are the parent's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Optional

from cl_ml_tools import ComputeModule, Job
from cl_ml_tools.executor import Outcome, execute
from cl_ml_tools.jobs import check_progress
from cl_ml_tools.protocols import FailureOutcome

__all__ = ["ModuleProcess", "Terminated", "raise_on_signals"]

# How often the parent looks whether the child is still there: a process that the module forked
# may keep the connection open beyond the child's end.
LOOK_SECONDS = 0.25

# How long a child that was told to end may take for what its module does then.
END_SECONDS = 2.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or Ctrl-C: no event loop and no module takes it for an error of the job."""


def raise_on_signals() -> None:
    """Have SIGTERM and Ctrl-C raise `Terminated`, once; a child that is forked has this as well."""
    told = False

    def terminate(_number: int, _frame: Any) -> None:
        nonlocal told
        if not told:  # what is done at the end is not interrupted
            told = True
            raise Terminated

    for each in _SIGNALS:  # asyncio's own handling waits for a module that blocks
        signal.signal(each, terminate)


class ModuleProcess:
    """A child process that runs one attempt, and ends with the `with` block.

    Args:
        module: What runs the job.

    Attributes:
        failure: What kind of failure it was, where the attempt failed.
    """

    def __init__(self, module: ComputeModule) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._started = False
        self.failure: FailureOutcome = "error"
        self._process = context.Process(
            target=_run_module, args=(module, theirs, self._connection), name="compute module"
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> ModuleProcess:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._end()

    def run(
        self,
        job: Job,
        *,
        job_path: Path,
        output_path: Path,
        timeout_seconds: float,
        on_look: Callable[[Optional[int]], None],
    ) -> Outcome:
        """Run one attempt; the process has ended when this returns or raises.

        Args:
            job: The job.
            job_path: Its workspace.
            output_path: The folder of this attempt.
            timeout_seconds: How long it may take.
            on_look: Called every now and then, with the last progress, 0 to 100, or `None`.

        Raises:
            Terminated: A signal ended the child, or this process.
            Exception: Whatever `on_look` raises.
        """
        try:
            self._started = True
            paths = {"job_path": str(job_path), "output_path": str(output_path)}
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                _send(self._connection, job=job.model_dump(mode="json"), **paths)
            outcome = self._listen(timeout_seconds, on_look)
        finally:
            self._end()
        if outcome is None:
            self.failure = "crash"
            return Outcome(ok=False, error=self._describe_end())
        return outcome

    def _listen(
        self, timeout_seconds: float, on_look: Callable[[Optional[int]], None]
    ) -> Optional[Outcome]:
        """Return the outcome, or `None` where the child ended without one."""
        give_up = time.monotonic() + timeout_seconds
        progress = None
        connection, process = self._connection, self._process
        # Asked once more after its end: it may have spoken in between.
        while (
            connection.poll(max(0.0, min(LOOK_SECONDS, give_up - time.monotonic())))
            or process.is_alive()
            or connection.poll()
        ):
            if connection.poll():
                try:
                    message = json.loads(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    process.join(END_SECONDS)
                    return None
                if "outcome" in message:
                    return Outcome(**message["outcome"])
                if "terminated" in message:
                    raise Terminated
                progress = message["progress"]
            elif time.monotonic() >= give_up:
                self.failure = "timeout"
                error = f"it took longer than the {timeout_seconds:g} seconds that it may take"
                return Outcome(ok=False, error=error)
            on_look(progress)
        return None

    def _end(self) -> None:
        """End the child: politely, so that a module's `finally` is run, then by force."""
        if self._started:
            self._process.terminate()
        else:
            self._connection.close()  # it waits for a job that will not come
        self._process.join(END_SECONDS)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _describe_end(self) -> str:
        code = self._process.exitcode or 0
        if code >= 0:
            return f"the module ended its process, with exit code {code}"
        names = {each.value: each.name for each in signal.Signals}
        return f"the module's process was killed by {names.get(-code, f'signal {-code}')}"


def _run_module(module: ComputeModule, connection: Connection, parents_end: Connection) -> None:
    """Run the one job that comes; this is the child."""
    parents_end.close()
    with contextlib.suppress(OSError):  # there is none; else multiprocessing took it away
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open as long as the process is there
    try:
        message = json.loads(connection.recv_bytes())
        threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
        outcome = _attempt(module, message, _Reporter(connection))
        for number in _SIGNALS:  # the outcome stands
            signal.signal(number, signal.SIG_IGN)
        _send(connection, outcome=asdict(outcome))
    except EOFError:
        return  # nothing is to be run
    except Terminated:
        _send(connection, terminated=True)


def _attempt(module: ComputeModule, message: dict[str, Any], report: _Reporter) -> Outcome:
    """Run the attempt; a module that ends its process, or cancels itself, has failed."""
    attempt = execute(
        module,
        Job.model_validate(message["job"]),
        job_path=Path(message["job_path"]),
        output_path=Path(message["output_path"]),
        progress_callback=report,
    )
    try:
        return asyncio.run(attempt)
    except SystemExit as error:
        return Outcome(ok=False, error=f"the module ended its process, with {error.code!r}")
    except asyncio.CancelledError:
        return Outcome(ok=False, error="the module cancelled itself")
    except Terminated:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever else `execute` lets out has failed, too
        return Outcome(ok=False, error=f"the module ended with {error!r}")


def _end_with_parent(connection: Connection) -> None:
    """End this process when the parent is gone: nobody would take its outcome."""
    connection.poll(None)
    os._exit(1)


class _Reporter:
    """The progress callback: tells the parent, nothing twice, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._last: Optional[int] = None

    def __call__(self, progress: int) -> None:
        check_progress(progress)
        with self._lock:
            if progress != self._last:
                self._last = progress
                _send(self._connection, progress=progress)


def _send(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())
