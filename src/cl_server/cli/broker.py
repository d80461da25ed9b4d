"""`cl-server broker`, hidden: an MQTT broker on loopback, as `cl-server up` starts it.

mosquitto where it is installed, under this process, which ends it; else amqtt, in this process.
Neither asks for credentials: whoever can open a port of this machine is on it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from cl_server.cli.failures import CommandRefused
from cl_server.logs import configure_logging
from cl_server.supervisor.readiness import can_listen, is_listening
from cl_server.supervisor.reporting import report
from cl_server_shared.config import Config

__all__ = ["main"]

# Debian keeps it in a folder that is not on everyone's PATH.
ALSO_LOOKED_IN = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"

MOSQUITTO_CONFIG = """\
listener {port} {host}
allow_anonymous true
persistence false
log_dest stderr
log_type error
log_type warning
"""

START_LOOK_SECONDS = 0.01
STOP_SECONDS = 1.0


def main(
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: MQTT_PORT, 1883.")
    ] = None,
) -> None:
    """Run an MQTT broker for this machine: mosquitto where it is installed, else amqtt."""
    configure_logging(Config.LOG_LEVEL)
    port = Config.MQTT_PORT if port is None else port
    if reason := can_listen(host, port):
        raise CommandRefused(f"the broker cannot listen on {host}:{port} (MQTT_PORT): {reason}")
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=ALSO_LOOKED_IN)
    if program is not None:
        raise typer.Exit(_run_mosquitto(program, host, port))
    asyncio.run(_run_amqtt(host, port))


def _run_mosquitto(program: str, host: str, port: int) -> int:
    """Run it until a signal comes or it ends; return the exit code."""
    config = Path(Config.CL_SERVER_DIR, "mosquitto.conf")
    config.write_text(MOSQUITTO_CONFIG.format(host=host, port=port))
    process = subprocess.Popen([program, "-c", str(config)], stdin=subprocess.DEVNULL)
    is_stopped = False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        is_stopped = True
        process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while process.poll() is None and not is_listening(host, port):
        time.sleep(START_LOOK_SECONDS)
    report(ready=True)
    exit_code = process.wait()
    return 0 if is_stopped else exit_code or 1


async def _run_amqtt(host: str, port: int) -> None:
    from amqtt.broker import Broker  # type: ignore[import-untyped]

    for talkative in ("amqtt", "transitions"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await broker.start()
    report(ready=True)
    await stopping.wait()
    await asyncio.wait_for(broker.shutdown(), STOP_SECONDS)
