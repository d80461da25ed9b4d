"""Whether a port can be had, and whether something listens on it."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["can_listen", "is_listening", "loopback_address"]

CONNECT_SECONDS = 1.0


def can_listen(host: str, port: int) -> str | None:
    """Return why a port cannot be had; `None` where it can.

    Args:
        host: An address of this machine.
        port: The port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_listening(host: str, port: int) -> bool:
    """Return whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def loopback_address(host: str) -> str | None:
    """Return the loopback address that a host name stands for; `None` where it is another machine.

    127.0.0.1 where it stands for several: everything on this machine looks there.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return None
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        return None
    return "127.0.0.1" if "127.0.0.1" in found else min(found)
