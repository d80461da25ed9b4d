"""EXIF: which way up a picture is, when it was taken, and what of it goes into a copy."""

from __future__ import annotations

import re
import struct
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

from .pillow import Image

__all__ = ["carried_exif", "is_turned", "orientation_of", "taken_at_ms", "turn_upright"]

_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_GPS_IFD = 0x8825
_DATE_TIME_ORIGINAL = 0x9003
_OFFSET_TIME_ORIGINAL = 0x9011
_SUBSEC_TIME_ORIGINAL = 0x9291
_PIXEL_X_DIMENSION = 0xA002
_PIXEL_Y_DIMENSION = 0xA003

# What a copy keeps of the first directory: what was said about the picture. Everything else there
# says how the original's pixels were stored, which is no longer true (EXIF 2.32, table 4;
# 0x4746 and 0x9c9b on are Windows' rating, title, comment, author, keywords and subject).
_CARRIED_TAGS = frozenset(
    {0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C}
    | {0x8298, 0x4746, 0x4749, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
)

# Maker notes point into the original by absolute offsets and are garbage anywhere else;
# the interoperability directory is rewritten by nobody and read by nobody.
_DROPPED_EXIF_TAGS = frozenset({0x927C, 0xA005})

# How to turn a picture that says it was stored this way, upright (EXIF 2.32, 4.6.4 A).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG's segment takes this much; other formats more, but nobody misses more than that.
_MAX_EXIF_BYTES = 65_000

_BROKEN = (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, OSError, struct.error)


def orientation_of(image: Image.Image) -> int:
    """Return how the picture's pixels are stored, 1 (upright) to 8."""
    # Pillow turns a TIFF by itself when it decodes it, and counts its sides turned before that.
    value = None if image.format == "TIFF" else _exif_of(image).get(_ORIENTATION)
    return value if isinstance(value, int) and value in _TURNS else 1


def is_turned(orientation: int) -> bool:
    """Return whether width and height change places when the picture is turned upright."""
    return orientation >= 5


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the picture as it is meant to be seen."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def taken_at_ms(image: Image.Image) -> Optional[int]:
    """Return when the picture was taken, in milliseconds since the epoch, UTC.

    A camera that did not write its time zone is taken to have been in UTC.
    """
    try:
        tags = _exif_of(image).get_ifd(_EXIF_IFD)
    except _BROKEN:
        return None
    try:
        taken = datetime.strptime(_text(tags, _DATE_TIME_ORIGINAL), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    zone = timezone(_offset(_text(tags, _OFFSET_TIME_ORIGINAL)))
    since_epoch = taken.replace(tzinfo=zone) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return since_epoch // timedelta(milliseconds=1) + _milliseconds(
        _text(tags, _SUBSEC_TIME_ORIGINAL)
    )


def carried_exif(image: Image.Image, size: tuple[int, int]) -> Optional[bytes]:
    """Return the EXIF for an upright copy of `size`, or `None` where there is nothing to keep.

    Kept are camera, author, copyright, description, times, exposure and place. The orientation
    becomes 1; thumbnails and maker notes are dropped. EXIF that is broken is dropped as a whole.
    """
    try:
        original, copy = _exif_of(image), Image.Exif()
        for tag in _CARRIED_TAGS & original.keys():
            copy[tag] = original[tag]
        exif_tags = {
            tag: value
            for tag, value in original.get_ifd(_EXIF_IFD).items()
            if tag not in _DROPPED_EXIF_TAGS
        }
        for tag, side in zip((_PIXEL_X_DIMENSION, _PIXEL_Y_DIMENSION), size):
            if tag in exif_tags:
                exif_tags[tag] = side
        if exif_tags:
            copy[_EXIF_IFD] = exif_tags
        if gps_tags := original.get_ifd(_GPS_IFD):
            copy[_GPS_IFD] = dict(gps_tags)
        if not dict(copy):
            return None
        copy[_ORIENTATION] = 1
        packed = copy.tobytes()
    except _BROKEN:
        return None
    return packed if len(packed) <= _MAX_EXIF_BYTES else None


def _exif_of(image: Image.Image) -> Image.Exif:
    try:
        # Not a PNG's own `getexif`, which decodes the whole picture to look behind its pixels.
        return Image.Image.getexif(image)
    except _BROKEN:
        return Image.Exif()


def _text(tags: dict[int, Any], tag: int) -> str:
    value = tags.get(tag)
    return value.strip("\0 ") if isinstance(value, str) else ""


def _offset(text: str) -> timedelta:
    found = re.fullmatch(r"([+-])(\d\d):([0-5]\d)", text)
    if found is None or int(found[2]) > 14:
        return timedelta(0)
    size = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return -size if found[1] == "-" else size


def _milliseconds(fraction: str) -> int:
    return int(fraction[:3].ljust(3, "0")) if re.fullmatch(r"[0-9]+", fraction) else 0
