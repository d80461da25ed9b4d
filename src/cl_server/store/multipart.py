"""Bodies with files, read as they arrive: a file goes from the socket to its place on the disk.

Nothing is spooled, and no file is ever whole in memory. A form without files may as well come
urlencoded or as JSON.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from multipart import (  # type: ignore[import-untyped]  # it has no annotations for checkers
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)
from starlette.requests import ClientDisconnect, Request

from cl_server.http.errors import (
    BadRequest,
    PayloadTooLarge,
    Unprocessable,
    UnsupportedMediaType,
)

from .plain_json import parse_json
from .problems import wrong_field

__all__ = ["MAX_PARTS", "Fields", "FilePart", "read_form"]

# Everything in a form that is not a file, together: such fields are kept in memory.
MAX_FIELDS_BYTES = 4 * 1024**2
MAX_PARTS = 2000

# A field under its name, in the order given: text from a form, any value from JSON.
Fields = dict[str, list[Any]]

# What the parser says: a part begins, some of its bytes, its end.
_Event: TypeAlias = Any


class FilePart:
    """A file in a form, while it arrives.

    Args:
        field: The form's name for it.
        filename: The client's name for it.
        events: The parser's, from the first byte of this file on.
        max_bytes: How large it may be.
    """

    def __init__(
        self, field: str, filename: str, events: AsyncIterator[_Event], *, max_bytes: int
    ) -> None:
        self.field = field
        self.filename = filename
        self._events = events
        self._max_bytes = max_bytes
        self._received_bytes = 0
        self._buffer = bytearray()
        self._ended = False

    async def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, `size` of them unless the file ends before.

        Raises:
            PayloadTooLarge: The file is larger than it may be.
        """
        while not self._ended and (size < 0 or len(self._buffer) < size):
            event = await anext(self._events)
            if isinstance(event, bytes):
                self._count(event)
                self._buffer += event
            else:
                self._ended = True
        length = len(self._buffer) if size < 0 else size
        chunk = bytes(self._buffer[:length])
        del self._buffer[:length]
        return chunk

    async def skip(self) -> int:
        """Read what nobody has read, and return how many bytes that was."""
        skipped = 0
        while chunk := await self.read(1024**2):
            skipped += len(chunk)
        return skipped

    def _count(self, chunk: bytes) -> None:
        self._received_bytes += len(chunk)
        if self._received_bytes > self._max_bytes:
            raise PayloadTooLarge(
                f"{self.field}: the file {self.filename!r} is larger than {self._max_bytes} bytes, "
                "the limit of this server (MAX_UPLOAD_BYTES)"
            )


async def read_form(
    request: Request,
    receive_file: Callable[[FilePart], Awaitable[None]],
    *,
    max_file_bytes: int,
    only_one_file: bool = False,
) -> Fields:
    """Read a body of fields and files.

    Args:
        request: Its body has not been read yet.
        receive_file: Called with each file in turn; what it leaves unread is skipped.
        max_file_bytes: How large one file may be.
        only_one_file: Whether a body that announces more than one such file holds is refused
            before it is read.

    Returns:
        The fields that were given: those that are empty, or null in JSON, are left out.

    Raises:
        BadRequest: The body is no form, or ends early.
        Unprocessable: The body is no JSON object, or a field is no text.
        UnsupportedMediaType: The body is of another kind.
        PayloadTooLarge: A file is larger than it may be, or there are too many fields.
    """
    if only_one_file:
        _check_announced_size(request, max_file_bytes + MAX_FIELDS_BYTES)
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        boundary = options.get("boundary", "")
        return await _read_multipart(request, boundary, receive_file, max_file_bytes)
    body = await _read_body(request)
    if content_type in ("application/x-www-form-urlencoded", ""):
        return _from_form(body)
    if content_type == "application/json":
        return _from_json(body)
    raise UnsupportedMediaType(
        f"the body is {content_type!r}; expected: multipart/form-data, "
        "application/x-www-form-urlencoded or application/json"
    )


async def _read_multipart(
    request: Request,
    boundary: str,
    receive_file: Callable[[FilePart], Awaitable[None]],
    max_file_bytes: int,
) -> Fields:
    fields: Fields = {}
    left_bytes = MAX_FIELDS_BYTES
    async with aclosing(_parse(request, boundary)) as events:
        async for segment in events:
            assert isinstance(segment, MultipartSegment)  # the parser opens each part with one
            name = segment.name or ""
            if segment.filename is None:
                text = await _read_text(name, events, left_bytes)
                left_bytes -= len(text)
                if text:
                    fields.setdefault(name, []).append(text)
                continue
            # Some clients write a NUL, which no form can hold, as browsers write quotes.
            filename = segment.filename.replace("%00", "\0")
            part = FilePart(name, filename, events, max_bytes=max_file_bytes)
            if filename:
                await receive_file(part)
                await part.skip()
            elif await part.skip():  # without a name and without bytes: a form's empty field
                raise wrong_field(name, "the file has no name", "missing")
    return fields


async def _parse(request: Request, boundary: str) -> AsyncGenerator[_Event]:
    try:
        with PushMultipartParser(boundary, max_segment_count=MAX_PARTS) as parser:
            async for chunk in request.stream():
                if chunk and not parser.closed:
                    for event in parser.parse(chunk):
                        yield event
    except ParserLimitReached as error:
        raise PayloadTooLarge(f"the form is too large: {error}") from error
    except MultipartError as error:
        reason = error.args[0]  # behind it there may be an exception of Python's
        raise BadRequest(f"the body is not a complete multipart/form-data: {reason}") from error
    except ClientDisconnect as error:
        raise _cut_off() from error


async def _read_text(name: str, events: AsyncIterator[_Event], max_bytes: int) -> str:
    body = bytearray()
    while isinstance(event := await anext(events), bytes):
        body += event
        if len(body) > max_bytes:
            raise _too_many_fields()
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise wrong_field(name, "this is no UTF-8", "string_unicode") from error


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FIELDS_BYTES:
                raise _too_many_fields()
    except ClientDisconnect as error:
        raise _cut_off() from error
    return bytes(body)


def _from_form(body: bytes) -> Fields:
    fields: Fields = {}
    try:
        for name, value in parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_PARTS):
            fields.setdefault(name, []).append(value)
    except ValueError as error:
        raise BadRequest(f"the body is not a form: {error}") from error
    return fields


def _from_json(body: bytes) -> Fields:
    try:
        value = parse_json(body)
    except ValueError as error:
        raise _not_an_object(f"this JSON cannot be taken: {error}", "json_invalid") from error
    if not isinstance(value, dict):
        raise _not_an_object("expected a JSON object", "dict_type")
    return {name: [value] for name, value in value.items() if value is not None and value != ""}


def _cut_off() -> BadRequest:
    return BadRequest("the connection was closed in the middle of the body")


def _check_announced_size(request: Request, max_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise PayloadTooLarge(
            f"the body has {announced} bytes; a file may have {max_bytes - MAX_FIELDS_BYTES} on this "
            "server (MAX_UPLOAD_BYTES)"
        )


def _too_many_fields() -> PayloadTooLarge:
    return PayloadTooLarge(f"the fields are larger than {MAX_FIELDS_BYTES} bytes together")


def _not_an_object(message: str, kind: str) -> Unprocessable:
    return Unprocessable([{"loc": ["body"], "msg": message, "type": kind}])
