"""From one picture file to another.

open_image ──► decode ──► plain pixels ──► change ──► upright ──► fit to the format ──► write
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from ..errors import FinalError
from .animation import animation_options, clear_canvas, in_one_mode, mark_transparent_webp
from .colour import fit_pixels, plain_pixels
from .exif import carried_exif, orientation_of, turn_upright
from .formats import PictureFormat
from .images import OpenedImage, check_pixels, check_writable, decoding
from .palettes import to_palette
from .pillow import Image
from .replacing import replacing_file

__all__ = ["Change", "ProgressReport", "RenderedImage", "ignore_progress", "render"]

Change = Callable[[Image.Image], Image.Image]
ProgressReport = Callable[[float], None]

# What share of the work is done when a picture is decoded, and when only writing is left.
_DECODED, _CHANGED = 0.5, 0.8

# Dots per inch beyond these are not meant, and JPEG cannot store them.
_DPI_RANGE = (1, 65_535)


@dataclass(frozen=True)
class RenderedImage:
    """A picture that was written.

    Attributes:
        width: In pixels.
        height: In pixels.
        format: Its format's name.
        size_bytes: How long the file is.
    """

    width: int
    height: int
    format: str
    size_bytes: int


def ignore_progress(fraction: float) -> None:
    """Take a share of the work from 0 to 1, and do nothing with it."""


def render(
    image: OpenedImage,
    target: Path,
    target_format: PictureFormat,
    *,
    size: tuple[int, int],
    animate: bool,
    options: dict[str, Any],
    change: Change = lambda frame: frame,
    on_progress: ProgressReport = ignore_progress,
) -> RenderedImage:
    """Write a picture to a file, upright, with the metadata that the format can hold.

    Args:
        image: The picture.
        target: The file; it appears under this name when it is complete.
        target_format: What to write.
        size: Width and height that the upright result will have, in pixels.
        animate: Whether all frames are written; otherwise the first.
        options: Further ones for Pillow's `save`.
        change: What is done to each frame before it is turned upright.
        on_progress: Takes the share of the work that is done, 0 to 1.

    Raises:
        FinalError: The picture is damaged, the result too large for the format, or nothing that
            writes the format is installed.
    """
    moves = animate and target_format.animates
    count, first = (image.frames, image.first_frame) if moves else (1, 0)
    _check_result(target, size, count, target_format)
    frames: list[Image.Image] = []
    durations_ms: list[float] = []
    profile: Optional[bytes] = None
    for index in range(count):
        _load_frame(image, first + index)
        durations_ms.append(image.pixels.info.get("duration", 0))
        on_progress((index + _DECODED) / count * _CHANGED)
        frame, profile = _changed_frame(image, change, target_format)
        frames.append(to_palette(frame, dither=count == 1) if target_format.palette else frame)
        on_progress((index + 1) / count * _CHANGED)
    options = {**options, **_metadata(image, target_format, size, profile)}
    if count > 1:
        frames = in_one_mode(frames)
        options.update(animation_options(image, target_format, frames, durations_ms))
    image.pixels.close()  # its memory is what the encoder may need
    with replacing_file(target) as file:
        try:
            frames[0].save(file, target_format.pillow_name, **options)
        except (ValueError, OverflowError) as error:
            # An encoder's own limits, of memory first of all.
            raise FinalError(
                f"{target.name} cannot be written as {target_format.name}: {error}"
            ) from error
        if count > 1 and target_format.name == "webp":
            mark_transparent_webp(file, frames)
    on_progress(1.0)
    return RenderedImage(*size, target_format.name, target.stat().st_size)


def _check_result(
    target: Path, size: tuple[int, int], count: int, target_format: PictureFormat
) -> None:
    check_writable(target.name, target_format)
    check_pixels(target.name, size, count)
    if max(size) > target_format.max_side:
        raise FinalError(
            f"{target.name} would be {size[0]} x {size[1]} pixels; "
            f"no side of a {target_format.name} can be longer than {target_format.max_side}"
        )


def _load_frame(image: OpenedImage, index: int) -> None:
    expected = image.pixels.size
    with decoding(image.name):
        if index and index == image.first_frame:
            clear_canvas(image.pixels)
        if index:
            image.pixels.seek(index)
        image.pixels.load()
        if index and image.pixels.size != expected:
            raise ValueError("its frames differ in size")


def _changed_frame(
    image: OpenedImage, change: Change, target_format: PictureFormat
) -> tuple[Image.Image, Optional[bytes]]:
    """Return the current frame as it is to be stored, a picture of its own, and its profile."""
    with decoding(image.name):
        frame = plain_pixels(image.pixels)
    frame = turn_upright(change(frame), orientation_of(image.pixels))
    profile = image.pixels.info.get("icc_profile")
    if not isinstance(profile, bytes):
        profile = None
    frame, profile = fit_pixels(frame, profile, target_format)
    frame = frame.copy() if frame is image.pixels else frame
    frame.info = {}  # else Pillow would carry some of it over, unasked
    return frame, profile


def _metadata(
    image: OpenedImage,
    target_format: PictureFormat,
    size: tuple[int, int],
    profile: Optional[bytes],
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if profile is not None:
        kept["icc_profile"] = profile
    exif = carried_exif(image.pixels, size) if target_format.keeps_exif else None
    if exif is not None:
        kept["exif"] = exif
    dpi = image.pixels.info.get("dpi")
    if target_format.keeps_resolution and isinstance(dpi, tuple) and len(dpi) == 2:
        low, high = _DPI_RANGE
        if all(low <= each <= high for each in dpi):
            kept["dpi"] = tuple(float(each) for each in dpi)
    return kept
