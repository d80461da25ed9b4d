"""Kinds of pixels that are well formed and still not read: nearly all of measurements, not of photos."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, Optional

from .pillow import TiffImagePlugin

__all__ = ["UnsupportedSamples", "misread_tiff_samples", "unsupported_tiff_samples"]

# TIFF 6.0, sections 8 and 19.
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLES_PER_PIXEL = 258, 259, 262, 277
_PLANAR_CONFIGURATION, _SAMPLE_FORMAT = 284, 339
_WHITE_IS_ZERO, _SEPARATE_PLANES, _UNCOMPRESSED = 0, 2, 1
_SAMPLE_FORMATS = {1: "whole", 2: "whole", 3: "float", 5: "complex", 6: "complex"}


class UnsupportedSamples(Exception):
    """A picture's samples, the numbers that its pixels are made of, are of a kind that is not read.

    Args:
        format_name: The picture's format.
        kind: What they are: `float samples of 32 bits`.
    """

    def __init__(self, format_name: str, kind: str) -> None:
        super().__init__(
            f"it is a {format_name} with {kind}; supported are whole numbers of up to 16 bits, "
            "black at 0, those of a pixel together"
        )


def unsupported_tiff_samples(file: BinaryIO) -> Optional[str]:
    """Return what the samples of a TIFF that Pillow does not open are; `None`: that is not why.

    Args:
        file: Read from its start.
    """
    try:
        file.seek(0)
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(directory.next)
        directory.load(file)
        bits = max(directory.get(_BITS_PER_SAMPLE, (1,)))
        kind = _SAMPLE_FORMATS[max(directory.get(_SAMPLE_FORMAT, (1,)))]
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return None  # it is damaged after all
    if kind == "whole":
        return f"samples of {bits} bits" if bits > 16 else misread_tiff_samples(directory)
    return f"{kind} samples of {bits} bits"


def misread_tiff_samples(directory: Mapping[int, Any]) -> Optional[str]:
    """Return what samples are that Pillow reads wrongly, if at all; `None`: they are not of those.

    Args:
        directory: The TIFF's tags.
    """
    if max(directory.get(_BITS_PER_SAMPLE, (1,))) != 16:
        return None
    if directory.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return "samples of 16 bits, white at 0"
    if (
        directory.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
        and directory.get(_SAMPLES_PER_PIXEL, 1) > 1
        and directory.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    ):
        return "samples of 16 bits, each colour by itself"
    return None
