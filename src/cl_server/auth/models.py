"""`users`: the auth service's only table, on a base of its own."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "User"]


class Base(DeclarativeBase):
    """Base of the auth service's models: its database is its own."""


class User(Base):
    """Somebody who may sign in.

    Attributes:
        id: Never given twice; a token's `sub`.
        username: What they sign in with.
        password_hash: argon2id, with its parameters.
        is_admin: Whether they may do everything.
        is_active: Whether they may sign in.
        permissions: JSON: a list of names.
        created_at: In milliseconds since the epoch, UTC.
    """

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    username: Mapped[str] = mapped_column(String(150), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    is_admin: Mapped[bool] = mapped_column(Boolean)
    is_active: Mapped[bool] = mapped_column(Boolean)
    permissions: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("username <> ''", name="ck_users_username"),
        # An id is never given twice: a deleted user's token must not become another's.
        {"sqlite_autoincrement": True},
    )
