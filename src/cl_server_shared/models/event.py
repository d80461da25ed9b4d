"""`job_events`: the outbox, and what `/events` replays."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import BigInteger, CheckConstraint, Integer, Sequence, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, RowId, Timestamp, partial_index

__all__ = ["JobEvent"]


# Where `JobEvent.position` comes from on PostgreSQL; SQLite has no sequences and needs none.
POSITION_SEQUENCE = Sequence("job_events_position_seq", metadata=Base.metadata)


class JobEvent(Base):
    """One change of a job's state, written in the transaction that made it.

    Attributes:
        id: The event's `event_id`; grows per job.
        entry_id: The job's `jobs.id`. No foreign key: the hottest insert of all, and the
            repository writes and deletes both sides itself.
        attempt: The attempt that it is about: 1 for the first.
        detail: JSON: the `task_output` of a completed job; the error, a string, of a failed one.
        acknowledged_at: When the broker had it; NULL: not yet.
        position: Where it stands in `/events`. Serial ids become visible out of order on
            PostgreSQL, so there a number is given after the commit; on SQLite the id serves and
            this stays NULL.
    """

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    entry_id: Mapped[int] = mapped_column(RowId, index=True)
    event_type: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int] = mapped_column(Integer)
    progress: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(Timestamp)
    detail: Mapped[Optional[str]] = mapped_column(Text)
    acknowledged_at: Mapped[Optional[int]] = mapped_column(Timestamp)
    position: Mapped[Optional[int]] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint(
            "event_type IN ('queued', 'started', 'retrying', 'completed', 'failed', 'cancelled')",
            name="ck_job_events_event_type",
        ),
        partial_index("ix_job_events_unacknowledged", "id", where="acknowledged_at IS NULL"),
        partial_index(
            "ix_job_events_position", "position", unique=True, where="position IS NOT NULL"
        ).ddl_if(dialect="postgresql"),
        partial_index("ix_job_events_without_position", "id", where="position IS NULL").ddl_if(
            dialect="postgresql"
        ),
        {"sqlite_autoincrement": True},
    )
