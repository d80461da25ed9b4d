"""One child process as the supervisor sees it: started, given jobs, killed with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_ml_tools.executor import Outcome
from cl_ml_tools.jobs import Job
from cl_server.logs import bind_log_context

from .messages import MAX_MESSAGE_BYTES, decode, encode
from .output import ChildOutput

__all__ = ["Child", "ChildEnded", "InstalledModules", "ModulesUnusable"]

# What modules print and log has a name of its own, so that it can be told from the worker's lines.
module_output = logging.getLogger("cl_server.worker.output")

# How long a child that was told to end may take for what its modules do at exit.
EXIT_SECONDS = 1.0

# After a child's end, what it last sent is in the socket; only a process that left its group
# and kept the socket could hold up the end of it.
LAST_WORDS_SECONDS = 1.0


class ChildEnded(Exception):
    """The process ended before it answered; the message is a sentence that says how."""


class ModulesUnusable(Exception):
    """The installed modules cannot be told apart; the message names two to choose from."""


@dataclass(frozen=True)
class InstalledModules:
    """What a child can run.

    Attributes:
        capabilities: The JSON Schema of the parameters per task type.
        broken: A sentence for each entry point that cannot be loaded.
    """

    capabilities: dict[str, dict[str, Any]]
    broken: list[str]


class Child:
    """A process that runs one job at a time, in a session and process group of its own.

    Used from the event loop's thread alone, and made by `spawn`.

    Attributes:
        task_types: The tasks that it ran: their modules are warm here.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
        output_descriptor: int,
        lifeline: int,
    ) -> None:
        self.task_types: set[str] = set()
        self._process = process
        self._connection = connection
        self._output = ChildOutput(output_descriptor, self._log_line)
        self._lifeline = lifeline
        self._job_id: str | None = None
        self._on_progress: Callable[[int], None] | None = None
        self._reason: str | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._ended = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    def spawn(cls, *, memory_bytes: int, log_level: str) -> Child:
        """Start a child.

        Args:
            memory_bytes: How much memory a job may hold.
            log_level: From which level on its modules' log lines are wanted.

        Raises:
            ChildEnded: The system has no room for another process.
        """
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        lifeline, our_lifeline = os.pipe()
        arguments = [str(theirs.fileno()), str(lifeline), str(memory_bytes), log_level]
        with theirs, os.fdopen(writing, "wb") as output, os.fdopen(lifeline, "rb"):
            try:
                process = subprocess.Popen(
                    # -P: a file in the current folder never takes the place of a module.
                    [sys.executable, "-P", "-m", "cl_server.worker.child", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno(), lifeline],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                os.close(reading)
                os.close(our_lifeline)
                raise ChildEnded(f"no process can be started: {error}") from error
        return cls(process, ours, reading, our_lifeline)

    @property
    def pid(self) -> int:
        """The process's id, which is its group's, too."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still be given a job."""
        return self._ending is None and self._reason is None

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._ended.is_set()

    @property
    def job_output(self) -> str:
        """The last 64 KiB of what it printed and logged since its last job began."""
        return self._output.kept

    async def wait_ready(self) -> None:
        """Open the connection and wait until the process has loaded the modules.

        Raises:
            ChildEnded: It ended while it did.
            ModulesUnusable: Two distributions serve one task type.
        """
        reader, self._writer = await asyncio.open_unix_connection(
            sock=self._connection, limit=MAX_MESSAGE_BYTES
        )
        self._listening = asyncio.create_task(self._take_messages(reader))
        asyncio.get_running_loop().add_reader(self._output.descriptor, self._read_output)
        self.look_whether_ended()  # its SIGCHLD may have come too early
        await self._ready

    async def wait_ended(self) -> None:
        """Wait until the process is gone."""
        await self._ended.wait()

    async def describe(self) -> InstalledModules:
        """Return what is installed.

        Raises:
            ChildEnded: It ended instead of answering.
        """
        answer = await self._ask(encode("describe"))
        return InstalledModules(answer["capabilities"], answer["broken"])

    def run(
        self, job: Job, *, attempt: int, job_path: Path, on_progress: Callable[[int], None]
    ) -> Awaitable[Outcome]:
        """Have one attempt of a job begin, at once; what is returned waits for its outcome.

        Args:
            job: The job.
            attempt: The attempt's number.
            job_path: The job's workspace.
            on_progress: Takes 0 to 100, as often as the module reports.

        Raises:
            ChildEnded: By what is returned: it ended, or was killed, before the module had answered.
        """
        self._job_id, self._on_progress = job.job_id, on_progress
        self._output.start_job()
        self.task_types.add(job.task_type)
        fields = {"job": dict(job), "job_path": str(job_path), "attempt": attempt}
        return self._outcome(self._ask(encode("job", **fields)))

    def extend_lease(self, until: float) -> None:
        """Say until when (`time.monotonic`, one clock for all processes) a job may go on."""
        self._send(encode("lease", until=until))

    def kill(self, reason: str) -> None:
        """Kill the process and its group, now.

        Args:
            reason: A sentence that becomes the job's error; the first one given stays.
        """
        if self._reason is None:
            self._reason = reason
        self._kill_group()

    async def stop(self) -> None:
        """Let an idle child end, and kill it where it takes long."""
        if self._listening is None:  # started a moment ago, and never spoken to
            self._kill_group()
            self._process.wait()
            self._output.close()
            self._connection.close()
            os.close(self._lifeline)
            return
        self._send(encode("exit"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_SECONDS):
                await self._ended.wait()
        self.kill("the worker ended it")
        await self._ended.wait()

    def look_whether_ended(self) -> None:
        """Collect the process if it has ended; called for every SIGCHLD."""
        connected = self._listening is not None
        if connected and self._ending is None and self._process.poll() is not None:
            self._ending = asyncio.create_task(self._end())

    async def _take_messages(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                self._take(decode(line))
        except ConnectionError:
            return
        except ValueError as error:
            self.kill(f"the process broke its connection to the worker: {error}")

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if not self._ready.done():
            if kind == "ready":
                self._ready.set_result(None)
            elif kind == "unusable":
                self._ready.set_exception(ModulesUnusable(message["error"]))
        elif kind == "progress":
            if message["job_id"] == self._job_id and self._on_progress is not None:
                self._on_progress(message["progress"])
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    async def _outcome(self, answer: Awaitable[dict[str, Any]]) -> Outcome:
        try:
            return Outcome(**(await answer)["outcome"])
        finally:
            self._output.drain()
            self._job_id = self._on_progress = None

    def _ask(self, message: bytes) -> Awaitable[dict[str, Any]]:
        self._answer = asyncio.get_running_loop().create_future()
        if self._ending is not None:
            self._answer.set_exception(ChildEnded(self._describe_end()))
        self._send(message)
        return self._answer

    def _send(self, message: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(message)

    async def _end(self) -> None:
        """Take in what the process said last, end what it left behind, and wake who waits."""
        self._kill_group()
        assert self._listening is not None and self._writer is not None
        await asyncio.wait([self._listening], timeout=LAST_WORDS_SECONDS)
        self._listening.cancel()
        self._output.drain()
        asyncio.get_running_loop().remove_reader(self._output.descriptor)
        self._output.close()
        self._writer.close()
        os.close(self._lifeline)
        error = ChildEnded(self._describe_end())
        for waiting in (self._ready, self._answer):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # seen: perhaps nobody waits
        self._ended.set()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _describe_end(self) -> str:
        if self._reason is not None:
            return self._reason
        code = self._process.returncode
        if code >= 0:
            how = f"the process ended in the middle, with exit code {code}"
        elif -code in set(signal.Signals):
            how = f"the process was killed by {signal.Signals(-code).name}"
        else:
            how = f"the process was killed by signal {-code}"
        return f"{how}; its last output: {self._output.tail}" if self._output.tail else how

    def _read_output(self) -> None:
        self._output.read()
        if self._output.ended:
            asyncio.get_running_loop().remove_reader(self._output.descriptor)

    def _log_line(self, line: str) -> None:
        ids = {"job_id": self._job_id} if self._job_id is not None else {}
        with bind_log_context(**ids):
            module_output.info("%s", line)
