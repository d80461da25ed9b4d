"""What CL Server is measured beside: other queues, each used as its own documentation says.

A file per queue behind `peer.Peer`; `peers_on` lists them. One that is not installed,
or whose server is not there, is named in the results as absent.
"""

from __future__ import annotations

from .celery import CeleryPeer
from .huey import HueyPeer
from .litequeue import LitequeuePeer
from .peer import Peer
from .persistqueue import PersistQueuePeer
from .pgqueuer import PgQueuerPeer
from .procrastinate import ProcrastinatePeer

__all__ = ["peers_on"]


def peers_on(database: str, synchronous: str) -> tuple[Peer, ...]:
    """Return what is measured beside CL Server.

    Args:
        database: `sqlite` or `postgresql`.
        synchronous: SQLite's: `NORMAL` or `FULL`.
    """
    if database == "sqlite":
        return HueyPeer(synchronous), LitequeuePeer(synchronous), PersistQueuePeer(synchronous)
    return ProcrastinatePeer(), PgQueuerPeer(10), PgQueuerPeer(100), CeleryPeer()
