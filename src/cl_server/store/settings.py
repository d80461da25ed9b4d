"""What the store has to know, as plain values; the command line fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StoreSettings"]


@dataclass(frozen=True)
class StoreSettings:
    """What the store has to know.

    Attributes:
        database_url: Where its tables and the jobs are.
        media_dir: The folder of the media files.
        compute_dir: The folder of the job workspaces.
        public_key_path: The key that verifies tokens.
        max_upload_bytes: How large each uploaded file may be.
        capability_cache_seconds: How long a list of workers is believed.
        max_waiting_jobs: How many jobs may wait or run; 0: as many as come.
        max_waiting_jobs_per_user: How many of one user; 0: as many as come.
        cancel_wait_seconds: How long a request to delete a running job waits for its end.
        auth_disabled: Whether everyone may do everything.
        read_auth_enabled: Whether reading media needs a token.
        worker_lease_seconds: How long a silent worker keeps its jobs.
        event_retention_hours: How long events are kept.
        job_retention_days: How long ended jobs are kept; 0: for ever.
    """

    database_url: str
    media_dir: Path
    compute_dir: Path
    public_key_path: Path
    max_upload_bytes: int
    capability_cache_seconds: float
    max_waiting_jobs: int = 0
    max_waiting_jobs_per_user: int = 0
    cancel_wait_seconds: float = 10.0
    auth_disabled: bool = False
    read_auth_enabled: bool = True
    worker_lease_seconds: float = 60.0
    event_retention_hours: int = 24
    job_retention_days: int = 0
