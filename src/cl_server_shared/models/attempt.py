"""`job_attempts`: attempts that did not simply succeed, and what each left behind."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, ForeignKey, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, RowId, Timestamp

__all__ = ["JobAttempt"]


class JobAttempt(Base):
    """An attempt that failed or left a log; one that succeeded in silence needs no row.

    Attributes:
        entry_id: The job's `jobs.id`.
        attempt: Its number: 1 for the first, and again for the first after `retry_job`.
        worker: What people call the worker that ran it (`WORKER_ID`), where that is known.
        started_at: When it began, where that is known.
        ended_at: When its end was written.
        outcome: How it ended.
        error: The sentence that says why it did not complete.
        traceback: Where it was raised.
        output: The last 64 KiB of what the module printed and logged.
    """

    __tablename__ = "job_attempts"

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    entry_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("jobs.id", ondelete="CASCADE"), index=True
    )
    attempt: Mapped[int] = mapped_column(Integer)
    worker: Mapped[Optional[str]] = mapped_column(String(255))
    started_at: Mapped[Optional[int]] = mapped_column(Timestamp)
    ended_at: Mapped[int] = mapped_column(Timestamp)
    outcome: Mapped[str] = mapped_column(String(20))
    error: Mapped[Optional[str]] = mapped_column(Text)
    traceback: Mapped[Optional[str]] = mapped_column(Text)
    output: Mapped[Optional[str]] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(
            "outcome IN ('completed', 'error', 'timeout', 'crash', 'lost', 'cancelled', "
            "'postponed')",
            name="ck_job_attempts_outcome",
        ),
    )
