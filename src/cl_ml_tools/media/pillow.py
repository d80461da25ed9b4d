"""Pillow, which the extra `compute` brings: imported here, so that its absence has one answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MissingExtra

try:
    from PIL import Image, ImageCms, UnidentifiedImageError
    from PIL.JpegImagePlugin import get_sampling
except ImportError as error:
    raise MissingExtra("compute", "working with images") from error

__all__ = [
    "Image",
    "ImageCms",
    "UnidentifiedImageError",
    "get_sampling",
    "quiet_pillow",
    "register_heif",
]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings: about sizes, which are checked here, and about broken metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
        yield


def register_heif() -> bool:
    """Teach Pillow to read and write HEIC. Returns whether `pillow-heif` is there to do it."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
