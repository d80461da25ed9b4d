"""The store's own tables, on the same `Base` as the jobs that it shares with the workers."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cl_server_shared.models import Base
from cl_server_shared.models.base import RowId, Timestamp

__all__ = ["Entity", "StorageFolder"]


class Entity(Base):
    """A media file or a collection of such.

    Attributes:
        is_collection: Whether it holds others instead of a file.
        parent_id: The collection that it is in; NULL: the root.
        added_date: When it came in.
        updated_date: When it was last changed.
        create_date: When the picture was taken.
        added_by: A user's `sub`.
        updated_by: A user's `sub`.
        file_name: What the client called the file.
        file_size: In bytes.
        height: In pixels, as the picture is shown.
        width: In pixels, as the picture is shown.
        duration: In seconds.
        type: `image`, `video`, `audio`, `text` or `other`; NULL for a collection.
        extension: Without the dot.
        md5: In hex, for clients that look for it.
        sha256: In hex; where the bytes are (`media_files`).
    """

    __tablename__ = "entities"

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    is_collection: Mapped[bool] = mapped_column(Boolean)
    label: Mapped[str | None] = mapped_column(String(255), index=True)
    description: Mapped[str | None] = mapped_column(Text)
    parent_id: Mapped[int | None] = mapped_column(RowId, ForeignKey("entities.id"), index=True)
    added_date: Mapped[int] = mapped_column(Timestamp)
    updated_date: Mapped[int] = mapped_column(Timestamp)
    create_date: Mapped[int | None] = mapped_column(Timestamp)
    added_by: Mapped[str | None] = mapped_column(String(255))
    updated_by: Mapped[str | None] = mapped_column(String(255))
    file_name: Mapped[str | None] = mapped_column(String(255))
    file_size: Mapped[int | None] = mapped_column(BigInteger)
    height: Mapped[int | None] = mapped_column(Integer)
    width: Mapped[int | None] = mapped_column(Integer)
    duration: Mapped[float | None] = mapped_column(Float)
    mime_type: Mapped[str | None] = mapped_column(String(255))
    type: Mapped[str | None] = mapped_column(String(20))
    extension: Mapped[str | None] = mapped_column(String(20))
    md5: Mapped[str | None] = mapped_column(String(32), index=True)
    sha256: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (
        CheckConstraint("is_collection = (sha256 IS NULL)", name="ck_entities_collection_or_file"),
        CheckConstraint(
            "type IN ('image', 'video', 'audio', 'text', 'other')", name="ck_entities_type"
        ),
        # Two uploads of the same bytes at the same time become one entity.
        Index("ix_entities_sha256", "sha256", unique=True),
        # An id is never given twice, even after the newest entity was deleted.
        {"sqlite_autoincrement": True},
    )


class StorageFolder(Base):
    """A folder that belongs to this database, known by the marker file in it.

    Attributes:
        kind: `media` or `compute`.
        marker: What the marker file says.
        created_at: When both were made.
    """

    __tablename__ = "storage_folders"

    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    marker: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(Timestamp)
