"""What `cl-server run` shows: lines that move on a terminal, else a line for each file."""

from __future__ import annotations

import json
import sys
import time
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cl_server.client.run import Run

__all__ = ["LiveDisplay", "PlainDisplay", "RunDisplay", "SilentDisplay"]

# A line of progress for a log, no more often than this.
PLAIN_PAUSE_SECONDS = 5.0

MAX_NAME = 40

DOING = {"sending": "sending", "processing": "", "fetching": "saving"}


class RunDisplay(Protocol):
    """Shows each change of a run."""

    def changed(self, run: Run) -> None:
        """Show a run that changed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class SilentDisplay:
    """Shows nothing: the JSON document says all in the end."""

    def changed(self, run: Run) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class PlainDisplay:
    """A line when a file is done; for a long job one now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._finished = 0
        self._shown_at: dict[Run, float] = {}

    def changed(self, run: Run) -> None:
        """Print a line where there is something to say."""
        if run.is_finished:
            self._finished += 1
            where = sys.stderr if run.error else sys.stdout
            print(f"[{self._finished}/{self._total}] {_outcome(run)}", file=where, flush=True)
        elif run.state == "processing" and self._is_time_for(run):
            print(f"{run.name}: {run.progress:.0f}%", flush=True)

    def close(self) -> None:
        """Do nothing: each line is out already."""

    def _is_time_for(self, run: Run) -> bool:
        now = time.monotonic()
        if now - self._shown_at.setdefault(run, now) < PLAIN_PAUSE_SECONDS:
            return False
        self._shown_at[run] = now
        return True


class LiveDisplay:
    """A bar for all, one for each run that is under way, and the finished ones as lines above."""

    def __init__(self, task_type: str, total: int) -> None:
        self._bars: dict[Run, TaskID] = {}
        self._console = Console(highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[doing]}"),
            console=self._console,
            transient=True,
        )
        self._total = total
        self._all = self._progress.add_task(
            f"[bold]{task_type}", total=total, amount=f"0/{total}", doing=""
        )
        self._finished = 0
        self._queued: set[Run] = set()
        self._progress.start()

    def changed(self, run: Run) -> None:
        """Move the bars."""
        if run.state == "queued":
            self._queued.add(run)
        else:
            self._queued.discard(run)
        waiting = f"{len(self._queued)} waiting" if self._queued else ""
        self._progress.update(self._all, doing=waiting)
        if run.is_finished:
            self._finish(run)
        elif run.state in DOING:
            self._move(run)
        elif run in self._bars:  # back in the queue
            self._progress.remove_task(self._bars.pop(run))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def _move(self, run: Run) -> None:
        if run not in self._bars:
            self._bars[run] = self._progress.add_task(_shorten(run), total=100, amount="", doing="")
        is_counted = run.state == "processing"
        self._progress.update(
            self._bars[run],
            completed=run.progress if is_counted else 0 if run.state == "sending" else 100,
            amount=f"{run.progress:3.0f}%" if is_counted else "",
            doing=DOING[run.state],
        )

    def _finish(self, run: Run) -> None:
        if run in self._bars:
            self._progress.remove_task(self._bars.pop(run))
        self._finished += 1
        self._progress.update(
            self._all, completed=self._finished, amount=f"{self._finished}/{self._total}"
        )
        count = Text(f"[{self._finished}/{self._total}] ", style="red" if run.error else "green")
        self._console.print(count + Text(_outcome(run)), soft_wrap=True)


def _outcome(run: Run) -> str:
    if run.error:
        return f"{run.name}: {run.error}"
    if run.results:
        return f"{run.name} → {', '.join(str(path) for path in run.results)}"
    output = run.job["task_output"] if run.job else None
    return f"{run.name}: {json.dumps(output or {}, ensure_ascii=False)}"


def _shorten(run: Run) -> str:
    """Return what a bar is called, as markup; the end is kept of what is too long."""
    more = f" and {len(run.inputs) - 1} more" if len(run.inputs) > 1 else ""
    name = run.inputs[0].name + more
    return escape(name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}")
