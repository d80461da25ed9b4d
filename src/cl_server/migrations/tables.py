"""Making tables in a revision, also where `create_all` has made them already."""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import Column, inspect
from sqlalchemy.sql.schema import SchemaItem

from .errors import ForeignTable

__all__ = ["create_table"]


def create_table(name: str, *items: SchemaItem, **options: Any) -> None:
    """Create a table, or leave it be where it is there with the same columns.

    So a database that `Base.metadata.create_all` made is taken over as it is. Indexes: with
    `op.create_index(..., if_not_exists=True)`.

    Args:
        name: The table's name.
        items: Its columns and constraints.
        options: Dialect options, as `op.create_table` takes them.

    Raises:
        ForeignTable: It is there with other columns.
    """
    inspector = inspect(op.get_bind())
    if not inspector.has_table(name):
        op.create_table(name, *items, **options)
        return
    wanted = {item.name for item in items if isinstance(item, Column)}
    found = {column["name"] for column in inspector.get_columns(name)}
    if found != wanted:
        raise ForeignTable(
            f"the database has a table {name!r} that is not CL Server's (columns: "
            f"{', '.join(sorted(found))}): give CL Server a database of its own"
        )
