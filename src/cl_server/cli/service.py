"""What `cl-server auth` and `cl-server store` have in common: one service, on its port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cl_server.http.serving import Site, serve
from cl_server_shared.config import Config

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Host", "serve_alone"]

Host = Annotated[
    str | None,
    typer.Option(help="The address to listen on; default: CL_SERVER_HOST, 127.0.0.1."),
]


def serve_alone(app: FastAPI, host: str | None, port: int | None, *, default_port: int) -> None:
    """Serve one application until SIGTERM or SIGINT.

    Args:
        app: What to serve.
        host: As it was typed; `None`: `CL_SERVER_HOST`.
        port: As it was typed; `None`: `default_port`.
        default_port: What the settings say.

    Raises:
        PortInUse: The port cannot be had.
    """
    site = Site(
        app,
        Config.CL_SERVER_HOST if host is None else host,
        default_port if port is None else port,
    )
    serve([site])
