"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

# Below those that Linux gives to outgoing connections: one of them may be taken again before the
# server that is to have it has started. Drawn, so that tests that run beside each other differ.
_PORTS = range(15_000, 32_000)
_draw = random.SystemRandom()
_drawn: set[int] = set()


def free_port() -> int:
    """Return a TCP port of loopback on which nothing listens; another one at each call."""
    while True:
        port = _draw.choice(_PORTS)
        if port not in _drawn and _can_be_had(port):
            _drawn.add(port)
            return port


def _can_be_had(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
