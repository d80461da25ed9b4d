"""`duties`: which process holds which maintenance duty."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Timestamp

__all__ = ["Duty"]


class Duty(Base):
    """A maintenance duty and its one holder.

    Attributes:
        name: The duty.
        holder: Made at random by the process that holds it.
        expires_at: Until when it does; then anybody may take it.
        cursor: How far a duty came that goes through events in their order.
    """

    __tablename__ = "duties"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    holder: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(Timestamp)
    cursor: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
