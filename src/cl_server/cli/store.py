"""`cl-server store`: the store by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cl_server.http.serving import Site, serve
from cl_server.logs import configure_logging
from cl_server.store.app import create_app
from cl_server.store.settings import StoreSettings
from cl_server_shared import Config

__all__ = ["main", "store_settings"]


def store_settings() -> StoreSettings:
    """Return the store's settings, as `Config` has them now.

    Raises:
        ValueError: A variable is missing or malformed.
    """
    return StoreSettings(
        database_url=Config.STORE_DATABASE_URL,
        media_dir=Path(Config.MEDIA_STORAGE_DIR),
        compute_dir=Path(Config.COMPUTE_STORAGE_DIR),
        public_key_path=Path(Config.PUBLIC_KEY_PATH),
        max_upload_bytes=Config.MAX_UPLOAD_BYTES,
        capability_cache_seconds=Config.CAPABILITY_CACHE_TIMEOUT,
        auth_disabled=Config.AUTH_DISABLED,
        read_auth_enabled=Config.READ_AUTH_ENABLED,
    )


def main(
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on; default: CL_SERVER_HOST, 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port; default: STORE_PORT, 8001. 0: a free one."),
    ] = None,
) -> None:
    """Run the store: media files, jobs and their results, job events.

    Needs CL_SERVER_DIR, a directory that exists. The first start makes the database and the
    folders. Tokens are verified by the auth service's public key. Ends with Ctrl-C or SIGTERM.
    """
    configure_logging(Config.LOG_LEVEL)
    app = create_app(store_settings())
    serve(
        [
            Site(
                app,
                Config.CL_SERVER_HOST if host is None else host,
                Config.STORE_PORT if port is None else port,
            )
        ]
    )
