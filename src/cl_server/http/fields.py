"""Bodies of fields: the same as a form and as JSON.

In a form an empty value means null and an absent one "unchanged": the model's
`model_fields_set` tells one from the other.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Depends
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.types import Message, Receive

from .errors import (
    PayloadTooLarge,
    Unprocessable,
    UnsupportedMediaType,
    listed_problems,
)

__all__ = ["body_of", "fields_of", "read_fields"]

Fields = TypeVar("Fields", bound=BaseModel)

# Fields are names and numbers; files go to the routes that stream them. One that comes here is a
# wrong value of its field, which the model names.
MAX_BODY_BYTES = 1024**2
MAX_FIELDS = 200

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


async def read_fields(request: Request, model: type[Fields]) -> Fields:
    """Read a request's body, a form or JSON, as `model`.

    Raises:
        Unprocessable: With every value that the model refuses.
        UnsupportedMediaType: The body is neither a form nor JSON.
        PayloadTooLarge: It is larger than `MAX_BODY_BYTES`.
    """
    limited = Request(request.scope, _limit(request.receive))
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in FORMS:
        async with limited.form(
            max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_BODY_BYTES
        ) as form:
            given = _form_values(form)
    else:
        given = _json_values(await limited.body(), content_type)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise Unprocessable(listed_problems(error, within=("body",))) from error


def fields_of(model: type[Fields]) -> Any:
    """Return a dependency that reads the body as `model`: `Annotated[NewUser, fields_of(NewUser)]`."""

    async def read(request: Request) -> Fields:
        return await read_fields(request, model)

    return Depends(read)


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return OpenAPI's description of a body of fields, for a route's `openapi_extra=`."""
    schema = model.model_json_schema()
    content = {kind: {"schema": schema} for kind in ("application/json", *FORMS)}
    return {"requestBody": {"content": content, "required": required}}


def _form_values(form: FormData) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in form:
        given = [value if value != "" else None for value in form.getlist(name)]
        values[name] = given[0] if len(given) == 1 else given
    return values


def _json_values(body: bytes, content_type: str) -> dict[str, Any]:
    if not body:
        return {}
    if content_type != "application/json" and not content_type.endswith("+json"):
        kinds = ", ".join(("application/json", *FORMS))
        raise UnsupportedMediaType(f"the body is {content_type or 'of no kind'}; expected: {kinds}")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _not_an_object(f"this is no JSON: {error}", "json_invalid") from error
    if not isinstance(values, dict):
        raise _not_an_object("expected a JSON object", "dict_type")
    return values


def _not_an_object(message: str, kind: str) -> Unprocessable:
    return Unprocessable([{"loc": ["body"], "msg": message, "type": kind}])


def _limit(receive: Receive) -> Receive:
    received_bytes = 0

    async def limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
        return message

    return limited
