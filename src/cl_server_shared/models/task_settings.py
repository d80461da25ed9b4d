"""`task_settings`: what operators asked for, per task type."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Timestamp

__all__ = ["TaskSettings"]


class TaskSettings(Base):
    """Pause and limit of one task type; a type without a row has neither.

    Attributes:
        task_type: The task.
        max_running: How many of its jobs may run at once; NULL: as many as workers take.
        paused_at: Since when none is claimed; NULL: it is not paused.
        paused_by: Who paused it.
        pause_reason: Why.
    """

    __tablename__ = "task_settings"

    task_type: Mapped[str] = mapped_column(String(255), primary_key=True)
    max_running: Mapped[Optional[int]] = mapped_column(Integer)
    paused_at: Mapped[Optional[int]] = mapped_column(Timestamp)
    paused_by: Mapped[Optional[str]] = mapped_column(String(255))
    pause_reason: Mapped[Optional[str]] = mapped_column(Text)

    __table_args__ = (CheckConstraint("max_running > 0", name="ck_task_settings_max_running"),)
