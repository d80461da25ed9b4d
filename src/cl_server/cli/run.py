"""`cl-server run`: a task on files, and the results saved."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from cl_server.cli.connection import AuthUrl, StoreUrl, connect
from cl_server.cli.failures import FAILED, REFUSED, CommandRefused
from cl_server.cli.output import AsJson, format_duration, print_json
from cl_server.client import Client
from cl_server.client.batch import Batch
from cl_server.client.destinations import Destinations, expected_outputs
from cl_server.client.errors import FileInTheWay, InvalidRequest
from cl_server.client.run import Run

MAX_NAMED = 10

NO_WORKER = "cl-server: no worker runs {task} now: jobs wait until one does (`cl-server worker`)"


def main(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to do: image_resize, say.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The input files.")],
    params: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter; repeatable."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")
    ] = Path(),
    together: Annotated[
        bool, typer.Option("--together", help="One job for all files, not one for each.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that are there already.")
    ] = False,
    priority: Annotated[
        int | None, typer.Option(min=0, max=10, help="10 is most urgent; 5 without it.")
    ] = None,
    store_url: StoreUrl = None,
    auth_url: AuthUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a task on files, and save the results.

    Exit code 1 when a job failed, 2 when nothing could be started.

    Example: cl-server run image_resize *.jpg --param width=320 --param height=240 -o small
    """
    _check_files(files)
    text_params = _parse_params(params or [])
    _check_directory(output)
    signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C: no half file is left
    with connect(store_url=store_url, auth_url=auth_url) as client:
        is_served = _check_task(client, task)
        destinations = Destinations(output, overwrite=force)
        runs = _plan(task, [files] if together else [[f] for f in files], text_params, destinations)
        if not is_served:
            print(NO_WORKER.format(task=task), file=sys.stderr)
        started = time.monotonic()
        with closing(_choose_display(task, len(runs), as_json)) as display:
            batch = Batch(
                client,
                task,
                runs,
                text_params=text_params,
                destinations=destinations,
                on_change=display.changed,
                priority=priority,
            )
            try:
                batch.process()
            except InvalidRequest as error:
                display.close()
                _refuse(task, error)
            except KeyboardInterrupt:
                display.close()
                _say_what_goes_on(runs)
                raise
    _report(task, runs, 1000 * (time.monotonic() - started), as_json)


def _check_files(files: Sequence[Path]) -> None:
    """Raise `CommandRefused` unless each file can be read; nothing was sent."""
    wrong = []
    for file in files:
        if file.is_dir():
            wrong.append(f"{file} is a directory (give the files in it: {file}/*)")
        elif not file.is_file():
            wrong.append(f"{file} does not exist")
        elif not os.access(file, os.R_OK):
            wrong.append(f"{file} cannot be read")
    if wrong:
        raise CommandRefused(f"{_listed(wrong)}; nothing was sent")


def _parse_params(given: Sequence[str]) -> dict[str, list[str]]:
    params: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise CommandRefused(f"--param {text}: expected NAME=VALUE, such as width=320")
        params.setdefault(name.strip(), []).append(value)
    return params


def _check_directory(directory: Path) -> None:
    """Raise `CommandRefused` unless the directory is there and can be written to, or can be made.

    Trying is what tells: a permission says nothing of a file system that takes no files.
    """
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise CommandRefused(f"-o {directory}: {existing} is a file, a directory is needed")
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise CommandRefused(
            f"-o {directory}: {existing} cannot be written to ({error.strerror})"
        ) from error


def _check_task(client: Client, task: str) -> bool:
    """Raise `CommandRefused` for an unknown task; return whether a worker serves it now."""
    tasks = {known["task_type"]: known for known in client.tasks()}
    if task not in tasks:
        known = ", ".join(sorted(tasks)) or "none"
        raise CommandRefused(f"the server has no task {task!r}; it has: {known}")
    return tasks[task]["served"]


def _plan(
    task: str,
    groups: Sequence[Sequence[Path]],
    text_params: dict[str, list[str]],
    destinations: Destinations,
) -> list[Run]:
    """Return a run per group, with its results' places where their names are known already."""
    runs, in_the_way = [], []
    for group in groups:
        run = Run(inputs=group)
        for path in expected_outputs(task, group, text_params):
            try:
                run.planned[path] = destinations.reserve(path)
            except FileInTheWay as error:
                in_the_way.append(str(error.path))
        runs.append(run)
    if in_the_way:
        verb = "is" if len(in_the_way) == 1 else "are"
        raise CommandRefused(
            f"{_listed(in_the_way)} {verb} there already; nothing was sent: "
            "--force overwrites, -o DIR names another place"
        )
    return runs


def _choose_display(task: str, total: int, as_json: bool) -> Any:
    from cl_server.cli.run_display import LiveDisplay, PlainDisplay, SilentDisplay

    if as_json:
        return SilentDisplay()
    return LiveDisplay(task, total) if sys.stdout.isatty() else PlainDisplay(total)


def _refuse(task: str, error: InvalidRequest) -> None:
    print(f"cl-server: {task} was refused, nothing was run:", file=sys.stderr)
    for line in error.problem_lines:
        print(f"  {line}", file=sys.stderr)
    raise typer.Exit(REFUSED)


def _say_what_goes_on(runs: Sequence[Run]) -> None:
    going_on = sum(run.job is not None and not run.is_finished for run in runs)
    if going_on:
        jobs = "1 job goes" if going_on == 1 else f"{going_on} jobs go"
        print(
            f"cl-server: stopped; {jobs} on at the server (`cl-server jobs list`)", file=sys.stderr
        )


def _report(task: str, runs: Sequence[Run], took_ms: float, as_json: bool) -> None:
    failed = sum(run.error is not None for run in runs)
    done = len(runs) - failed
    if as_json:
        documents = [_document(run) for run in runs]
        print_json({"task_type": task, "completed": done, "failed": failed, "jobs": documents})
    else:
        also = f", {failed} failed" if failed else ""
        print(f"{done} done{also} in {format_duration(took_ms)}")
    if failed:
        raise typer.Exit(FAILED if any(run.job for run in runs) else REFUSED)


def _document(run: Run) -> dict[str, Any]:
    return {
        "inputs": [str(path) for path in run.inputs],
        "job_id": run.job["job_id"] if run.job else None,
        "status": run.state,
        "error": run.error,
        "results": [str(path) for path in run.results],
        "task_output": run.job["task_output"] if run.job else None,
    }


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
