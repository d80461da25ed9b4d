"""The picture formats that are read and written. Nothing that is not in this table is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

__all__ = ["FORMATS", "PictureFormat", "format_by_mime_type", "format_by_name", "format_by_suffix"]


@dataclass(frozen=True)
class PictureFormat:
    """One format, and what it can hold.

    Attributes:
        name: As in parameters and results: `jpg`, `png`, ...
        pillow_name: As Pillow calls it.
        mime_types: Of files in this format.
        suffixes: Of file names, the usual one first.
        modes: The kinds of pixels (Pillow's modes) that it stores.
        keeps_profile: Whether an ICC profile can be embedded.
        keeps_exif: Whether EXIF can be embedded.
        keeps_resolution: Whether dots per inch can be embedded.
        animates: Whether it can hold an animation.
        palette: Whether it stores 256 colours only.
        is_lossy: Whether its encoder takes a quality.
        max_side: The longest side that its encoder takes, in pixels.
        max_frame_ms: The longest time that it can show one frame of an animation.
    """

    name: str
    pillow_name: str
    mime_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    modes: frozenset[str]
    keeps_profile: bool = True
    keeps_exif: bool = True
    keeps_resolution: bool = True
    animates: bool = False
    palette: bool = False
    is_lossy: bool = False
    max_side: int = 65_535
    max_frame_ms: int = 65_535_000  # in seconds, 16 bits: PNG's, the longest that comes in


FORMATS: tuple[PictureFormat, ...] = (
    PictureFormat(
        "jpg",
        "JPEG",
        ("image/jpeg",),
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        frozenset({"L", "RGB", "CMYK"}),
        is_lossy=True,
        max_side=65_500,
    ),
    PictureFormat(
        "png",
        "PNG",
        ("image/png",),
        (".png", ".apng"),
        frozenset({"L", "LA", "RGB", "RGBA", "I;16"}),
        animates=True,
    ),
    PictureFormat(
        "webp",
        "WEBP",
        ("image/webp",),
        (".webp",),
        frozenset({"RGB", "RGBA"}),
        keeps_resolution=False,
        animates=True,
        is_lossy=True,
        max_side=16_383,
        max_frame_ms=2**24 - 1,  # 24 bits of milliseconds
    ),
    PictureFormat(
        "gif",
        "GIF",
        ("image/gif",),
        (".gif",),
        frozenset({"L", "RGB", "RGBA"}),
        keeps_profile=False,
        keeps_exif=False,
        keeps_resolution=False,
        animates=True,
        palette=True,
        max_frame_ms=655_350,  # 16 bits of hundredths of a second
    ),
    PictureFormat(
        "bmp",
        "BMP",
        ("image/bmp",),
        (".bmp", ".dib"),
        frozenset({"L", "RGB"}),
        keeps_profile=False,
        keeps_exif=False,
    ),
    PictureFormat(
        "tiff",
        "TIFF",
        ("image/tiff",),
        (".tiff", ".tif"),
        frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "I;16"}),
    ),
    PictureFormat(
        "avif",
        "AVIF",
        ("image/avif",),
        (".avif",),
        frozenset({"RGB", "RGBA"}),
        keeps_resolution=False,
        animates=True,
        is_lossy=True,
    ),
    PictureFormat(
        "heic",
        "HEIF",
        ("image/heic", "image/heif"),
        (".heic", ".heif", ".hif"),
        frozenset({"RGB", "RGBA"}),
        keeps_resolution=False,
        is_lossy=True,
        max_side=16_384,
    ),
)


def format_by_mime_type(mime_type: str) -> Optional[PictureFormat]:
    """Return the format of a MIME type, or `None` where it is no picture that is read here."""
    return next((known for known in FORMATS if mime_type in known.mime_types), None)


def format_by_suffix(suffix: str) -> Optional[PictureFormat]:
    """Return the format that a file name's suffix (`.JPG`) stands for, or `None`."""
    return next((known for known in FORMATS if suffix.lower() in known.suffixes), None)


def format_by_name(name: str) -> PictureFormat:
    """Return the format with that name.

    Raises:
        KeyError: There is none.
    """
    return {known.name: known for known in FORMATS}[name]
