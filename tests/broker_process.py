"""A real broker of a test's own, which it may stop, kill and start again on the same port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import pytest

from ports import free_port

# On a machine without mosquitto: the embedded broker, which exists from Python 3.11 on.
AMQTT = """
import asyncio, sys
from amqtt.broker import Broker

async def main():
    await Broker({
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
user root
max_queued_messages 0
"""


def mosquitto_program() -> Optional[str]:
    """Return where mosquitto is; Debian keeps it in a folder that is not on everyone's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class BrokerProcess:
    """A broker on loopback: mosquitto where it is installed, else amqtt."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, port: Optional[int] = None) -> None:
        self.port = port or free_port()
        self._folder = folder
        self._process: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> BrokerProcess:
        """Start it and wait until it listens."""
        config = self._folder / f"mosquitto-{self.port}.conf"
        config.write_text(MOSQUITTO.format(port=self.port))
        program = mosquitto_program()
        command = (
            [program, "-c", str(config)]
            if program
            else [sys.executable, "-c", AMQTT, str(self.port)]
        )
        with (self._folder / f"broker-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until_listening(self.port)
        return self

    def freeze(self) -> None:
        """Have it do nothing until it thaws: its clients see a connection that is silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once: its clients see a broken connection."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def wait_until_listening(port: int, timeout_seconds: float = 15.0) -> None:
    """Return once something accepts connections on a port of this machine."""
    give_up = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def point_to(broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, *, topic: str) -> None:
    """Make `Config` name a broker."""
    monkeypatch.setenv("BROADCAST_TYPE", "mqtt")
    monkeypatch.setenv("MQTT_BROKER", broker.host)
    monkeypatch.setenv("MQTT_PORT", str(broker.port))
    monkeypatch.setenv("MQTT_TOPIC", topic)
