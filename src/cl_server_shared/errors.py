"""What `cl_server_shared` raises on purpose, beyond the toolkit's own (`cl_ml_tools.errors`).

SharedError
├── InvalidSetting (ValueError)      a variable that `Config` reads is malformed, or missing
├── UnknownJob (LookupError)         there is no job with that id
├── DatabaseBusy (TimeoutError)      SQLite's one write lock was held for longer than its time-out
└── DatabaseUnavailable              the database cannot be reached, or has not its tables
"""

from __future__ import annotations

__all__ = ["DatabaseBusy", "DatabaseUnavailable", "InvalidSetting", "SharedError", "UnknownJob"]


class SharedError(Exception):
    """The base of all errors of this package."""


class InvalidSetting(SharedError, ValueError):
    """A variable that `Config` reads is malformed, or missing; the message names it."""


class UnknownJob(SharedError, LookupError):
    """There is no job with this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class DatabaseBusy(SharedError, TimeoutError):
    """SQLite's one write lock was held by others for longer than the connection's time-out."""


class DatabaseUnavailable(SharedError):
    """The database cannot be reached, or lacks the tables; the driver's error is its cause."""
