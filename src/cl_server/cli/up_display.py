"""What `cl-server up` shows: colours and a moving bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cl_server.cli.addresses import LocalAddresses

__all__ = ["ProgressBars", "UpDisplay"]

# A line of progress for a log, no more often than this.
PLAIN_PAUSE_SECONDS = 2.0


class UpDisplay:
    """Standard output for what a person wants to know, standard error for what went wrong."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, soft_wrap=True, markup=False)
        self._err = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)

    def say(self, line: str) -> None:
        """Print a line."""
        self._print(self._out, line)

    def warn(self, line: str) -> None:
        """Print a line about something that went wrong."""
        self._print(self._err, f"cl-server: {line}", style="yellow")

    def show_server(self, addresses: LocalAddresses, server_dir: Path) -> None:
        """Say that all is ready, and where; in a form that a shell reads."""
        self._print(self._out, "CL Server is ready (Ctrl-C stops it):", style="bold")
        facts = {
            "CL_AUTH_URL": addresses.auth_url,
            "CL_STORE_URL": addresses.store_url,
            "CL_COMPUTE_URL": addresses.compute_url,
            "CL_MQTT_URL": addresses.mqtt_url,
            "CL_SERVER_DIR": str(server_dir),
        }
        for name, value in facts.items():
            if value:
                self._print(self._out, f"  {name}={value}")

    def show_admin(self, username: str, password: str) -> None:
        """Show the first administrator's password, the only time that it can be seen."""
        self._print(self._out, "The administrator, shown this once:", style="bold")
        self._print(self._out, f"  user name  {username}\n  password   {password}")
        self._print(self._out, f"  (a new password: cl-server users passwd {username})")

    @contextmanager
    def progress(self) -> Iterator[ProgressBars]:
        """Show how far something is, until the end of the block."""
        if not self._out.is_terminal:
            yield ProgressBars(self, None)
            return
        columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._out, transient=True) as moving:
            yield ProgressBars(self, moving)

    def _print(self, console: Console, line: str, style: str | None = None) -> None:
        console.print(line, style=style)
        console.file.flush()


class ProgressBars:
    """One bar for each thing that is counted."""

    def __init__(self, display: UpDisplay, moving: Progress | None) -> None:
        self._display = display
        self._moving = moving
        self._bars: dict[str, TaskID] = {}
        self._said_at = time.monotonic()

    def show(self, name: str, done: int, total: int) -> None:
        """Move a bar; the first call makes it.

        Args:
            name: What is done: `imported`.
            done: How many.
            total: Of how many.
        """
        if self._moving is not None:
            if name not in self._bars:
                self._bars[name] = self._moving.add_task(name, total=total)
            self._moving.update(self._bars[name], completed=done, total=total)
        elif time.monotonic() - self._said_at >= PLAIN_PAUSE_SECONDS:
            self._said_at = time.monotonic()
            self._display.say(f"{name} {done} of {total}")
