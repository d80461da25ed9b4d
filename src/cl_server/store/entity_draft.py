"""An entity while it is made: its file comes in, its fields are checked, then it is added."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cl_ml_tools.workspace import check_relative_path
from cl_server.http.errors import Unprocessable, listed_problems

from .media_files import MediaFiles, ReceivedFile
from .multipart import Fields, FilePart
from .problems import finding, wrong_field
from .schemas import EntityAnswer, NewEntityFields

if TYPE_CHECKING:
    from .service_entities import EntityService

__all__ = ["FILE_FIELDS", "EntityDraft"]

FILE_FIELDS = ("media_file", "image")


class EntityDraft:
    """An entity that is not there yet; a context in which its file is kept until it is added.

    Args:
        entities: What adds it.
        files: Where its file goes.
    """

    def __init__(self, entities: EntityService, files: MediaFiles) -> None:
        self._entities = entities
        self._files = files
        self._stack = AsyncExitStack()
        self._received: ReceivedFile | None = None
        self._file_name = ""

    async def __aenter__(self) -> EntityDraft:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stack.aclose()

    async def receive_file(self, part: FilePart) -> None:
        """Stream the entity's file onto the disk.

        Raises:
            Unprocessable: It is in the wrong field, is the second one, or its name is unsafe.
        """
        if part.field not in FILE_FIELDS:
            raise wrong_field(part.field, f"the file goes into the field {FILE_FIELDS[0]!r}")
        if self._received is not None:
            raise wrong_field(part.field, "there is a file already; an entity has one")
        try:
            self._file_name = check_relative_path(part.filename).name
        except ValueError as error:
            raise wrong_field(part.field, str(error), "unsafe_path") from error
        self._received = await self._stack.enter_async_context(self._files.receive(part))

    def add(self, fields: Fields, added_by: str) -> tuple[EntityAnswer, bool]:
        """Check everything and add the entity.

        Args:
            fields: As read from the body.
            added_by: A user's `sub`.

        Returns:
            The entity, and whether it is new: the same bytes are never there twice.

        Raises:
            Unprocessable: With everything that is wrong.
        """
        new = _parse_fields(fields)
        if new.is_collection and self._received is not None:
            raise wrong_field(FILE_FIELDS[0], "a collection has no file")
        if new.is_collection:
            return self._entities.add_collection(new, added_by), True
        if self._received is None:
            raise wrong_field(FILE_FIELDS[0], "the file is missing", "missing")
        return self._entities.add_media(new, self._received, self._file_name, added_by)


def _parse_fields(fields: Fields) -> NewEntityFields:
    repeated = [name for name, values in fields.items() if len(values) > 1]
    if repeated:
        raise Unprocessable([finding(name, "this is given more than once") for name in repeated])
    no_files = [finding(name, "this is text, not a file") for name in FILE_FIELDS if name in fields]
    given = {name: values[0] for name, values in fields.items() if name not in FILE_FIELDS}
    try:
        new = NewEntityFields.model_validate(given)
    except ValidationError as error:
        raise Unprocessable([*no_files, *listed_problems(error, within=("body",))]) from error
    if no_files:
        raise Unprocessable(no_files)
    return new
