"""`cl-server`: the table of its commands, each imported when it is called.

`cl-server --help` so takes a tenth of a second and imports neither pydantic nor SQLAlchemy.
"""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cl_server.cli.failures import explain_failure, find_lost_output

__all__ = ["COMMANDS", "Command", "app", "run_command_line"]

INTERRUPTED = 130  # 128 and SIGINT, as shells have it


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: What is typed.
        module: Has a function `main`, or for a command with commands of its own a typer `app`.
        help: One line.
        hidden: Whether it is left out of the help: what `up` starts.
    """

    name: str
    module: str
    help: str
    hidden: bool = False


_TABLE = (
    Command("up", "cl_server.cli.up", "Start everything on this machine, and keep it running."),
    Command("run", "cl_server.cli.run", "Run a task on files, and save the results."),
    Command("jobs", "cl_server.cli.jobs", "List, show, follow, count, cancel and retry jobs."),
    Command("tasks", "cl_server.cli.tasks", "List, pause and limit tasks."),
    Command("workers", "cl_server.cli.workers", "List the workers that live."),
    Command("login", "cl_server.cli.login", "Sign in to a server, and stay signed in."),
    Command("logout", "cl_server.cli.logout", "Forget the saved sign-in."),
    Command("users", "cl_server.cli.users", "Accounts, on the server's own machine."),
    Command("config", "cl_server.cli.config", "Show each setting and where it comes from."),
    Command("auth", "cl_server.cli.auth", "Run the auth service alone."),
    Command("store", "cl_server.cli.store", "Run the store alone."),
    Command("worker", "cl_server.cli.worker", "Run a worker alone."),
    Command("web", "cl_server.cli.web", "Run auth and store in one process.", hidden=True),
    Command("broker", "cl_server.cli.broker", "Run the embedded MQTT broker.", hidden=True),
)

COMMANDS = {command.name: command for command in _TABLE}


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and help lines, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in _TABLE:
            self.add_command(TyperCommand(command.name, help=command.help, hidden=command.hidden))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command and import its module."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(COMMANDS[name]) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it as shells expect, without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: as JSON.")] = False,
) -> None:
    """CL Server: a self-hosted media store with distributed compute.

    `cl-server up` starts it, `cl-server run TASK FILE...` puts it to work.
    """
    if version:
        _show_version(as_json)
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def run_command_line() -> int:
    """Run `sys.argv`'s command.

    Returns:
        The exit code: 0 fine, 1 failed, 2 usage or a precondition, 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be no Unicode; as an escape it can be shown, and is good JSON too.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        exit_code = _call_app()
        failure = find_lost_output()  # which the interpreter would say in its own words
        if failure is not None and exit_code != 0:
            failure = replace(failure, exit_code=exit_code)
    except ImportError:
        raise  # __main__ names the extra
    except Exception as error:  # the outermost frame: known errors become one line
        lost = find_lost_output()
        failure = explain_failure(error) or (lost if isinstance(error, OSError) else None)
        if failure is None:
            raise
    if failure is None:
        return exit_code
    if failure.line:
        print(f"cl-server: {failure.line}", file=sys.stderr)
    return failure.exit_code


def _call_app() -> int:
    try:
        app(prog_name="cl-server")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _load(command: Command) -> Any:
    module = import_module(command.module)
    if hasattr(module, "app"):
        group: typer.Typer = module.app
        group.info.name, group.info.help = command.name, command.help
        return typer.main.get_command(group)
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(command.name, help=_help_of(module.main, command.help))(module.main)
    return typer.main.get_command(single)


def _help_of(function: Callable[..., Any], line: str) -> str:
    """Return a function's prose, without what it says to programmers."""
    prose = inspect.getdoc(function) or line
    return re.split(r"^(?:Args|Returns|Raises):", prose, maxsplit=1, flags=re.MULTILINE)[0].strip()


def _show_version(as_json: bool) -> None:
    import json
    import platform

    from cl_server_shared import __version__  # not of another cl_ml_tools that is in the way

    facts = {"version": __version__, "python": platform.python_version()}
    if as_json:
        print(json.dumps(facts))
    else:
        print(f"cl-server {facts['version']} (Python {facts['python']})")
