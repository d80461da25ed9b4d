"""`cl-server login`: sign in to a server, and stay signed in."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from cl_server.cli.connection import AuthUrl, StoreUrl, find_server, make_sign_in
from cl_server.cli.failures import CommandRefused
from cl_server.cli.output import AsJson, format_time, print_json
from cl_server.client import Client
from cl_server.client.errors import SignInNeeded
from cl_server.client.local_server import read_local_server
from cl_server.client.tokens import write_sign_in
from cl_server_shared.config import Config


def main(
    username: Annotated[
        str | None, typer.Option("--user", "-u", metavar="NAME", help="Asked for without one.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    auth_url: AuthUrl = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Sign in to a server, and stay signed in.

    The token, never the password, is kept in a file that only you can read, and is renewed while
    you work. On the server's own machine no sign-in is needed while `cl-server up` runs.
    """
    server = find_server(store_url=store_url, auth_url=auth_url)
    name, password = _ask(username, password_stdin, server.auth_url)
    with Client(server.store_url, server.auth_url) as client:
        try:
            token = client.sign_in(name, password)["access_token"]
        except SignInNeeded as error:
            print(f"cl-server: {server.auth_url} refused: {error.detail}", file=sys.stderr)
            raise typer.Exit(1) from None
    config_dir = Path(Config.CL_USER_CONFIG_DIR)
    sign_in = make_sign_in(server, name, token)
    path = write_sign_in(config_dir, sign_in)
    if as_json:
        print_json(
            {
                "username": name,
                "auth_url": server.auth_url,
                "store_url": server.store_url,
                "expires_at": sign_in.expires_at,
                "saved_in": str(path),
            }
        )
        return
    print(f"Signed in to {server.auth_url} as {name}, until {format_time(sign_in.expires_at)}")
    print(f"and longer while you work. The token is kept in {path}.")
    note = read_local_server(config_dir)
    if note is not None:
        print(f"While `cl-server up` runs here, commands go to it ({note.store_url}) as before;")
        print("--store-url or CL_STORE_URL name another server.")


def _ask(username: str | None, password_stdin: bool, where: str) -> tuple[str, str]:
    """Return name and password, asking for what was not given."""
    if password_stdin:
        if username is None:
            raise CommandRefused("--password-stdin needs --user NAME")
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise CommandRefused("--password-stdin: standard input is empty")
        return username, password
    if not sys.stdin.isatty():
        raise CommandRefused(
            "there is no terminal to ask for a password: give --user NAME --password-stdin"
        )
    if username is None:
        username = input(f"User name at {where}: ").strip()
    return username, getpass.getpass(f"Password of {username}: ")
