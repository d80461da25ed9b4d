"""`workers`: a row per live worker instance, and its lease."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Timestamp

__all__ = ["WorkerInstance"]


class WorkerInstance(Base):
    """One start of one worker, or of one repository object that claims by itself.

    Attributes:
        instance_id: Made at random at each start.
        label: What people call it (`WORKER_ID`); several may share one.
        host: Where it runs.
        pid: As which process.
        capabilities: What it runs: a JSON object, the parameters' JSON Schema per task type.
        concurrency: How many jobs it runs at once; 0: it serves no one, it only claims.
        running: How many it runs now.
        started_at: When it came up.
        renewed_at: When it last renewed its lease.
        lease_expires_at: When what it claimed may be taken away.
    """

    __tablename__ = "workers"

    instance_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    label: Mapped[str] = mapped_column(String(255))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    capabilities: Mapped[str] = mapped_column(Text)
    concurrency: Mapped[int] = mapped_column(Integer)
    running: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    started_at: Mapped[int] = mapped_column(Timestamp)
    renewed_at: Mapped[int] = mapped_column(Timestamp)
    lease_expires_at: Mapped[int] = mapped_column(Timestamp, index=True)
