"""`cl-server up`: everything on this machine, under one supervisor."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cl_server.cli.addresses import LocalAddresses, local_addresses
from cl_server.cli.databases import DATABASE_SETTINGS, database_url
from cl_server.cli.failures import CommandRefused
from cl_server.cli.up_display import UpDisplay
from cl_server.cli.up_lock import lock_directory
from cl_server.client.local_server import LocalServer, remove_local_server, write_local_server
from cl_server.supervisor.readiness import can_listen, is_listening, loopback_address
from cl_server.supervisor.supervisor import ChildSpec, Supervisor
from cl_server_shared.config import Config

__all__ = ["main"]

# Jobs that run when it is time to stop have this long; all is over within ten seconds.
WORKER_GRACE_SECONDS = 7
IMPORT_END_SECONDS = 1.0


def main(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where everything is kept, made if it is not there; default: CL_SERVER_DIR, "
            "else the user's data directory.",
        ),
    ] = None,
    auth_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The auth service's port; default: AUTH_PORT, 8000."),
    ] = None,
    store_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The store's port; default: STORE_PORT, 8001."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Worker processes, of WORKER_CONCURRENCY jobs each.")
    ] = 1,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="DIR",
            help="Take in every image below DIR that is not there yet, and resize each once.",
        ),
    ] = None,
) -> None:
    """Start everything on this machine: auth, store, a worker and an MQTT broker.

    Nothing needs to be set up before. A broker that listens already where MQTT_BROKER and
    MQTT_PORT point is used. The first start makes an administrator and prints the password, once.
    Ctrl-C or SIGTERM ends everything within ten seconds, a second one at once.
    """
    is_chosen = _choose_directory(directory, auth_port, store_port)
    _check_settings()
    if photos is not None and not photos.is_dir():
        raise CommandRefused(f"--import {photos}: expected a directory that exists")
    server_dir = Path(Config.CL_SERVER_DIR)
    with lock_directory(server_dir):
        _check_ports()
        display = UpDisplay()
        if is_chosen:
            display.say(f"everything is kept in {server_dir} (--dir changes that)")
        raise typer.Exit(_serve(server_dir, workers, photos, display))


def _serve(server_dir: Path, workers: int, photos: Path | None, display: UpDisplay) -> int:
    """Keep everything running until a signal comes; return the exit code."""
    stages = [_broker(display), [_web(), *_workers(workers)]]
    run = _Run(local_addresses(), server_dir, display, photos)
    supervisor = Supervisor(stages, say=display.warn, on_report=run.hear, on_ready=run.be_ready)
    try:
        return supervisor.run()
    finally:
        run.end()


def _choose_directory(
    directory: Path | None, auth_port: int | None, store_port: int | None
) -> bool:
    """Put what was typed into the environment, which this process and its children read.

    Returns:
        Whether nobody named a directory, and the user's data directory was chosen.
    """
    for name, port in (("AUTH_PORT", auth_port), ("STORE_PORT", store_port)):
        if port is not None:
            os.environ[name] = str(port)
    is_named = Config.settings()["CL_SERVER_DIR"].source == "environment"
    if directory is None and is_named:
        return False
    chosen = (Path(Config.CL_USER_DATA_DIR) if directory is None else directory).absolute()
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandRefused(f"the directory {chosen} cannot be made: {error.strerror}") from error
    os.environ["CL_SERVER_DIR"] = str(chosen)
    return directory is None


def _check_settings() -> None:
    """Read every setting, so that a wrong one is said here and not by each child.

    Raises:
        InvalidSetting: The first that is wrong.
    """
    for name in Config.settings():
        getattr(Config, name)
    for name in DATABASE_SETTINGS:
        database_url(name)


def _check_ports() -> None:
    host = Config.CL_SERVER_HOST
    ports = {"auth": Config.AUTH_PORT, "store": Config.STORE_PORT}
    if ports["auth"] == ports["store"]:
        raise CommandRefused(f"auth and store cannot both have port {ports['auth']}")
    for service, port in ports.items():
        if reason := can_listen(host, port):
            raise CommandRefused(
                f"the {service} service cannot listen on {host}:{port} ({reason}): "
                f"choose another with --{service}-port or {service.upper()}_PORT"
            )


def _broker(display: UpDisplay) -> list[ChildSpec]:
    """Return the broker to start: none where there is one, or none is wanted.

    Raises:
        CommandRefused: The one named is another machine's, and there are no credentials for it.
    """
    if Config.BROADCAST_TYPE != "mqtt":
        return []
    host, port = Config.MQTT_BROKER, Config.MQTT_PORT
    loopback = loopback_address(host)
    if loopback is None and Config.MQTT_USERNAME is None:
        raise CommandRefused(
            f"MQTT_BROKER={host!r} is not on this machine: such a broker is used with credentials "
            "only, MQTT_USERNAME and MQTT_PASSWORD"
        )
    if is_listening(host, port):
        return []
    if loopback is None:
        display.warn(f"no broker answers at {host}:{port} yet: events go out when one does")
        return []
    if Config.MQTT_TLS:
        raise CommandRefused(
            f"MQTT_TLS is on, and no broker listens at {host}:{port}: start one there, or switch "
            "MQTT_TLS off, which the broker that cl-server up brings does not speak"
        )
    return [ChildSpec("broker", ["broker", "--host", loopback], _quiet())]


def _web() -> ChildSpec:
    return ChildSpec("web", ["web"], _quiet())


def _workers(count: int) -> list[ChildSpec]:
    names = [Config.WORKER_ID, *(f"{Config.WORKER_ID}-{n}" for n in range(2, count + 1))]
    return [
        ChildSpec(
            "worker" if number == 1 else f"worker-{number}",
            ["worker", "--grace", str(WORKER_GRACE_SECONDS)],
            {**_quiet(), "WORKER_ID": name},
        )
        for number, name in enumerate(names, start=1)
    ]


def _quiet() -> dict[str, str]:
    """Return what keeps the children from talking across each other, unless LOG_LEVEL asks."""
    is_set = Config.settings()["LOG_LEVEL"].source == "environment"
    return {} if is_set else {"LOG_LEVEL": "WARNING"}


@dataclass
class _Run:
    """What `up` itself does while its children run.

    Attributes:
        addresses: Where the services are.
        server_dir: Where everything is kept.
        display: What people see.
        photos: What to import.
    """

    addresses: LocalAddresses
    server_dir: Path
    display: UpDisplay
    photos: Path | None

    def __post_init__(self) -> None:
        self._admin: dict[str, str] | None = None
        self._token = ""
        self._is_ready = False
        self._stopping = threading.Event()
        self._import: threading.Thread | None = None

    def hear(self, _child: str, facts: dict[str, Any]) -> None:
        """Take in what a child reports."""
        if "admin" in facts:
            self._admin = facts["admin"]
        if "token" in facts:
            self._token = facts["token"]
            if self._is_ready:
                self._write_note()

    def be_ready(self) -> None:
        """Tell people and the command line where the server is; then import."""
        self._is_ready = True
        self._write_note()
        self.display.show_server(self.addresses, self.server_dir)
        self._show_admin()
        if self.photos is not None:
            self._import = threading.Thread(target=self._run_import, args=(self.photos,))
            self._import.daemon = True
            self._import.start()

    def end(self) -> None:
        """Take back what was told."""
        self._stopping.set()
        if self._import is not None:
            self._import.join(IMPORT_END_SECONDS)  # it leaves the terminal as it was
        remove_local_server(Path(Config.CL_USER_CONFIG_DIR), pid=os.getpid())
        self._show_admin()  # it may be over before all were ready

    def _show_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            self.display.show_admin(admin["username"], admin["password"])

    def _write_note(self) -> None:
        note = LocalServer(
            auth_url=self.addresses.auth_url,
            store_url=self.addresses.store_url,
            compute_url=self.addresses.compute_url,
            mqtt_url=self.addresses.mqtt_url,
            server_dir=str(self.server_dir.absolute()),
            pid=os.getpid(),
            token=self._token,
        )
        config_dir = Path(Config.CL_USER_CONFIG_DIR)
        try:
            write_local_server(config_dir, note)
        except OSError as error:
            self.display.warn(
                f"{config_dir} cannot be written to ({error.strerror}): "
                "the command line needs cl-server login"
            )

    def _run_import(self, photos: Path) -> None:
        from cl_server.cli.up_import import import_photos
        from cl_server.client import Client, ClientError

        urls = (self.addresses.store_url, self.addresses.auth_url)
        with Client(*urls, token=lambda: self._token) as client:
            try:
                import_photos(
                    client,
                    photos,
                    leave_out=self.server_dir,
                    display=self.display,
                    stopping=self._stopping,
                )
            except ClientError as error:
                if not self._stopping.is_set():
                    self.display.warn(f"the import of {photos} was given up: {error}")
