"""`job_counts`: how many jobs ended, per minute, task type and outcome."""

from __future__ import annotations

from sqlalchemy import Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Timestamp

__all__ = ["JobCount"]


class JobCount(Base):
    """The jobs of one task type that ended in one minute with one outcome.

    Attributes:
        minute: When it began.
        task_type: The task.
        outcome: `completed`, `failed`, `cancelled`; and `retrying`, attempts that run again.
        count: How many.
    """

    __tablename__ = "job_counts"

    minute: Mapped[int] = mapped_column(Timestamp, primary_key=True, autoincrement=False)
    task_type: Mapped[str] = mapped_column(String(255), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(20), primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
