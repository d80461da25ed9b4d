"""The rescue: jobs of workers that went silent are queued again, or ended."""

from __future__ import annotations

import time
from typing import Protocol

from .passes import Pass

__all__ = ["Rescuer", "rescue_jobs"]

PASS_SECONDS = 2.0


class Rescuer(Protocol):
    """What can take jobs back: a `WorkQueue`."""

    def rescue_expired_jobs(self) -> int:
        """Take some back; return how many."""
        ...


def rescue_jobs(queue: Rescuer) -> Pass:
    """Take back what instances held whose lease ran out.

    Args:
        queue: Where the jobs are. On SQLite it must be asked again and again to be sure.
    """
    give_up = time.monotonic() + PASS_SECONDS
    rescued = batch = queue.rescue_expired_jobs()
    while batch and time.monotonic() < give_up:
        batch = queue.rescue_expired_jobs()
        rescued += batch
    return Pass({"jobs_rescued": rescued}, more=batch > 0)
