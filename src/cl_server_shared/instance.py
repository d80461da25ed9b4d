"""The instance that a repository object is: one start of one worker, with a lease on its claims."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, Callable, Optional

from cl_ml_tools.protocols import Claim

from .database import Database
from .errors import SharedError
from .ids import new_instance_id
from .leases import RENEWALS_PER_LEASE, watch_of
from .sql import leases

__all__ = ["ExpiredInstances", "Instance", "keep_renewing"]

logger = logging.getLogger(__name__)

# In-memory SQLite lives and dies with its process: there a lease does not end.
ENDLESS_LEASE_MS = 2**52


class Instance:
    """One registered instance.

    Args:
        database: Where its row is.
        lease_seconds: How long it keeps its claims without renewing.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self.instance_id = new_instance_id()
        self.pid = os.getpid()
        self.renewal_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._database = database
        self._lease_ms = ENDLESS_LEASE_MS if database.in_memory else int(lease_seconds * 1000)

    def register(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> None:
        """Write its row, with a fresh lease."""
        with self._database.transaction() as transaction:
            leases.register_instance(
                transaction,
                self.instance_id,
                label=label,
                host=socket.gethostname(),
                pid=self.pid,
                capabilities=capabilities,
                concurrency=concurrency,
                lease_ms=self._lease_ms,
            )

    def renew(self, running: int) -> Optional[list[Claim]]:
        """Renew the lease and return its claims; `None` where it is not known any more."""
        with self._database.transaction() as transaction:
            return leases.renew_lease(transaction, self.instance_id, self._lease_ms, running)

    def forget(self) -> None:
        """Delete its row."""
        with self._database.transaction() as transaction:
            leases.forget_instance(transaction, self.instance_id)


class ExpiredInstances:
    """Finds instances whose lease ran out.

    Args:
        database: Where their rows are.
        monotonic: A clock in seconds that never steps.
    """

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic

    def find(self) -> list[leases.Lease]:
        """Return the leases of dead instances.

        PostgreSQL's one clock decides at once; for SQLite see `LeaseWatch`.
        """
        with self._database.reading() as transaction:
            seen = leases.select_leases(transaction)
        if self._database.dialect != "sqlite":
            return [lease for lease in seen if lease.is_over]
        return watch_of(self._database.bind, "workers").expired(seen, self._monotonic())


def keep_renewing(renew: Callable[[Instance], bool], instance: Instance) -> None:
    """Call an object's method at intervals, on a daemon thread, for as long as the object lives.

    Args:
        renew: A bound method. Its object is held weakly, so that the thread does not keep it
            alive; the thread ends where it returns False.
        instance: What it is called with; says how often.
    """
    method, stop = weakref.WeakMethod(renew, lambda _: stop.set()), threading.Event()

    def run() -> None:
        while not stop.wait(instance.renewal_seconds):
            current = method()
            if current is None:
                return
            try:
                if not current(instance):
                    return
            except SharedError as error:
                logger.warning("the lease was not renewed: %s", error)
            del current

    threading.Thread(target=run, name="cl-lease", daemon=True).start()
