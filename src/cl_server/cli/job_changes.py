"""`cl-server jobs cancel` and `retry`: one job, several, or all that match."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from cl_server.cli.connection import AuthUrl, StoreUrl, connect
from cl_server.cli.failures import FAILED, CommandRefused
from cl_server.cli.output import AsJson, print_json
from cl_server.client import Client
from cl_server.client.errors import Refused, SignInNeeded, WrongName

__all__ = ["cancel_jobs", "retry_jobs"]

Action = Literal["cancel", "retry"]

JobIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID...]", help="The jobs' ids; without any, options say which."),
]
TaskName = Annotated[str | None, typer.Option("--task", metavar="TASK", help="All of this task.")]
Status = Annotated[
    str | None, typer.Option("--status", metavar="STATUS", help="All in this status.")
]
User = Annotated[str | None, typer.Option("--user", metavar="SUB", help="All of this user's.")]
Mine = Annotated[bool, typer.Option("--mine", help="All of your own.")]
Everything = Annotated[bool, typer.Option("--all", help="All that you may change.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def cancel_jobs(
    job_ids: JobIds = None,
    task: TaskName = None,
    status: Status = None,
    user: User = None,
    mine: Mine = False,
    everything: Everything = False,
    yes: Yes = False,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """End jobs that wait or run.

    Jobs that wait are over at once; those that run are ended by their worker within a moment.
    Options narrow each other down. Exit code 1 when a job could not be cancelled.
    """
    wanted = _filter(task, status, user, mine, everything)
    with connect(store_url=store_url, auth_url=auth_url) as client:
        _change(client, "cancel", job_ids or [], wanted, ask=not yes, as_json=as_json)


def retry_jobs(
    job_ids: JobIds = None,
    task: TaskName = None,
    status: Status = None,
    user: User = None,
    mine: Mine = False,
    everything: Everything = False,
    yes: Yes = False,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run failed and cancelled jobs again, as if they were new.

    Options narrow each other down. Exit code 1 when a job could not be queued again.
    """
    wanted = _filter(task, status, user, mine, everything)
    with connect(store_url=store_url, auth_url=auth_url) as client:
        _change(client, "retry", job_ids or [], wanted, ask=not yes, as_json=as_json)


def _filter(
    task: str | None, status: str | None, user: str | None, mine: bool, everything: bool
) -> dict[str, Any]:
    given = {
        "task_type": task,
        "status": status,
        "created_by": user,
        "mine": mine,
        "everything": everything,
    }
    return {name: value for name, value in given.items() if value}


def _change(
    client: Client,
    action: Action,
    job_ids: list[str],
    wanted: dict[str, Any],
    *,
    ask: bool,
    as_json: bool,
) -> None:
    if bool(job_ids) == bool(wanted):
        raise CommandRefused(
            "give the jobs' ids, or say which with --task, --status, --user, --mine or --all"
        )
    if job_ids:
        _change_each(client, action, job_ids, as_json=as_json)
    else:
        _change_all(client, action, wanted, ask=ask, as_json=as_json)


def _change_each(client: Client, action: Action, job_ids: list[str], *, as_json: bool) -> None:
    change = client.cancel_job if action == "cancel" else client.retry_job
    documents: list[dict[str, str | None]] = []
    for job_id in job_ids:
        status: str | None = None
        error: str | None = None
        try:
            status = change(job_id)["status"]
        except SignInNeeded:
            raise  # so it is for every other one
        except (Refused, WrongName) as refused:
            error = str(refused)
        documents.append({"job_id": job_id, "status": status, "error": error})
        if error is not None and not as_json:
            print(f"cl-server: {error}", file=sys.stderr)
        elif not as_json:
            is_ending = action == "cancel" and status == "processing"
            print(f"{job_id}\t{'ending' if is_ending else status}")
    if as_json:
        print_json({"jobs": documents})
    if any(document["error"] is not None for document in documents):
        raise typer.Exit(FAILED)


def _change_all(
    client: Client, action: Action, wanted: dict[str, Any], *, ask: bool, as_json: bool
) -> None:
    if ask and sys.stdin.isatty() and sys.stderr.isatty():
        count = len(client.change_jobs(action, **wanted, dry_run=True))
        if count and not typer.confirm(f"{action.capitalize()} {_jobs(count)}?", err=True):
            raise typer.Exit(FAILED)
    job_ids = client.change_jobs(action, **wanted)
    if as_json:
        print_json({"job_ids": job_ids})
    elif action == "cancel":
        print(f"{_jobs(len(job_ids))} cancelled")
    else:
        print(f"{_jobs(len(job_ids))} queued again")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
