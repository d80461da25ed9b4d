"""`cl-server store`: the store by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cl_server.cli.databases import database_url, naming_database
from cl_server.cli.service import Host, serve_alone
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
        database_url=database_url("STORE_DATABASE_URL"),
        media_dir=Path(Config.MEDIA_STORAGE_DIR),
        compute_dir=Path(Config.COMPUTE_STORAGE_DIR),
        public_key_path=Path(Config.PUBLIC_KEY_PATH),
        max_upload_bytes=Config.MAX_UPLOAD_BYTES,
        capability_cache_seconds=Config.CAPABILITY_CACHE_TIMEOUT,
        max_waiting_jobs=Config.MAX_WAITING_JOBS,
        max_waiting_jobs_per_user=Config.MAX_WAITING_JOBS_PER_USER,
        auth_disabled=Config.AUTH_DISABLED,
        read_auth_enabled=Config.READ_AUTH_ENABLED,
        worker_lease_seconds=Config.WORKER_LEASE_SECONDS,
        event_retention_hours=Config.EVENT_RETENTION_HOURS,
        job_retention_days=Config.JOB_RETENTION_DAYS,
    )


def main(
    host: Host = None,
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
    with naming_database("STORE_DATABASE_URL"):
        serve_alone(app, host, port, default_port=Config.STORE_PORT)
