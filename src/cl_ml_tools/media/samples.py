"""Kinds of pixels that are well formed and still not read: those of measurements, not of photos."""

from __future__ import annotations

import struct
from typing import BinaryIO, Optional

from .pillow import TiffImagePlugin

__all__ = ["UnsupportedSamples", "unsupported_tiff_samples"]

# TIFF 6.0, sections 8 and 19.
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
_SAMPLE_FORMATS = {1: "whole", 2: "whole", 3: "float", 5: "complex", 6: "complex"}


class UnsupportedSamples(Exception):
    """A picture's samples, the numbers that its pixels are made of, are of a kind that is not read.

    Args:
        format_name: The picture's format.
        kind: What they are: `float samples of 32 bits`.
    """

    def __init__(self, format_name: str, kind: str) -> None:
        super().__init__(
            f"it is a {format_name} with {kind}; supported are whole numbers of up to 16 bits"
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
        return f"samples of {bits} bits" if bits > 16 else None
    return f"{kind} samples of {bits} bits"
