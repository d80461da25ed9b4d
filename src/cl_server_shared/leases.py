"""Leases seen from outside: when an instance that went silent may be taken for dead."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Optional
from weakref import WeakKeyDictionary

from .sql.leases import Lease

__all__ = ["RENEWALS_PER_LEASE", "LeaseWatch", "watch_of"]

# A lease is renewed three times before it runs out: one failed renewal, or a slow one, costs nothing.
RENEWALS_PER_LEASE = 3


@dataclass(frozen=True)
class _Sighting:
    """A lease as it was first seen.

    Attributes:
        renewed_at: What its row said.
        seen_at: When, on a clock that never steps.
        over_since: Since when it was seen to be over; `None`: it was not, the last time.
    """

    renewed_at: int
    seen_at: float
    over_since: Optional[float] = None


class LeaseWatch:
    """Decides, on SQLite, whose lease ran out: by what it saw itself, not by the wall clock alone.

    The wall clock there is each process's own. It may step, and a laptop may sleep; a lease that
    looks expired then is renewed within a moment. So an instance counts as dead when its lease
    was seen to be over twice, a renewal's time apart; or, whatever the wall clock says, when it was
    not renewed for a whole lease under this watch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sightings: dict[int, _Sighting] = {}

    def expired(
        self,
        leases: Iterable[Lease],
        monotonic_seconds: float,
        renewal_seconds: Optional[float] = None,
    ) -> list[Lease]:
        """Return the leases that are surely over, out of all that there are.

        Args:
            leases: Every instance's lease as it is now.
            monotonic_seconds: A clock that never steps.
            renewal_seconds: How often a live instance renews; `None`: as its own lease says.
        """
        with self._lock:
            before, self._sightings = self._sightings, {}
            return [
                lease
                for lease in leases
                if self._is_surely_over(
                    lease, before.get(lease.instance_id), monotonic_seconds, renewal_seconds
                )
            ]

    def _is_surely_over(
        self,
        lease: Lease,
        seen: Optional[_Sighting],
        now: float,
        renewal_seconds: Optional[float],
    ) -> bool:
        """Compare a lease with how it was seen before, and remember how it is now."""
        if seen is None or seen.renewed_at != lease.renewed_at:
            seen = _Sighting(lease.renewed_at, now)
        over_since = seen.over_since
        if not lease.is_over:
            over_since = None
        elif over_since is None:
            over_since = now
        self._sightings[lease.instance_id] = replace(seen, over_since=over_since)
        lease_seconds = (lease.expires_at - lease.renewed_at) / 1000
        if renewal_seconds is None:
            renewal_seconds = lease_seconds / RENEWALS_PER_LEASE
        return now - seen.seen_at >= lease_seconds or (
            over_since is not None and now - over_since >= renewal_seconds
        )


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
