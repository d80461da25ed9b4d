"""The declarative base of the repository's tables; a library user's own models may use it too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Connection, Index, Integer, Table, event, text
from sqlalchemy.orm import DeclarativeBase

# SQLite counts up only an INTEGER key by itself; PostgreSQL's INTEGER ends at two thousand million.
RowId = BigInteger().with_variant(Integer, "sqlite")

# Milliseconds since the epoch, UTC.
Timestamp = BigInteger

# Where a partial index keeps its condition until its table is created.
_WHERE = "cl_server_shared.where"


class Base(DeclarativeBase):
    """Base of all models. Timestamps are integers: milliseconds since the epoch, UTC."""


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index on the rows for which `where` holds.

    The dialect is told when the table is created: `Index(sqlite_where=..., postgresql_where=...)`
    imports every driver of both, a tenth of the time that importing this package takes.
    """
    return Index(name, *columns, unique=unique, info={_WHERE: where})


@event.listens_for(Table, "before_create")
def _tell_dialect(table: Table, connection: Connection, **_: Any) -> None:
    for index in table.indexes:
        if _WHERE in index.info:
            index.dialect_options[connection.dialect.name]["where"] = text(index.info[_WHERE])
