"""Leases seen from outside: when an instance that went silent may be taken for dead."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from .sql.leases import Lease

__all__ = ["LeaseWatch", "watch_of"]


@dataclass(frozen=True)
class _Sighting:
    renewed_at: int
    seen_at: float


class LeaseWatch:
    """Decides, on SQLite, whose lease ran out: by what it saw itself, not by the wall clock alone.

    The wall clock there is each process's own. It may step, and a laptop may sleep; a lease that
    looks expired then is renewed within a moment. So an instance counts as dead when its lease
    is over and it was not renewed for a renewal's time under this watch; or, should the clock have
    been put back, when it was not renewed for a whole lease.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sightings: dict[int, _Sighting] = {}

    def expired(
        self, leases: Iterable[Lease], monotonic_seconds: float, renewal_seconds: float
    ) -> list[Lease]:
        """Return the leases that are surely over, out of all that there are.

        Args:
            leases: Every instance's lease as it is now.
            monotonic_seconds: A clock that never steps.
            renewal_seconds: How often a live instance renews.
        """
        with self._lock:
            return self._look(leases, monotonic_seconds, renewal_seconds)

    def _look(
        self, leases: Iterable[Lease], monotonic_seconds: float, renewal_seconds: float
    ) -> list[Lease]:
        before, self._sightings = self._sightings, {}
        over = []
        for lease in leases:
            seen = before.get(lease.instance_id)
            if seen is None or seen.renewed_at != lease.renewed_at:
                seen = _Sighting(lease.renewed_at, monotonic_seconds)
            self._sightings[lease.instance_id] = seen
            silent_seconds = monotonic_seconds - seen.seen_at
            lease_seconds = (lease.expires_at - lease.renewed_at) / 1000
            if silent_seconds >= (renewal_seconds if lease.is_over else lease_seconds):
                over.append(lease)
        return over


# What this process saw of each database: whoever looks, the next one goes on from there.
_watches: WeakKeyDictionary[Any, dict[str, LeaseWatch]] = WeakKeyDictionary()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watches.clear)


def watch_of(bind: Any, subject: str) -> LeaseWatch:
    """Return this process's watch over something.

    Args:
        bind: The database's engine.
        subject: What is watched: `workers`, or the name of a duty.
    """
    return _watches.setdefault(bind, {}).setdefault(subject, LeaseWatch())
