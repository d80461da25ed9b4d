"""What a repository object holds: the instance that it is, and its claims."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional
from weakref import WeakMethod

from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.protocols import Claim, ClaimedJob

from .config import Config
from .database import Database
from .instance import Instance, keep_renewing
from .sql.jobs import JobState

__all__ = ["Holdings"]

logger = logging.getLogger(__name__)


class Holdings:
    """The instance that a repository object is, from its first claim on, and what it has claimed.

    Args:
        database: Where the instance is registered.
        lease_seconds: How long claims are kept without renewal; `None`: `WORKER_LEASE_SECONDS`.
        keep: The repository object's method that is called at intervals with a plain caller's
            instance. Held weakly, so that an object which nobody uses any more is gone.
    """

    def __init__(
        self,
        database: Database,
        lease_seconds: Optional[float],
        keep: Callable[[Instance], bool],
    ) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._keep = WeakMethod(keep)
        self._instance: Optional[Instance] = None
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {}
        self._unknown: set[Claim] = set()

    @property
    def lease_seconds(self) -> float:
        """How long claims are kept without renewal."""
        return Config.WORKER_LEASE_SECONDS if self._lease_seconds is None else self._lease_seconds

    @property
    def claim_count(self) -> int:
        """How many jobs are claimed."""
        return len(self._claims)

    def register(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> int:
        """Become a new instance, with a fresh lease and no claims, and return its id."""
        instance = self._register(label, capabilities, concurrency)
        self._claims.clear()
        return instance.instance_id

    def _register(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> Instance:
        instance = Instance(self._database, self.lease_seconds)
        instance.register(label, capabilities, concurrency)
        self._instance = instance
        return instance

    def instance(self) -> Optional[Instance]:
        """Return the instance that the object is; after a fork, the parent is that one."""
        instance = self._instance
        if instance is not None and instance.pid != os.getpid():
            self._lock = threading.Lock()  # a thread of the parent's may have held it
            self._claims.clear()
            self._instance = instance = None
        return instance

    def claiming_instance(self) -> int:
        """Return the object's instance id; a plain caller becomes one at its first claim."""
        instance = self.instance()
        if instance is not None:
            return instance.instance_id
        with self._lock:
            instance = self._instance
            if instance is None:
                instance = self._register(Config.WORKER_ID, {}, concurrency=0)
                keep = self._keep()
                if keep is not None and not self._database.in_memory:
                    keep_renewing(keep, instance)
            return instance.instance_id

    def forget_instance(self) -> None:
        """Be no instance any more, and hold nothing."""
        self._instance = None
        self._claims.clear()

    def lose_instance(self) -> None:
        """Be no instance any more: its lease ran out. What it claimed is remembered as lost."""
        self._instance = None

    def took(self, claimed: Iterable[ClaimedJob]) -> None:
        """Remember claims that were made."""
        self._claims.update({item.claim.job_id: item.claim for item in claimed})

    def let_go(self, job_id: str) -> None:
        """Forget the claim on a job."""
        self._claims.pop(job_id, None)

    def recognise(self, job_id: str, state: JobState) -> None:
        """Hold a job that is this object's by what the database says: its claim's answer was lost."""
        instance = self._instance
        if instance is None or job_id in self._claims or state.claim_seq is None:
            return
        if state.claimed_by == instance.instance_id:
            self._claims[job_id] = Claim(job_id, state.id, state.claimed_by, state.claim_seq)

    def check(self, job_id: str, state: JobState) -> None:
        """Raise `ClaimLost` where the job is another's, or is this object's no more.

        A claim that was taken away is remembered: nothing is written until the job is claimed anew.
        """
        mine = self._claims.get(job_id)
        if mine is not None:
            if (state.claimed_by, state.claim_seq) != (mine.instance_id, mine.claim_seq):
                raise ClaimLost(job_id)
        elif state.claimed_by is not None and state.lease_is_live:
            raise ClaimLost(job_id)

    def unknown_twice(self, known: Iterable[Claim]) -> list[Claim]:
        """Return claims that the database knows, and that this object did not at two renewals.

        A claim's answer was lost on its way, then. At the first one it may still be coming.
        """
        held = set(self._claims.values())
        before, self._unknown = self._unknown, {claim for claim in known if claim not in held}
        return [claim for claim in self._unknown if claim in before]
