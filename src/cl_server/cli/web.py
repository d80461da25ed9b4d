"""`cl-server web`, hidden: auth and store in one process, as `cl-server up` starts them."""

from __future__ import annotations

import logging
import threading
import time
import urllib.error
import urllib.request
from dataclasses import asdict

from cl_server.auth.app import create_app as create_auth_app
from cl_server.auth.app import print_first_admin
from cl_server.auth.errors import AuthError
from cl_server.auth.local_token import issue_local_token
from cl_server.auth.service import FirstAdmin
from cl_server.auth.settings import AuthSettings
from cl_server.cli.addresses import local_addresses
from cl_server.cli.auth import auth_settings
from cl_server.cli.databases import naming_database
from cl_server.cli.store import store_settings
from cl_server.http.serving import Site, serve
from cl_server.logs import configure_logging
from cl_server.store.app import create_app as create_store_app
from cl_server.supervisor.reporting import is_supervised, report
from cl_server_shared import Config
from cl_server_shared.errors import SharedError

__all__ = ["main"]

logger = logging.getLogger(__name__)

READY_LOOK_SECONDS = 0.05
READY_TIMEOUT_SECONDS = 5.0

# When a new local token could not be made.
TOKEN_RETRY_SECONDS = 5.0


def main() -> None:
    """Run the auth service and the store in one process, each on its port."""
    configure_logging(Config.LOG_LEVEL)
    host, auth = Config.CL_SERVER_HOST, auth_settings()
    auth_app = create_auth_app(auth, show_first_admin=_show_first_admin)
    sites = [
        Site(auth_app, host, Config.AUTH_PORT),
        Site(create_store_app(store_settings()), host, Config.STORE_PORT),
    ]
    with naming_database("AUTH_DATABASE_URL", "STORE_DATABASE_URL"):
        serve(sites, on_ready=lambda _urls: _tell_supervisor(auth))


def _show_first_admin(admin: FirstAdmin) -> None:
    if is_supervised():
        report(admin=asdict(admin))
    else:
        print_first_admin(admin)


def _tell_supervisor(auth: AuthSettings) -> None:
    """Report, in the background: once that all is ready, and each local token in its time."""
    if is_supervised():
        addresses = local_addresses()
        urls = [addresses.auth_url, addresses.store_url]
        threading.Thread(target=_report_state, args=(auth, urls), daemon=True).start()


def _report_state(auth: AuthSettings, urls: list[str]) -> None:
    while not all(_is_ready(url) for url in urls):
        time.sleep(READY_LOOK_SECONDS)
    is_first = True
    while True:
        try:
            token = issue_local_token(auth)
        except (AuthError, SharedError) as error:
            logger.error("no token for this machine, trying again: %s", error)
            time.sleep(TOKEN_RETRY_SECONDS)
            continue
        report(token=token.access_token, **({"ready": True} if is_first else {}))
        is_first = False
        time.sleep(token.expires_in / 2)


def _is_ready(url: str) -> bool:
    # A proxy from the environment leads away from this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=READY_TIMEOUT_SECONDS):
            return True
    except (urllib.error.URLError, OSError):
        return False
