"""What a worker is told at its start: plain values, read from `Config` by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Until", "WorkerSettings"]

Until = Literal["stopped", "once", "drained"]


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker runs.

    Attributes:
        worker_id: What people call it; several may share one.
        concurrency: Jobs at once: the number of children.
        task_types: What it runs; empty: everything that is installed.
        until: `stopped`: until a signal; `once`: one job or none; `drained`: nothing is due.
        lease_seconds: How long its claims outlive its last sign of life.
        job_timeout_seconds: How long one attempt may take, where the job does not say.
        job_memory_bytes: How much memory one job's processes may hold together.
        poll_interval_seconds: How long it sleeps at most without having looked.
        grace_seconds: How long running jobs may go on after the first signal.
        log_level: The children's, as a name.
        metrics_port: Where its metrics are served on loopback; 0: nowhere.
    """

    worker_id: str
    concurrency: int
    task_types: tuple[str, ...]
    until: Until
    lease_seconds: float
    job_timeout_seconds: float
    job_memory_bytes: int
    poll_interval_seconds: float
    grace_seconds: float
    log_level: str
    metrics_port: int = 0
