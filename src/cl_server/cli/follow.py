"""Watching one job until it ends."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import Any, Protocol, cast

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from cl_server.cli.output import format_time, print_json_line
from cl_server.client import Client
from cl_server.client.models import FINISHED, Event, Job

__all__ = ["follow_job"]


STYLES = {"completed": "green", "failed": "red", "cancelled": "red", "retrying": "yellow"}


class Display(Protocol):
    """What shows the steps of a job."""

    def show(self, event: Event) -> None:
        """Show one step."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def follow_job(client: Client, job_id: str, *, as_json: bool) -> str:
    """Show each step of a job as it happens.

    Args:
        client: The server.
        job_id: The job.
        as_json: A JSON line per event instead of words.

    Returns:
        How it ended: `completed`, `failed` or `cancelled`.

    Raises:
        NotFound: There is no such job.
    """
    job = client.get_job(job_id)
    with ExitStack() as stack:
        display = stack.enter_context(closing(_choose_display(job, as_json)))
        for event in stack.enter_context(closing(_steps(client, job))):
            display.show(event)
            if _is_end(event, job):
                return event["event_type"]
    return client.get_job(job_id)["status"]


def _steps(client: Client, job: Job) -> Generator[Event]:
    """Yield the job's events from its beginning; of one that has ended, only its end."""
    if job["status"] in FINISHED:
        yield _kept_ending(client, job) or _ending_of(job)
        return
    with client.events(job_id=job["job_id"], last_event_id="0").connect() as events:
        yield from events


def _is_end(event: Event, job: Job) -> bool:
    """Return whether the job ended with this event: one that was retried had ended before."""
    since = job["completed_at"] or job["updated_at"] or 0
    return event["event_type"] in FINISHED and event["timestamp"] >= since


def _kept_ending(client: Client, job: Job) -> Event | None:
    """Return the event with which a job ended; `None` where it is no longer kept."""
    with closing(client.past_events(job["job_id"])) as events:
        for event in events:
            if _is_end(event, job):
                return event
    return None


def _ending_of(job: Job) -> Event:
    """Return what the job itself says of its end; the event's own id is not known."""
    document: dict[str, Any] = {
        "event_id": None,
        "job_id": job["job_id"],
        "event_type": job["status"],
        # An event has the stored word, which a job reads as `failed`.
        "status": "error" if job["status"] == "failed" else job["status"],
        "task_type": job["task_type"],
        "timestamp": job["completed_at"],
        "progress": job["progress"],
        "attempt": job["retry_count"] + 1,
    }
    if job["status"] == "completed":
        document["task_output"] = job["task_output"]
    else:
        document["error"] = job["error_message"]
    return cast(Event, document)


def _choose_display(job: Job, as_json: bool) -> Display:
    if as_json:
        return JsonLines()
    is_live = sys.stdout.isatty() and job["status"] not in FINISHED
    return Bar(job) if is_live else Lines()


class JsonLines:
    """A JSON document per step, one on each line."""

    def show(self, event: Event) -> None:
        """Print the event as it came."""
        print_json_line(event)

    def close(self) -> None:
        """Do nothing: each line is out already."""


class Lines:
    """A line of words per step, for a log."""

    def show(self, event: Event) -> None:
        """Print when, what, and why."""
        print(f"{format_time(event['timestamp'])} {_describe(event)}", flush=True)

    def close(self) -> None:
        """Do nothing: each line is out already."""


class Bar:
    """A bar that moves, with the other steps as lines above it."""

    def __init__(self, job: Job) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        )
        self._bar = self._progress.add_task(job["task_type"], total=100)
        self._progress.start()

    def show(self, event: Event) -> None:
        """Move the bar; print what is not progress."""
        if event["event_type"] == "retrying":
            self._progress.update(self._bar, completed=0)
        else:
            self._progress.update(self._bar, completed=event["progress"])
        if event["event_type"] != "progress":
            when = Text(f"{format_time(event['timestamp'])} ", style="dim")
            what = Text(_describe(event), style=STYLES.get(event["event_type"], ""))
            self._progress.console.print(when + what, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def _describe(event: Event) -> str:
    kind = event["event_type"]
    if kind == "progress":
        return f"{event['progress']:.0f}%"
    attempt = f" (attempt {event['attempt']})" if kind == "started" and event["attempt"] > 1 else ""
    reason = f": {event['error']}" if event.get("error") else ""
    return f"{kind}{attempt}{reason}"
