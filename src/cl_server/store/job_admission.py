"""Whether more jobs are taken: not while too many of one user, or of all, wait."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cl_server.http.errors import TooManyRequests

from .repository import JobReader

__all__ = ["JobAdmission"]

# A count is believed this long at least, and so long that counting takes a twentieth of the time:
# 100,000 jobs by user take a tenth of a second.
MIN_BELIEVED_SECONDS = 1.0
BELIEVED_PER_COUNTING = 20.0


@dataclass
class _Counted:
    """What was found when it was last counted, and what was added here since.

    Attributes:
        total: How many jobs waited or ran.
        by_user: How many of each maker; `None`: all together were fewer than one may have.
        good_until: Until when it is believed, on the monotonic clock.
        added: How many were added through this process since, by maker.
        added_total: How many by all.
    """

    total: int
    by_user: dict[str | None, int] | None
    good_until: float
    added: Counter[str] = field(default_factory=Counter)
    added_total: int = 0

    @property
    def total_now(self) -> int:
        return self.total + self.added_total

    def of_user(self, sub: str) -> int:
        return (self.by_user or {}).get(sub, 0) + self.added[sub]


class JobAdmission:
    """Counts what waits, rarely, and refuses what is too much.

    A job whose files still come in counts as well, so that requests at once are no way around.

    Args:
        reader: Where jobs are counted.
        max_jobs: How many may wait or run; 0: as many as come.
        max_jobs_per_user: How many of one user; 0: as many as come.
        monotonic: Seconds that never step, for tests.
    """

    def __init__(
        self,
        reader: JobReader,
        *,
        max_jobs: int,
        max_jobs_per_user: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._max_jobs = max_jobs
        self._max_jobs_per_user = max_jobs_per_user
        self._monotonic = monotonic
        self._counting = threading.Lock()
        self._noting = threading.Lock()
        self._counted: _Counted | None = None
        self._coming: Counter[str] = Counter()  # admitted, and neither added nor given up yet

    def admit(self, sub: str) -> None:
        """Let this user add a job now; `settle` has to follow.

        Raises:
            TooManyRequests: Too many of theirs, or of all, wait or run.
        """
        counted = self._count() if self._max_jobs or self._max_jobs_per_user else None
        with self._noting:
            if counted is not None:
                self._refuse_more(counted, sub)
            self._coming[sub] += 1

    def settle(self, sub: str, *, added: bool) -> None:
        """Say what became of an admitted job: whether it was added."""
        with self._noting:
            self._coming -= Counter([sub])  # which keeps no zero
            if added and self._counted is not None:
                self._counted.added[sub] += 1
                self._counted.added_total += 1

    def _refuse_more(self, counted: _Counted, sub: str) -> None:
        of_user = counted.of_user(sub) + self._coming[sub]
        if self._max_jobs_per_user and of_user >= self._max_jobs_per_user:
            whose, limit, name = "of yours ", self._max_jobs_per_user, "MAX_WAITING_JOBS_PER_USER"
        elif self._max_jobs and counted.total_now + self._coming.total() >= self._max_jobs:
            whose, limit, name = "", self._max_jobs, "MAX_WAITING_JOBS"
        else:
            return
        raise TooManyRequests(
            f"{limit} jobs {whose}wait already, the limit of this server ({name}): try again later",
            retry_after_seconds=max(1, math.ceil(counted.good_until - self._monotonic())),
        )

    def _count(self) -> _Counted:
        """Return the last count, or a new one; while one thread counts, others use the last."""
        counted = self._counted
        if counted is not None and not self._is_due(counted):
            return counted
        if not self._counting.acquire(blocking=counted is None):
            assert counted is not None
            return counted
        try:
            counted = self._counted
            if counted is None or self._is_due(counted):
                counted = self._counted = self._count_now()
            return counted
        finally:
            self._counting.release()

    def _is_due(self, counted: _Counted) -> bool:
        return self._monotonic() >= counted.good_until or (
            counted.by_user is None and self._matters_whose(counted.total_now)
        )

    def _matters_whose(self, total: int) -> bool:
        """Return whether so many, with those that come in now, may be too many of one user."""
        limit = self._max_jobs_per_user
        with self._noting:
            return bool(limit) and total + self._coming.total() >= limit

    def _count_now(self) -> _Counted:
        started = self._monotonic()
        total = self._reader.count_live_jobs(max(self._max_jobs, self._max_jobs_per_user))
        by_user = None
        if self._matters_whose(total):
            by_user = self._reader.count_live_jobs_by_user()
        ended = self._monotonic()
        believed = max(MIN_BELIEVED_SECONDS, BELIEVED_PER_COUNTING * (ended - started))
        return _Counted(total, by_user, ended + believed)
