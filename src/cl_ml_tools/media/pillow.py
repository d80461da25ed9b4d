"""Pillow, which the extra `compute` brings: imported here, so that its absence has one answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MissingExtra

try:
    from PIL import Image, ImageCms, TiffImagePlugin, UnidentifiedImageError
    from PIL import __version__ as _version
    from PIL.JpegImagePlugin import get_sampling
except ImportError as error:
    raise MissingExtra("compute", "working with images") from error

__all__ = [
    "PILLOW_VERSION",
    "Image",
    "ImageCms",
    "TiffImagePlugin",
    "UnidentifiedImageError",
    "can_write",
    "get_sampling",
    "quiet_pillow",
    "register_heif",
]

PILLOW_VERSION = tuple(int(part) for part in _version.split(".")[:2])


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings: about sizes, which are checked here, and about broken metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
        yield


def can_write(pillow_name: str) -> bool:
    """Return whether Pillow has an encoder for a format; some depend on how it was built."""
    if pillow_name not in Image.SAVE:
        Image.init()  # which loads the less common ones
    return pillow_name in Image.SAVE


def register_heif() -> bool:
    """Teach Pillow to read and write HEIC. Returns whether `pillow-heif` is there to do it."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
