"""`cl-server workers`: who works."""

from __future__ import annotations

import sys

import typer

from cl_server.cli.connection import AuthUrl, StoreUrl, connect
from cl_server.cli.output import AsJson, format_age, format_time, print_json, print_table
from cl_server.client.models import Worker

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)


@app.callback()
def workers() -> None:
    """Keep `list` a command of its own."""


@app.command("list")
def list_workers(
    store_url: StoreUrl = None, auth_url: AuthUrl = None, as_json: AsJson = False
) -> None:
    """List the workers that live: where, how busy they are, and what they run."""
    with connect(store_url=store_url, auth_url=auth_url) as client:
        found = client.workers()
    if as_json:
        print_json({"workers": found})
    elif not found and sys.stdout.isatty():
        print("No worker lives.")
    elif sys.stdout.isatty():
        headers = ("worker", "host", "pid", "busy", "up since", "renewed", "tasks")
        print_table(headers, [_row_for_people(worker) for worker in found], wrap_last=True)
    else:
        print_table(
            ("worker", "instance", "host", "pid", "busy", "up since", "renewed", "lease", "tasks"),
            [_row(worker) for worker in found],
        )


def _row_for_people(worker: Worker) -> tuple[str, ...]:
    return (
        worker["worker_id"],
        worker["host"],
        str(worker["pid"]),
        _busy(worker),
        format_age(worker["started_at"]),
        format_age(worker["renewed_at"]),
        ", ".join(worker["task_types"]),
    )


def _row(worker: Worker) -> tuple[str, ...]:
    return (
        worker["worker_id"],
        str(worker["instance_id"]),
        worker["host"],
        str(worker["pid"]),
        _busy(worker),
        format_time(worker["started_at"]),
        format_time(worker["renewed_at"]),
        format_time(worker["lease_expires_at"]),
        ",".join(worker["task_types"]),
    )


def _busy(worker: Worker) -> str:
    return f"{worker['running']} of {worker['concurrency']}"
