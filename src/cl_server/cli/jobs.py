"""`cl-server jobs`: list, show, follow, count, cancel and retry jobs."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from cl_server.cli.connection import AuthUrl, StoreUrl, connect
from cl_server.cli.failures import FAILED, CommandRefused
from cl_server.cli.follow import follow_job
from cl_server.cli.job_changes import cancel_jobs, retry_jobs
from cl_server.cli.job_log import print_attempts
from cl_server.cli.job_statistics import print_statistics
from cl_server.cli.output import (
    STATUS_STYLES,
    AsJson,
    format_age,
    format_duration,
    format_size,
    format_time,
    print_json,
    print_table,
)
from cl_server.client import Client
from cl_server.client.models import FINISHED, Job, JobFile

STATUSES = ("queued", "processing", "completed", "failed", "cancelled")

PATHS = ("input_paths", "output_paths", "output_path")

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


@app.command("list")
def list_jobs(
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help=", ".join(STATUSES) + ".")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="One task type only.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    if status is not None and status not in STATUSES:
        raise CommandRefused(f"--status {status}: expected one of {', '.join(STATUSES)}")
    with connect(store_url=store_url, auth_url=auth_url) as client:
        jobs = _collect(client, status, task, limit)
    if as_json:
        print_json({"jobs": jobs})
    elif not jobs and sys.stdout.isatty():
        print("No jobs.")
    else:
        print_table(
            ("id", "task", "status", "done", "created", "took", "files"),
            [_list_row(job, for_people=sys.stdout.isatty()) for job in jobs],
            styled=2,
        )


@app.command("show")
def show_job(
    job_id: JobId,
    log: Annotated[
        bool, typer.Option("--log", help="Also what its attempts left: errors, tracebacks, output.")
    ] = False,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show all about one job."""
    with connect(store_url=store_url, auth_url=auth_url) as client:
        job = client.get_job(job_id)
        attempts = client.job_attempts(job_id) if log else []
    if as_json:
        print_json({**job, "attempts": attempts} if log else job)
    else:
        _print_job(job)
        if log:
            print_attempts(attempts)


@app.command("follow")
def follow(
    job_id: JobId,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Watch a job until it ends; exit code 1 when it failed."""
    with connect(store_url=store_url, auth_url=auth_url) as client:
        status = follow_job(client, job_id, as_json=as_json)
    if status != "completed":
        raise typer.Exit(FAILED)


app.command("cancel")(cancel_jobs)
app.command("retry")(retry_jobs)


@app.command("stats")
def show_statistics(
    minutes: Annotated[
        int,
        typer.Option("--minutes", min=1, max=1440, help="How far back what ended is counted."),
    ] = 60,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Count what waits, runs and has ended, per task."""
    with connect(store_url=store_url, auth_url=auth_url) as client:
        statistics = client.statistics(minutes=minutes)
    if as_json:
        print_json(statistics)
    else:
        print_statistics(statistics)


def _collect(client: Client, status: str | None, task: str | None, limit: int) -> list[Job]:
    jobs: list[Job] = []
    cursor: str | None = None
    while len(jobs) < limit:
        page = client.list_jobs(status=status, task_type=task, cursor=cursor)
        jobs += page["items"]
        cursor = page.get("next_cursor")
        if not cursor or not page["items"]:
            break
    return jobs[:limit]


def _list_row(job: Job, *, for_people: bool) -> tuple[str, ...]:
    names = [file["name"] for file in job.get("input_files") or []]
    shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return (
        job["job_id"],
        job["task_type"],
        job["status"],
        f"{job['progress']}%",
        format_age(job["created_at"]) if for_people else format_time(job["created_at"]),
        _took(job),
        shown,
    )


def _took(job: Job) -> str:
    started, completed = job["started_at"], job["completed_at"]
    return format_duration(completed - started) if started and completed else ""


def _print_job(job: Job) -> None:
    attempts = f"{job['retry_count'] + 1} of at most {job['max_retries'] + 1}"
    facts = [
        ("job", job["job_id"]),
        ("task", job["task_type"]),
        ("status", job["status"]),
        ("progress", f"{job['progress']}%"),
        ("error", job["error_message"] or ""),
        ("priority", str(job["priority"])),
        ("attempt", attempts if job["status"] != "queued" or job["retry_count"] else ""),
        ("created", format_time(job["created_at"])),
        ("started", format_time(job["started_at"])),
        ("ended", format_time(job["completed_at"]) if job["status"] in FINISHED else ""),
        ("took", _took(job)),
        ("parameters", "\n".join(_parameters(job))),
        ("input", "\n".join(_file_line(file) for file in job.get("input_files") or [])),
        ("output", "\n".join(_file_line(file) for file in job.get("output_files") or [])),
        ("result", _one_line(job["task_output"]) if job["task_output"] else ""),
    ]
    facts = [(name, text) for name, text in facts if text]
    if not sys.stdout.isatty():
        for name, text in facts:
            for line in text.splitlines():
                print(f"{name}\t{line}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in facts:
        style = STATUS_STYLES.get(text, "") if name == "status" else ""
        grid.add_row(name, Text(text, style="red" if name == "error" else style))
    Console().print(grid)


def _parameters(job: Job) -> list[str]:
    """Return the parameters as they are typed; paths are shown as files."""
    shown = {name: value for name, value in job["params"].items() if name not in PATHS}
    return [
        f"{name}={value if isinstance(value, str) else _one_line(value)}"
        for name, value in shown.items()
    ]


def _file_line(file: JobFile) -> str:
    return f"{file['path']} ({format_size(file['size'])})"


def _one_line(document: object) -> str:
    return json.dumps(document, ensure_ascii=False)
