"""`cl-server tasks`: which there are; pausing and limiting them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cl_server.cli.connection import AuthUrl, StoreUrl, connect
from cl_server.cli.failures import CommandRefused
from cl_server.cli.output import AsJson, format_age, format_time, print_json, print_table
from cl_server.client import Client
from cl_server.client.errors import NotAllowed
from cl_server.client.models import Task

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task.")]


@app.command("list")
def list_tasks(
    store_url: StoreUrl = None, auth_url: AuthUrl = None, as_json: AsJson = False
) -> None:
    """List the tasks, whether a worker runs them, which are paused or limited."""
    with connect(store_url=store_url, auth_url=auth_url) as client:
        tasks = client.tasks()
    if as_json:
        print_json({"tasks": tasks})
    else:
        print_table(
            ("task", "served", "at once", "paused", "reason"),
            [_row(task) for task in tasks],
            wrap_last=True,
        )


@app.command("pause")
def pause_task(
    task: TaskName,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for all to see.")] = None,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Begin no more jobs of a task; they wait. What runs goes on. Needs an admin's sign-in."""
    with _admin(store_url, auth_url, task) as client:
        changed = client.pause_task(task, reason)
    _say(changed, f"{task} is paused: its jobs wait", as_json)


@app.command("resume")
def resume_task(
    task: TaskName,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Begin jobs of a paused task again. Needs an admin's sign-in."""
    with _admin(store_url, auth_url, task) as client:
        changed = client.resume_task(task)
    _say(changed, f"{task} is not paused", as_json)


@app.command("limit")
def limit_task(
    task: TaskName,
    limit: Annotated[str, typer.Argument(metavar="N", help="Jobs at once; none: no limit.")],
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run at most N jobs of a task at once, over all workers. Needs an admin's sign-in."""
    if limit != "none" and not (limit.isdecimal() and int(limit)):
        raise CommandRefused(f"{limit}: expected a whole number of at least 1, or none")
    max_running = None if limit == "none" else int(limit)
    with _admin(store_url, auth_url, task) as client:
        changed = client.limit_task(task, max_running)
    _say(changed, f"{task}: {_at_once(changed)} at once", as_json)


@contextmanager
def _admin(store_url: str | None, auth_url: str | None, task: str) -> Iterator[Client]:
    """Yield a client with the saved sign-in, where there is one: the note of `up` is no admin's.

    Raises:
        CommandRefused: The server has no such task, or whoever is signed in is no admin.
    """
    with connect(store_url=store_url, auth_url=auth_url, prefer_sign_in=True) as client:
        known = [each["task_type"] for each in client.tasks()]
        if task not in known:
            raise CommandRefused(f"the server has no task {task!r}; it has: {', '.join(known)}")
        try:
            yield client
        except NotAllowed as error:
            raise CommandRefused(
                f"{error.detail}: sign in as an admin with `cl-server login`"
            ) from error


def _say(task: Task, line: str, as_json: bool) -> None:
    if as_json:
        print_json(task)
    else:
        print(line)


def _row(task: Task) -> tuple[str, ...]:
    when = format_age if sys.stdout.isatty() else format_time
    return (
        task["task_type"],
        "yes" if task["served"] else "no",
        _at_once(task),
        when(task["paused_at"]) if task["paused_at"] is not None else "",
        task["pause_reason"] or "",
    )


def _at_once(task: Task) -> str:
    return "any number" if task["max_running"] is None else str(task["max_running"])
