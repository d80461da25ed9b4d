"""What a file is by its first bytes. Names and declared types are never believed.

A table of what CL Server knows, not of what exists: whatever is not in it is a plain binary file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Optional

__all__ = ["SNIFF_BYTES", "MediaKind", "MediaType", "sniff_media"]

MediaKind = Literal["image", "video", "audio", "text", "other"]

# How much of a file to hand to `sniff_media`: a page, in which every signature lies.
SNIFF_BYTES = 4096


@dataclass(frozen=True)
class MediaType:
    """A type of file.

    Attributes:
        mime_type: As in a `Content-Type` header.
        kind: `image`, `video`, `audio`, `text` or `other`.
        extension: The usual one, without a dot.
    """

    mime_type: str
    kind: MediaKind
    extension: str


def _types(kind: MediaKind, **extensions: str) -> dict[str, MediaType]:
    return {ext: MediaType(mime_type, kind, ext) for ext, mime_type in extensions.items()}


# Every type that is told apart, under its extension.
_TYPES: dict[str, MediaType] = {
    **_types(
        "image",
        jpg="image/jpeg",
        png="image/png",
        gif="image/gif",
        webp="image/webp",
        bmp="image/bmp",
        tiff="image/tiff",
        heic="image/heic",
        heif="image/heif",
        avif="image/avif",
    ),
    **_types(
        "video",
        mp4="video/mp4",
        mov="video/quicktime",
        webm="video/webm",
        mkv="video/x-matroska",
        avi="video/x-msvideo",
        mpg="video/mpeg",
        ts="video/mp2t",
        ogv="video/ogg",
        **{"3gp": "video/3gpp"},
    ),
    **_types(
        "audio",
        mp3="audio/mpeg",
        m4a="audio/mp4",
        aac="audio/aac",
        wav="audio/wav",
        flac="audio/flac",
        ogg="audio/ogg",
        aiff="audio/aiff",
    ),
    **_types("text", txt="text/plain", html="text/html"),
    # A drawing that can carry scripts, without pixels of its own: a document, not a picture.
    **_types("other", svg="image/svg+xml"),
    **_types(
        "other",
        pdf="application/pdf",
        zip="application/zip",
        gz="application/gzip",
        bin="application/octet-stream",
    ),
}

# Signatures at the very start, the longer before the shorter.
_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\xff\xd8\xff", "jpg"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
    (b"\0\0\x01\xba", "mpg"),
    (b"\0\0\x01\xb3", "mpg"),
    (b"%PDF-", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b\x08", "gz"),
)

# What stands at byte 8 of a RIFF or FORM container.
_CONTAINERS = {
    (b"RIFF", b"WEBP"): "webp",
    (b"RIFF", b"WAVE"): "wav",
    (b"RIFF", b"AVI "): "avi",
    (b"FORM", b"AIFF"): "aiff",
    (b"FORM", b"AIFC"): "aiff",
}

# Brands of ISO base media files (ISO/IEC 14496-12; registered at mp4ra.org).
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm"), "heic"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), "m4a"),
    b"qt  ": "mov",
}

# "Some HEIF picture" or sequence: the other brands say how its pixels are coded.
_ANY_HEIF = (b"mif1", b"msf1")

# The header sizes of every version of BMP since Windows 2: two letters alone would be too weak.
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})

_TS_PACKET_BYTES = 188

# Characters that no text has: control characters but tab, line feed, form feed, return, escape.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
# What may stand before the first element. A comment's inside is spelled so that it ends at one
# place only: with `.*?` a hostile file of many comments would take exponential time.
_COMMENT = r"<!--(?:(?!-->).)*-->"
_HTML = re.compile(rf"\s*(?:{_COMMENT}\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_SVG = re.compile(
    rf"\s*(?:(?:<\?xml[^>]*>|<!doctype\s+svg[^>]*>|{_COMMENT})\s*)*<svg\b", re.I | re.S
)


def sniff_media(head: bytes) -> MediaType:
    """Return what a file is.

    Args:
        head: Its first bytes, `SNIFF_BYTES` of them or all where it has fewer.

    Returns:
        `application/octet-stream` (kind `other`) for what is not known, and for no bytes at all.
    """
    for recognise in (_by_prefix, _iso_media, _matroska, _ogg, _bmp, _mpeg_stream, _text):
        extension = recognise(head)
        if extension is not None:
            return _TYPES[extension]
    return _TYPES["bin"]


def _by_prefix(head: bytes) -> Optional[str]:
    for signature, extension in _PREFIXES:
        if head.startswith(signature):
            return extension
    return _CONTAINERS.get((head[:4], head[8:12]))


def _iso_media(head: bytes) -> Optional[str]:
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "mov"  # QuickTime from before there were brands
    if head[4:8] != b"ftyp":
        return None
    brands = list(_brands(head))
    if brands[0] in _ANY_HEIF:
        coded = (_BRANDS[brand] for brand in brands if brand in _BRANDS)
        return next(coded, "heif")
    for brand in brands:
        if brand in _BRANDS:
            return _BRANDS[brand]
        if brand.startswith(b"3g"):
            return "3gp"
        if brand.startswith((b"mp4", b"iso", b"avc", b"M4V")):
            return "mp4"
    return "mp4"


def _brands(head: bytes) -> Iterator[bytes]:
    yield head[8:12]
    for start in range(16, min(int.from_bytes(head[:4], "big"), len(head)) - 3, 4):
        yield head[start : start + 4]


def _matroska(head: bytes) -> Optional[str]:
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    return "webm" if b"webm" in head[:64] else "mkv"


def _ogg(head: bytes) -> Optional[str]:
    if not head.startswith(b"OggS"):
        return None
    return "ogv" if b"\x80theora" in head[:256] else "ogg"


def _bmp(head: bytes) -> Optional[str]:
    header_size = int.from_bytes(head[14:18], "little")
    return "bmp" if head.startswith(b"BM") and header_size in _BMP_HEADER_SIZES else None


def _mpeg_stream(head: bytes) -> Optional[str]:
    packets = [
        head[start : start + 1] for start in range(0, 3 * _TS_PACKET_BYTES, _TS_PACKET_BYTES)
    ]
    if packets == [b"\x47"] * 3:
        return "ts"
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    # A frame's sync word; then version, layer, bit rate and sampling rate, each with a value that
    # is not allowed. Layer I is out as well: nobody has it, and a byte order mark looks like it.
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:
        return "aac" if head[1] & 0xF6 == 0xF0 else None
    allowed = version != 1 and layer != 3 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3
    return "mp3" if allowed else None


def _text(head: bytes) -> Optional[str]:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "txt"  # UTF-16, by its byte order mark
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8-sig")  # a character was cut in two
    if not text or _NOT_TEXT.search(text):
        return None
    if _SVG.match(text):
        return "svg"
    return "html" if _HTML.match(text) else "txt"
