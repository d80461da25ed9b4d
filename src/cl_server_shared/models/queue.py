"""`queue_entries`: what still has to run, one narrow row per live job; and a job's options.

A claim reads this table alone, so that it costs the same with ten finished jobs as with ten
million. `id` is the job's `jobs.id`.
"""

from __future__ import annotations

from typing import Optional

from sqlalchemy import BigInteger, CheckConstraint, Float, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, RowId, Timestamp, partial_index

__all__ = ["JobOptions", "QueueEntry"]


class QueueEntry(Base):
    """A live job's place in the queue, and who runs it.

    Attributes:
        enqueued_at: When it first became due; the time it waited for, where it was claimed before.
        rank: Its place, lowest first (`cl_ml_tools.jobs.rank_of`); NULL while it is not due.
        available_at: When it becomes due; NULL once it is.
        claimed_by: The worker instance that runs it.
        claim_seq: Grows with each claim: the fencing token.
        cancel_requested: Whether whoever runs it shall end it.
        timeout_seconds: How long one attempt may take; NULL: the worker's own limit.
    """

    __tablename__ = "queue_entries"

    id: Mapped[int] = mapped_column(
        RowId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    job_id: Mapped[str] = mapped_column(String(255), unique=True, index=True)
    task_type: Mapped[str] = mapped_column(String(255))
    priority: Mapped[int] = mapped_column(Integer, default=5, server_default="5")
    enqueued_at: Mapped[int] = mapped_column(Timestamp, index=True)
    rank: Mapped[Optional[int]] = mapped_column(BigInteger)
    available_at: Mapped[Optional[int]] = mapped_column(Timestamp)
    claimed_by: Mapped[Optional[int]] = mapped_column(BigInteger)
    claim_seq: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    cancel_requested: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    timeout_seconds: Mapped[Optional[float]] = mapped_column(Float)

    __table_args__ = (
        CheckConstraint("priority BETWEEN 0 AND 10", name="ck_queue_entries_priority"),
        CheckConstraint(
            "(rank IS NULL) = (available_at IS NOT NULL)", name="ck_queue_entries_due_or_not"
        ),
        CheckConstraint(
            "claimed_by IS NULL OR rank IS NOT NULL", name="ck_queue_entries_claimed_is_due"
        ),
        CheckConstraint("cancel_requested IN (0, 1)", name="ck_queue_entries_cancel_requested"),
        CheckConstraint("timeout_seconds > 0", name="ck_queue_entries_timeout_seconds"),
        partial_index(
            "ix_queue_entries_claim",
            "task_type",
            "rank",
            "id",
            where="claimed_by IS NULL AND rank IS NOT NULL",
        ),
        partial_index(
            "ix_queue_entries_available_at", "available_at", where="available_at IS NOT NULL"
        ),
        partial_index("ix_queue_entries_claimed_by", "claimed_by", where="claimed_by IS NOT NULL"),
    )


class JobOptions(Base):
    """What was asked for beyond the defaults; a job without such wishes has no row.

    Attributes:
        priority: 0 to 10; the queue entry has it too, but only while the job lives.
        timeout_seconds: As the queue entry's.
        idempotency_key: A second request with this key is the first job again.
    """

    __tablename__ = "job_options"

    id: Mapped[int] = mapped_column(
        RowId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    priority: Mapped[int] = mapped_column(Integer, default=5, server_default="5")
    timeout_seconds: Mapped[Optional[float]] = mapped_column(Float)
    idempotency_key: Mapped[Optional[str]] = mapped_column(String(255), unique=True)
