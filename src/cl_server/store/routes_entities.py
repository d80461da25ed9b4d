"""Media files and collections over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from cl_server.http.access import MEDIA_READ, CurrentIdentity, requires
from cl_server.http.error_pages import problem_responses
from cl_server.http.paging import PageQuery

from .content import DOWNLOAD_RESPONSES, send_file
from .entity_draft import FILE_FIELDS, EntityDraft
from .multipart import read_form
from .schemas import MAX_ID, EntityAnswer, EntityPage, NewEntityFields, StorableText
from .service_entities import EntityService

__all__ = ["entity_routes"]

EntityId = Annotated[int, Path(ge=0, le=MAX_ID)]


def entity_routes(entities: EntityService, *, max_file_bytes: int) -> APIRouter:
    """Return the routes.

    Args:
        entities: What they call.
        max_file_bytes: How large an upload may be.
    """
    router = APIRouter(tags=["entities"])

    @router.get("/entities")
    @requires(MEDIA_READ)
    def list_entities(
        page: PageQuery,
        md5: Annotated[StorableText | None, Query(description="Only those bytes.")] = None,
        label: Annotated[StorableText | None, Query(description="Exactly this label.")] = None,
    ) -> EntityPage:
        """List entities, newest first."""
        return entities.list_entities(page, md5=md5, label=label)

    @router.post(
        "/entities",
        status_code=201,
        responses={200: {"model": EntityAnswer, "description": "The same bytes are here already."}},
        openapi_extra=_new_entity_body(),
    )
    @requires("media_store_write")
    async def create_entity(
        request: Request, response: Response, identity: CurrentIdentity
    ) -> EntityAnswer:
        """Take in a file, or make a collection."""
        draft: EntityDraft
        async with entities.draft_entity() as draft:
            fields = await read_form(
                request, draft.receive_file, max_file_bytes=max_file_bytes, only_one_file=True
            )
            entity, is_new = await run_in_threadpool(draft.add, fields, identity.sub)
        response.status_code = 201 if is_new else 200
        response.headers["Location"] = f"/entities/{entity.id}"
        return entity

    @router.get("/entities/{entity_id}", responses=problem_responses(404))
    @requires(MEDIA_READ)
    def get_entity(entity_id: EntityId) -> EntityAnswer:
        """Return an entity."""
        return entities.get_entity(entity_id)

    @router.head("/entities/{entity_id}/media", **_download("head_media", in_ranges=False))
    @router.get("/entities/{entity_id}/media", **_download("get_media", in_ranges=True))
    @requires(MEDIA_READ)
    def get_media(request: Request, entity_id: EntityId) -> Response:
        """Return the bytes of an entity; a collection has none."""
        media = entities.find_media(entity_id)
        return send_file(
            request, media.path, name=media.name, mime_type=media.mime_type, sha256=media.sha256
        )

    return router


def _download(operation_id: str, *, in_ranges: bool) -> dict[str, Any]:
    responses = {**DOWNLOAD_RESPONSES, **problem_responses(400, 404, 416)}
    if not in_ranges:
        responses = {code: each for code, each in responses.items() if code not in (206, 416)}
    return {"operation_id": operation_id, "response_class": Response, "responses": responses}


def _new_entity_body() -> dict[str, Any]:
    schema = NewEntityFields.model_json_schema()
    file = {"type": "string", "format": "binary"}
    with_file = {
        **schema,
        "properties": {**schema["properties"], **dict.fromkeys(FILE_FIELDS, file)},
    }
    content = {
        "multipart/form-data": {"schema": with_file},
        "application/x-www-form-urlencoded": {"schema": schema},
        "application/json": {"schema": schema},
    }
    return {"requestBody": {"content": content, "required": True}}
