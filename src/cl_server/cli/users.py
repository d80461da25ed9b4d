"""`cl-server users`: accounts, straight on the database, on the server's own machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cl_server.auth.local import set_password
from cl_server.cli.databases import database_url, naming_database
from cl_server.cli.failures import CommandRefused
from cl_server.cli.output import AsJson, print_json
from cl_server.client.local_server import read_local_server
from cl_server_shared.config import Config

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)


@app.callback()
def users() -> None:
    """Accounts, on the server's own machine."""


@app.command("passwd")
def change_password(
    username: Annotated[str, typer.Argument(metavar="NAME", help="The account.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read it from standard input.")
    ] = False,
    server_dir: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="The server's directory: as for `up`."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give an account a new password.

    A random one, which is shown once and kept nowhere, or the one on standard input. The server
    may run meanwhile; who can write its database needs no other right.
    """
    _choose_directory(server_dir)
    given = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    try:
        with naming_database("AUTH_DATABASE_URL"):
            password = set_password(database_url("AUTH_DATABASE_URL"), username, given)
    except ValueError as error:
        raise CommandRefused(str(error)) from error
    if as_json:
        print_json({"username": username, "password": None if password_stdin else password})
    elif password_stdin:
        print(f"The password of {username} is changed.")
    else:
        print(f"The new password of {username}, shown this once: {password}")


def _choose_directory(given: Path | None) -> None:
    """Settle on a data directory as `cl-server up` does, before the first setting is read."""
    settings = Config.settings()
    named = ("CL_SERVER_DIR", "AUTH_DATABASE_URL", "DATABASE_URL")
    if given is None and any(settings[name].source == "environment" for name in named):
        return
    if given is None and (note := read_local_server(Path(Config.CL_USER_CONFIG_DIR))):
        given = Path(note.server_dir)
    directory = given or Path(Config.CL_USER_DATA_DIR)
    if not directory.is_dir():
        raise CommandRefused(f"there is no server in {directory}: name its directory with --dir")
    os.environ["CL_SERVER_DIR"] = str(directory.absolute())
