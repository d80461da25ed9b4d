"""Handing out files: whole, in ranges, or not at all where the client has them already."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from cl_server.http.errors import Problem

__all__ = ["DOWNLOAD_RESPONSES", "send_file"]

# Shown by a browser without running anything. SVG and HTML run scripts: they are only downloaded.
SAFE_TYPES = ("image/", "video/", "audio/", "text/plain", "application/pdf")
UNSAFE_TYPES = ("image/svg+xml",)

RANGES = re.compile(r"bytes=\s*(\d+-\d*|-\d+)(\s*,\s*(\d+-\d*|-\d+))*\s*", re.IGNORECASE)

# OpenAPI's description of what comes.
DOWNLOAD_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {
        "description": "The ranges that were asked for.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The client has it already."},
}


def send_file(
    request: Request, path: Path, *, name: str, mime_type: str, sha256: str | None = None
) -> Response:
    """Return a file as the answer to a request.

    Args:
        request: Its `Range`, `If-Range` and `If-None-Match` are honoured.
        path: Where the file is.
        name: What to call it.
        mime_type: What it is.
        sha256: Its digest in hex, where it is known.

    Raises:
        Problem: 416: no range that was asked for is in the file.
    """
    status = path.stat()
    shown = mime_type.startswith(SAFE_TYPES) and mime_type not in UNSAFE_TYPES
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"}
    if not shown:
        headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if sha256 is not None:
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        headers |= {"ETag": f'"{sha256}"', "Repr-Digest": f"sha-256=:{digest}:"}
    response = FileResponse(
        path,
        headers=headers,
        media_type=mime_type,
        filename=name,
        stat_result=status,
        content_disposition_type="inline" if shown else "attachment",
    )
    if _is_known(request, response.headers["etag"]):
        kept = ("etag", "cache-control", "last-modified")
        return Response(status_code=304, headers={key: response.headers[key] for key in kept})
    _check_ranges(request, response, status.st_size)
    return response


def _is_known(request: Request, etag: str) -> bool:
    given = request.headers.get("if-none-match")
    if given is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return "*" in tags or etag in tags


def _check_ranges(request: Request, response: FileResponse, size: int) -> None:
    """Leave to the response only ranges that it can send (RFC 9110, 14.1.2).

    What is no range, or is no range of GET, is ignored (14.2).
    """
    given = request.headers.get("range")
    if given is None:
        return
    wanted = _parse_ranges(given, size) if request.method == "GET" else None
    there = [part for part, start in wanted or () if start < size]
    headers = [item for item in request.scope["headers"] if item[0] != b"range"]
    if there:
        headers.append((b"range", f"bytes={','.join(there)}".encode()))
    request.scope["headers"] = headers
    if_range = request.headers.get("if-range")
    current = (response.headers["etag"], response.headers["last-modified"])
    if wanted and not there and (if_range is None or if_range in current):
        raise Problem(
            f"the file has {size} bytes: there are none at {given!r}",
            status=416,
            headers={"Content-Range": f"bytes */{size}"},
        )


def _parse_ranges(given: str, size: int) -> list[tuple[str, int]] | None:
    """Return each range and where it begins, or `None` where this is not a list of ranges."""
    if not RANGES.fullmatch(given) or len(given) > 1000:
        return None
    ranges = []
    for part in given.partition("=")[2].split(","):
        part = part.strip()
        first, _, last = part.partition("-")
        if first and last and int(last) < int(first):
            return None
        ranges.append((part, int(first) if first else size - min(int(last), size)))
    return ranges
