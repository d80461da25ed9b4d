"""The declarative base of the repository's tables; a library user's own models may use it too."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import DeclarativeBase

# SQLite counts up only an INTEGER key by itself; PostgreSQL's INTEGER ends at two thousand million.
RowId = BigInteger().with_variant(Integer, "sqlite")

# Milliseconds since the epoch, UTC.
Timestamp = BigInteger


class Base(DeclarativeBase):
    """Base of all models. Timestamps are integers: milliseconds since the epoch, UTC."""
