"""Telling everyone who is interested what happens: one broadcaster per process."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Optional, Union

from ..errors import MissingExtra
from .base import Broadcaster, NoOpBroadcaster
from .events import job_event, to_json
from .mqtt import MQTTBroadcaster

__all__ = [
    "Broadcaster",
    "MQTTBroadcaster",
    "NoOpBroadcaster",
    "get_broadcaster",
    "job_event",
    "shutdown_broadcaster",
    "to_json",
]

logger = logging.getLogger(__name__)


class _ProcessBroadcaster:
    """The process's broadcaster and what it was asked for with."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.lock = threading.Lock()
        self.current: Optional[Union[MQTTBroadcaster, NoOpBroadcaster]] = None
        self.arguments: tuple[Any, ...] = ()
        self.said_so = False


_process = _ProcessBroadcaster()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)


def get_broadcaster(
    broadcast_type: str,
    broker: str,
    port: int,
    *,
    username: Optional[str] = None,
    password: Optional[str] = None,
    tls: bool = False,
) -> Union[MQTTBroadcaster, NoOpBroadcaster]:
    """Return the broadcaster of this process; the first call makes it, a forked child its own.

    It connects in the background at its first `connect`, publish or subscribe. A later call with
    other arguments gets the same one, and one log line says so.

    Args:
        broadcast_type: `mqtt`; anything else makes a `NoOpBroadcaster`.
        broker: The broker's host.
        port: The broker's port.
        username: `None`: the broker asks for none.
        password: With the user name.
        tls: Whether to connect through TLS, checked against the system's certificates.
    """
    arguments = (broadcast_type, broker, port, username, password, tls)
    with _process.lock:
        if _process.current is None:
            _process.current, _process.arguments = _make(*arguments), arguments
        elif _process.arguments != arguments and not _process.said_so:
            _process.said_so = True
            made_with, asked_for = _process.arguments[:3], arguments[:3]
            logger.warning(
                "this process has its broadcaster already, made for %s %s:%s; "
                "it stays, also for %s %s:%s",
                *made_with,
                *asked_for,
            )
        return _process.current


def shutdown_broadcaster() -> None:
    """End this process's broadcaster; `get_broadcaster` makes a new one. May be called twice.

    It waits at most two seconds for what the broker has not acknowledged yet.
    """
    with _process.lock:
        broadcaster, _process.current = _process.current, None
        _process.said_so = False
    if broadcaster is not None:
        broadcaster.disconnect()


def _make(
    broadcast_type: str,
    broker: str,
    port: int,
    username: Optional[str],
    password: Optional[str],
    tls: bool,
) -> Union[MQTTBroadcaster, NoOpBroadcaster]:
    if broadcast_type != "mqtt":
        return NoOpBroadcaster()
    try:
        return MQTTBroadcaster(broker, port, username=username, password=password, tls=tls)
    except MissingExtra as error:
        logger.warning("no events are published: %s", error)
        return NoOpBroadcaster()
