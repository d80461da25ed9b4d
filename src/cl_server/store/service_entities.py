"""Entities: taking files in, finding them again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cl_ml_tools.errors import FinalError
from cl_ml_tools.media.images import read_image_info
from cl_ml_tools.media.sniffing import sniff_media
from cl_server.http.errors import BadRequest, NotFound, Unavailable
from cl_server.http.paging import Page, paginate

from .entity_draft import EntityDraft
from .media_files import MediaFiles, ReceivedFile
from .models import Entity
from .problems import wrong_field
from .repository import EntityRecord, EntityRepository
from .schemas import EntityAnswer, EntityPage, NewEntityFields

__all__ = ["EntityService", "MediaContent"]

# An entity at the root is on the first level.
MAX_LEVELS = 10

# What an answer takes from the row as it is.
COLUMNS_SHOWN = EntityAnswer.model_fields.keys() - {
    "children_count",
    "is_deleted",
    "is_indirectly_deleted",
}


@dataclass(frozen=True)
class MediaContent:
    """The bytes of an entity, and how to hand them out.

    Attributes:
        entity_id: Whose.
        path: Where they are.
        name: What to call the file.
        mime_type: As recognised from the bytes.
        sha256: In hex.
    """

    entity_id: int
    path: Path
    name: str
    mime_type: str
    sha256: str


class EntityService:
    """What one can do with entities.

    Args:
        entities: Their rows.
        files: Their bytes.
    """

    def __init__(self, entities: EntityRepository, files: MediaFiles) -> None:
        self._entities = entities
        self._files = files

    def draft_entity(self) -> EntityDraft:
        """Begin an entity; unless it was added by the end of the block, nothing of it is left."""
        return EntityDraft(self, self._files)

    def add_collection(self, fields: NewEntityFields, added_by: str) -> EntityAnswer:
        """Make a collection.

        Raises:
            Unprocessable: It cannot go where it was asked for.
        """
        self._check_parent(fields.parent_id)
        entity = _new_entity(fields, added_by)
        self._entities.add_entity(entity)
        return _answer(EntityRecord(entity, children_count=0))

    def add_media(
        self, fields: NewEntityFields, received: ReceivedFile, file_name: str, added_by: str
    ) -> tuple[EntityAnswer, bool]:
        """Keep a received file and make its entity.

        Args:
            fields: What was said about it.
            received: The file.
            file_name: What the client calls it, a single safe name.
            added_by: A user's `sub`.

        Returns:
            The entity, and whether it is new: the same bytes are never there twice.

        Raises:
            Unprocessable: It cannot go where it was asked for, or has no bytes.
        """
        if received.size == 0:
            raise wrong_field("media_file", "the file is empty")
        there = self._entities.find_by_sha256(received.sha256)
        if there is not None:
            if not self._files.has(received.sha256, received.size):
                self._files.keep(received)
            return _answer(there), False
        self._check_parent(fields.parent_id)
        entity = _new_entity(fields, added_by)
        entity.file_name = file_name
        _describe(entity, received, file_name)
        self._files.keep(received)
        if self._entities.add_entity(entity):
            return _answer(EntityRecord(entity, children_count=0)), True
        return _answer(self._get(self._entities.find_by_sha256(received.sha256))), False

    def get_entity(self, entity_id: int) -> EntityAnswer:
        """Return the entity.

        Raises:
            NotFound: There is none with this id.
        """
        return _answer(self._get(self._entities.get_entity(entity_id)))

    def list_entities(self, page: Page, *, md5: str | None, label: str | None) -> EntityPage:
        """Return a page of entities, newest first.

        Args:
            page: Which.
            md5: Only those with these bytes; empty: not given.
            label: Only those with exactly this label; empty: not given.
        """
        found, total = self._entities.list_entities(
            offset=page.offset,
            limit=page.size,
            md5=md5.lower() if md5 else None,
            label=label or None,
        )
        return EntityPage(
            items=[_answer(record) for record in found], pagination=paginate(page, total)
        )

    def find_media(self, entity_id: int) -> MediaContent:
        """Return where an entity's bytes are.

        Raises:
            NotFound: There is no such entity.
            BadRequest: It is a collection.
            Unavailable: Its file is missing from the media folder.
        """
        entity = self._get(self._entities.get_entity(entity_id)).entity
        if entity.sha256 is None or entity.mime_type is None:
            raise BadRequest(f"entity {entity_id} is a collection: it has no file")
        path = self._files.path_of(entity.sha256)
        if not path.is_file():
            raise Unavailable(f"the file of entity {entity_id} is missing from the media folder")
        suffix = f".{entity.extension}" if entity.extension else ""
        name = entity.file_name or f"{entity_id}{suffix}"
        return MediaContent(entity_id, path, name, entity.mime_type, entity.sha256)

    def _get(self, record: EntityRecord | None) -> EntityRecord:
        if record is None:
            raise NotFound("there is no such entity")
        return record

    def _check_parent(self, parent_id: int | None) -> None:
        if parent_id is None:
            return
        ancestors = self._entities.list_ancestors(parent_id, MAX_LEVELS)
        if not ancestors:
            problem = f"there is no entity {parent_id}"
        elif not ancestors[0].is_collection:
            problem = f"entity {parent_id} is a file, not a collection"
        elif len(ancestors) == MAX_LEVELS:
            problem = f"collection {parent_id} is on level {MAX_LEVELS}, the deepest there is"
        else:
            return
        raise wrong_field("parent_id", problem)


def _new_entity(fields: NewEntityFields, added_by: str) -> Entity:
    now_ms = time.time_ns() // 1_000_000
    return Entity(
        is_collection=fields.is_collection,
        label=fields.label,
        description=fields.description,
        parent_id=fields.parent_id,
        added_date=now_ms,
        updated_date=now_ms,
        added_by=added_by,
        updated_by=added_by,
    )


def _describe(entity: Entity, received: ReceivedFile, file_name: str) -> None:
    """Fill in what the bytes say about themselves.

    A picture that cannot be read is kept all the same, without its size: a photographer's damaged
    file is still theirs.
    """
    media = sniff_media(received.head)
    entity.file_size = received.size
    entity.md5 = received.md5
    entity.sha256 = received.sha256
    entity.mime_type = media.mime_type
    entity.type = media.kind
    entity.extension = media.extension
    if media.kind == "image":
        try:
            info = read_image_info(received.path)
        except FinalError:
            return
        entity.width, entity.height = info.width, info.height
        entity.create_date = info.create_date_ms


def _answer(record: EntityRecord) -> EntityAnswer:
    return EntityAnswer(
        **{name: getattr(record.entity, name) for name in COLUMNS_SHOWN},
        children_count=record.children_count,
        is_deleted=False,
        is_indirectly_deleted=False,
    )
