"""Converting a picture file to another format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .formats import PictureFormat, format_by_name
from .images import decode, open_image, upright_size
from .rendering import ProgressReport, RenderedImage, ignore_progress, render

__all__ = ["convert_image"]

# From here on a JPEG keeps its colours at full resolution: who asks for that much sees the edges.
_FULL_COLOUR_QUALITY = 90
_FULL, _HALVED = 0, 2  # Pillow's numbers for 4:4:4 and 4:2:0

# Formats whose viewers expect an animation. A PNG that moves is shown still by most programs.
_ANIMATED = ("gif", "webp")


def convert_image(
    source: Path,
    target: Path,
    *,
    format_name: str,
    quality: int,
    on_progress: ProgressReport = ignore_progress,
) -> RenderedImage:
    """Write a picture in another format, upright.

    Args:
        source: The picture.
        target: Where the result goes.
        format_name: As in `FORMATS`.
        quality: 1 to 100, for formats that lose detail.
        on_progress: Takes the share of the work that is done, 0 to 1.

    Raises:
        FinalError: The picture cannot be read, or the format cannot hold it.
    """
    target_format = _for_screens(format_by_name(format_name))
    with open_image(source) as image:
        decode(image)
        return render(
            image,
            target,
            target_format,
            size=upright_size(image.pixels),
            animate=format_name in _ANIMATED,
            options=_options(target_format, quality),
            on_progress=on_progress,
        )


def _for_screens(target_format: PictureFormat) -> PictureFormat:
    # A JPEG can hold the colours of print, but who converts to it wants to see it anywhere.
    if target_format.name != "jpg":
        return target_format
    return replace(target_format, modes=target_format.modes - {"CMYK"})


def _options(target_format: PictureFormat, quality: int) -> dict[str, Any]:
    if target_format.name == "jpg":
        sampling = _FULL if quality >= _FULL_COLOUR_QUALITY else _HALVED
        return {"quality": quality, "subsampling": sampling}
    return {"quality": quality} if target_format.is_lossy else {}
