"""`jobs`: the lasting record of every job, exactly the 14 columns of the contract."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, RowId, Timestamp

__all__ = ["Job"]


class Job(Base):
    """A job, from when it was added until it is pruned.

    `status` is `queued`, `processing`, `completed`, `error` or `cancelled`; `params` and
    `task_output` are JSON text.
    """

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(255), unique=True, index=True)
    task_type: Mapped[str] = mapped_column(String(255))
    params: Mapped[str] = mapped_column(Text, default="{}", server_default="{}")
    status: Mapped[str] = mapped_column(
        String(20), default="queued", server_default="queued", index=True
    )
    progress: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    created_at: Mapped[int] = mapped_column(Timestamp, index=True)
    started_at: Mapped[Optional[int]] = mapped_column(Timestamp)
    completed_at: Mapped[Optional[int]] = mapped_column(Timestamp)
    task_output: Mapped[Optional[str]] = mapped_column(Text)
    error_message: Mapped[Optional[str]] = mapped_column(Text)
    retry_count: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    max_retries: Mapped[int] = mapped_column(Integer, default=3, server_default="3")
    created_by: Mapped[Optional[str]] = mapped_column(String(255), index=True)

    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'processing', 'completed', 'error', 'cancelled')",
            name="ck_jobs_status",
        ),
        CheckConstraint("progress BETWEEN 0 AND 100", name="ck_jobs_progress"),
        CheckConstraint(
            "(status IN ('completed', 'error', 'cancelled')) = (completed_at IS NOT NULL)",
            name="ck_jobs_ended_if_and_only_if_completed_at",
        ),
        CheckConstraint(
            "status <> 'processing' OR started_at IS NOT NULL", name="ck_jobs_started_at"
        ),
        CheckConstraint("max_retries BETWEEN 0 AND 50", name="ck_jobs_max_retries"),
        CheckConstraint("retry_count BETWEEN 0 AND max_retries", name="ck_jobs_retry_count"),
        # An id is never given twice, even after the newest job was deleted.
        {"sqlite_autoincrement": True},
    )
