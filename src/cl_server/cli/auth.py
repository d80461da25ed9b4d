"""`cl-server auth`: the auth service by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from cl_server.auth.app import create_app
from cl_server.auth.settings import AuthSettings
from cl_server.cli.databases import database_url, naming_database
from cl_server.cli.service import Host, serve_alone
from cl_server.logs import configure_logging
from cl_server_shared import Config

__all__ = ["auth_settings", "main"]


def auth_settings() -> AuthSettings:
    """Return the auth service's settings, as `Config` has them now.

    Raises:
        ValueError: A variable is missing or malformed.
    """
    return AuthSettings(
        database_url=database_url("AUTH_DATABASE_URL"),
        private_key_path=Config.PRIVATE_KEY_PATH,
        public_key_path=Config.PUBLIC_KEY_PATH,
        token_lifetime_seconds=Config.ACCESS_TOKEN_EXPIRE_MINUTES * 60,
        admin_username=Config.ADMIN_USERNAME,
        admin_password=Config.ADMIN_PASSWORD,
        auth_disabled=Config.AUTH_DISABLED,
    )


def main(
    host: Host = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port; default: AUTH_PORT, 8000. 0: a free one."),
    ] = None,
) -> None:
    """Run the auth service: users, permissions, and the tokens that every service verifies.

    Needs CL_SERVER_DIR, a directory that exists. The first start makes the database, the keys and
    an administrator, whose password it prints once. Ends with Ctrl-C or SIGTERM.
    """
    configure_logging(Config.LOG_LEVEL)
    app = create_app(auth_settings())
    with naming_database("AUTH_DATABASE_URL"):
        serve_alone(app, host, port, default_port=Config.AUTH_PORT)
