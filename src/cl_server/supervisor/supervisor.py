"""`Supervisor`: starts children, starts again what dies, and ends them all in time.

    stage 1 ──ready──► stage 2 ──ready──► ...        SIGTERM: the last stage first
        a child that dies ──1, 2, 4 ... 30 s──► is started again

Threads wait for the children and read what they report. All state belongs to the thread that
calls `run`; the others put what they found into its inbox, as a call for it to make.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

__all__ = ["ChildSpec", "Supervisor"]

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_SECONDS = 60.0

# How long a stage may keep the next one waiting: without a broker, say, the rest works as well.
STAGE_SECONDS = 5.0

# All is over within 10 s: the worker needs 7, and what everybody needs ends after it.
STOP_SECONDS = 8.0
LAST_STAGE_STOP_SECONDS = 1.0
KILL_SECONDS = 0.5

# A command's exit code for what starting it again cannot change: a port in use, a wrong setting.
REFUSED = 2


@dataclass(frozen=True)
class ChildSpec:
    """A child to keep running.

    Attributes:
        name: What to call it in messages; unique.
        arguments: Of `cl-server`.
        environment: Variables on top of this process's own.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class _Child:
    """A child and how it fares."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_again_at: float | None = None
        self.delay_seconds = FIRST_DELAY_SECONDS
        self.has_been_ready = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone; one that kills, to its whole group."""
        if self.process is not None:
            _signal_group(self.process.pid, number, only_leader=number != signal.SIGKILL)


class Supervisor:
    """Keeps children running until a signal comes.

    Args:
        stages: The children; a stage is started once the one before it is ready, and stopped
            before it.
        say: Shows one line to people.
        on_report: Called with a child's name and what it reports.
        on_ready: Called once, when each child has been ready.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[ChildSpec]],
        *,
        say: Callable[[str], None],
        on_report: Callable[[str, dict[str, Any]], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._stages = [[_Child(spec) for spec in stage] for stage in stages if stage]
        self._waiting_stages = list(self._stages)
        self._next_stage_at = 0.0
        self._say = say
        self._on_report = on_report
        self._on_ready: Callable[[], None] | None = on_ready
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._exit_code = 0
        self._lifeline = (-1, -1)
        self._reports = (-1, -1)

    def run(self) -> int:
        """Start all, and return once a signal has ended all.

        Returns:
            The exit code: 0, or 2 where a child refused to start.
        """
        with self._pipes(), self._signals():
            try:
                while not self._stopping:
                    self._start_due()
                    self._handle_next(self._next_due())
            finally:
                self._stop_all()
        return self._exit_code

    @property
    def _children(self) -> list[_Child]:
        return [child for stage in self._stages for child in stage]

    # Starting

    def _start_due(self) -> None:
        now = time.monotonic()
        started = [stage for stage in self._stages if stage not in self._waiting_stages]
        is_ready = all(child.has_been_ready for stage in started for child in stage)
        if self._waiting_stages and (is_ready or now >= self._next_stage_at):
            self._next_stage_at = now + STAGE_SECONDS
            for child in self._waiting_stages.pop(0):
                self._start(child)
        for child in self._children:
            if child.start_again_at is not None and now >= child.start_again_at:
                self._start(child)

    def _next_due(self) -> float | None:
        """Return when there is something to do without anything happening before."""
        times = [child.start_again_at for child in self._children if child.start_again_at]
        if self._waiting_stages:
            times.append(self._next_stage_at)
        return min(times, default=None)

    def _start(self, child: _Child) -> None:
        child.start_again_at = None
        child.started_at = time.monotonic()
        lifeline, reports = self._lifeline[0], self._reports[1]
        command = [sys.executable, "-m", "cl_server.supervisor.child", child.spec.name]
        child.process = subprocess.Popen(
            [*command, str(lifeline), str(reports), *child.spec.arguments],
            env={**os.environ, **child.spec.environment},
            stdin=subprocess.DEVNULL,
            pass_fds=(lifeline, reports),
            start_new_session=True,  # Ctrl-C is this process's to answer
        )
        threading.Thread(target=self._wait, args=(child, child.process), daemon=True).start()

    def _wait(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        exit_code = process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # what it left behind
        self._inbox.put(partial(self._ended, child, exit_code))

    def _ended(self, child: _Child, exit_code: int) -> None:
        child.process = None
        if self._stopping:
            return
        if exit_code == REFUSED and not child.has_been_ready:
            self._exit_code = REFUSED  # it has said why
            self._stopping = True
            return
        now = time.monotonic()
        if now - child.started_at >= HEALTHY_SECONDS:
            child.delay_seconds = FIRST_DELAY_SECONDS
        delay = child.delay_seconds
        child.start_again_at = now + delay
        child.delay_seconds = min(2 * delay, LONGEST_DELAY_SECONDS)
        self._say(
            f"the {child.spec.name} {_describe_end(exit_code)}; it starts again in {delay:.0f} s"
        )

    # Hearing

    def _handle_next(self, until: float | None) -> None:
        """Make the next call that comes in, if one does before `until` (monotonic)."""
        timeout = None if until is None else max(until - time.monotonic(), 0)
        try:
            call = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return
        call()

    def _read_reports(self) -> None:
        with os.fdopen(os.dup(self._reports[0]), "rb") as lines:
            for line in lines:
                facts = json.loads(line)
                self._inbox.put(partial(self._reported, facts.pop("child"), facts))

    def _reported(self, name: str, facts: dict[str, Any]) -> None:
        child = next(child for child in self._children if child.spec.name == name)
        child.has_been_ready = child.has_been_ready or bool(facts.get("ready"))
        self._on_report(name, facts)
        if self._on_ready is not None and all(each.has_been_ready for each in self._children):
            call, self._on_ready = self._on_ready, None
            call()

    @contextmanager
    def _pipes(self) -> Iterator[None]:
        self._lifeline, self._reports = os.pipe(), os.pipe()
        threading.Thread(target=self._read_reports, daemon=True).start()
        try:
            yield
        finally:
            for descriptor in (*self._lifeline, *self._reports):
                os.close(descriptor)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Hear signals through a pipe.

        Python calls a handler between two steps of this thread. For one that comes just as it goes
        to sleep that is never; the pipe is written to at once.
        """
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        threading.Thread(target=self._read_signals, args=(reading,), daemon=True).start()
        wakeup_before = signal.set_wakeup_fd(writing)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)
            os.close(writing)

    def _read_signals(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as numbers:
            while numbers.read(1):
                self._inbox.put(self._interrupted)

    # Stopping

    def _interrupted(self) -> None:
        if self._stopping:
            for child in self._children:
                child.signal(signal.SIGKILL)
        self._stopping = True

    def _stop_all(self) -> None:
        self._stopping = True
        seconds = STOP_SECONDS
        for stage in reversed(self._stages):
            for child in stage:
                child.signal(signal.SIGTERM)
            self._await_end(stage, seconds)
            for child in stage:
                child.signal(signal.SIGKILL)
            self._await_end(stage, KILL_SECONDS)
            seconds = LAST_STAGE_STOP_SECONDS

    def _await_end(self, stage: Sequence[_Child], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(child.process for child in stage) and time.monotonic() < deadline:
            self._handle_next(deadline)


def _signal_group(pid: int, number: signal.Signals, *, only_leader: bool = False) -> None:
    with suppress(ProcessLookupError):
        if only_leader:
            os.kill(pid, number)
        else:
            os.killpg(pid, number)


def _describe_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended (exit code {exit_code})"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"was ended by signal {-exit_code}"
