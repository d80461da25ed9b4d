"""Resizing a picture file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from .exif import is_turned, orientation_of
from .formats import PictureFormat, format_by_suffix
from .images import OpenedImage, decode, open_image, upright_size
from .pillow import Image, get_sampling
from .rendering import ProgressReport, RenderedImage, ignore_progress, render

__all__ = ["fitted_size", "resize_image"]

_Box = tuple[float, float, float, float]

# High enough that nobody sees the second encoding, and a third of the size of 100.
_QUALITY = 90

# A JPEG decoder can skip detail that the result will not show. At least this many times the
# result's size is decoded, so that the filter, not the decoder, decides how the result looks.
_DRAFT_MARGIN = 1.5


def resize_image(
    source: Path,
    target: Path,
    *,
    width: int,
    height: int,
    maintain_aspect_ratio: bool = False,
    enlarge: bool = True,
    on_progress: ProgressReport = ignore_progress,
) -> RenderedImage:
    """Write a picture in another size; upright, all frames of an animation.

    Args:
        source: The picture.
        target: Where the result goes. Its suffix decides the format; one that is no picture's
            keeps the original's.
        width: In pixels.
        height: In pixels.
        maintain_aspect_ratio: Fit within `width` x `height` instead of filling it exactly.
        enlarge: Whether a side may become longer than the original's.
        on_progress: Takes the share of the work that is done, 0 to 1.

    Raises:
        FinalError: The picture cannot be read, or the result would be too large.
    """
    with open_image(source) as image:
        if image.format.name != "jpg":
            decode(image)
        size = fitted_size(
            upright_size(image.pixels),
            (width, height),
            maintain_aspect_ratio=maintain_aspect_ratio,
            enlarge=enlarge,
        )
        stored_size = size[::-1] if is_turned(orientation_of(image.pixels)) else size
        box = _draft(image, stored_size) if image.format.name == "jpg" else None
        target_format = format_by_suffix(target.suffix) or image.format
        return render(
            image,
            target,
            target_format,
            size=size,
            animate=True,
            options=_options(image, target_format),
            change=lambda frame: _resized(frame, stored_size, box),
            on_progress=on_progress,
        )


def fitted_size(
    original: tuple[int, int],
    box: tuple[int, int],
    *,
    maintain_aspect_ratio: bool,
    enlarge: bool,
) -> tuple[int, int]:
    """Return the width and height that a picture gets, in pixels.

    Args:
        original: Its own.
        box: What was asked for.
        maintain_aspect_ratio: The largest size within the box; otherwise the box.
        enlarge: Whether a side may become longer than it is.
    """
    width, height = original
    if not maintain_aspect_ratio:
        return box if enlarge else (min(box[0], width), min(box[1], height))
    if not enlarge and width <= box[0] and height <= box[1]:
        return original
    if width * box[1] >= height * box[0]:  # the width is what limits it
        return box[0], max(1, (2 * height * box[0] + width) // (2 * width))
    return max(1, (2 * width * box[1] + height) // (2 * height)), box[1]


def _draft(image: OpenedImage, size: tuple[int, int]) -> Optional[_Box]:
    """Have a JPEG decoded at half, a quarter or an eighth, where that is still large enough.

    Returns:
        Where the picture lies in what will be decoded, to a fraction of a pixel.
    """
    width, height = (int(side * _DRAFT_MARGIN) for side in size)
    drafted = image.pixels.draft(None, (width, height))
    return None if drafted is None else drafted[1]


def _resized(frame: Image.Image, size: tuple[int, int], box: Optional[_Box]) -> Image.Image:
    if frame.size == size:
        return frame
    # Pillow weighs colours by their alpha here, so that no dark fringes appear.
    return frame.resize(size, Image.Resampling.LANCZOS, box=box)


def _options(image: OpenedImage, target_format: PictureFormat) -> dict[str, Any]:
    if target_format.name == "jpg":
        return {"quality": _QUALITY, "subsampling": get_sampling(image.pixels)}
    return {"quality": _QUALITY} if target_format.is_lossy else {}
