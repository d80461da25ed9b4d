"""Animations: what frames are drawn on, how long each is shown, how often all of them are."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, BinaryIO

from .formats import PictureFormat
from .images import OpenedImage
from .pillow import PILLOW_VERSION, Image

__all__ = ["animation_options", "clear_canvas", "in_one_mode", "mark_transparent_webp"]

# GIF and WebP count repeats in 16 bits; PNG, in 32, can say more.
_MOST_REPEATS = 65_535

# A PNG's time is a fraction, of 16 bits above and below: not every time has one beyond this.
_MOST_PNG_MS = 65_535

# From here on Pillow picks the fraction that fits; before, it always wrote thousandths.
_PNG_FRACTIONS = (13, 0)

# Where a WebP's first chunk begins; the one that lists features has flags behind name and length.
# WebP Container Specification, "Extended File Format".
_WEBP_CHUNK, _WEBP_FEATURES, _WEBP_FLAGS, _WEBP_ALPHA = 12, b"VP8X", 20, 0x10


def clear_canvas(pixels: Image.Image) -> None:
    """Empty a PNG's picture that is none of its frames: Pillow draws the first of these on it."""
    empty = pixels.info.get("transparency", 0)
    if isinstance(empty, bytes):  # how opaque each colour of its palette is
        empty = empty.index(min(empty))
    pixels.paste(Image.new(pixels.mode, pixels.size, empty))


def in_one_mode(frames: list[Image.Image]) -> list[Image.Image]:
    """Return frames of one kind of pixels: their own, where they agree."""
    modes = {frame.mode for frame in frames}
    return frames if len(modes) == 1 else [frame.convert("RGBA") for frame in frames]


def animation_options(
    image: OpenedImage,
    target_format: PictureFormat,
    frames: list[Image.Image],
    durations_ms: Sequence[float],
) -> dict[str, Any]:
    """Return what Pillow's `save` is to be told about an animation.

    Args:
        image: Where it comes from.
        target_format: What is written.
        frames: As they will be stored.
        durations_ms: How long each is shown; what the format cannot hold becomes the longest
            time that it can.
    """
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": frames[1:],
        "duration": _storable(durations_ms, target_format, frames),
    }
    # How often it plays, 0 for ever. A GIF that does not say plays once.
    plays = image.pixels.info.get("loop", 1 if image.format.name == "gif" else 0)
    if target_format.name != "gif" or plays != 1:
        options["loop"] = plays if target_format.name == "png" else min(plays, _MOST_REPEATS)
    if any("transparency" in frame.info for frame in frames):
        options["disposal"] = 2  # else what a frame leaves empty would show the one before it
    return options


def mark_transparent_webp(file: BinaryIO, frames: list[Image.Image]) -> None:
    """Say in an animated WebP that it has transparency, where it has.

    Its encoder stores of each frame the rectangle that is not empty. Where all of these are opaque
    it forgets what is around them, and the whole would be shown on black.

    Args:
        file: What was written, to read and to change.
        frames: What it was written from.
    """
    if not any(frame.mode == "RGBA" and _is_transparent(frame) for frame in frames):
        return
    file.seek(_WEBP_CHUNK)
    if file.read(len(_WEBP_FEATURES)) != _WEBP_FEATURES:
        return  # equal frames, of which it made a picture
    file.seek(_WEBP_FLAGS)
    flags = file.read(1)[0]
    file.seek(_WEBP_FLAGS)
    file.write(bytes([flags | _WEBP_ALPHA]))


def _is_transparent(frame: Image.Image) -> bool:
    return frame.getchannel("A").getextrema() != (255, 255)


def _storable(
    durations_ms: Sequence[float], target_format: PictureFormat, frames: list[Image.Image]
) -> list[int]:
    longest = target_format.max_frame_ms
    thousandths = target_format.name == "png" and PILLOW_VERSION < _PNG_FRACTIONS
    if thousandths:
        longest = _MOST_PNG_MS
    stored = [min(round(duration), longest) for duration in durations_ms]
    if target_format.name == "png" and not thousandths:
        return [_as_fraction(duration) for duration in stored]
    if sum(stored) <= longest or target_format.name not in ("gif", "png"):
        return stored
    # Pillow makes one frame of equal ones, and adds up their times whatever comes of it.
    total = stored[0]
    for index in range(1, len(frames)):
        if _looks(frames[index]) != _looks(frames[index - 1]):
            total = 0
        stored[index] = min(stored[index], longest - total)
        total += stored[index]
    return stored


def _as_fraction(duration_ms: int) -> int:
    """Return a time that a PNG can hold: this one, or what it is in whole seconds."""
    fits = Fraction(duration_ms, 1000).numerator <= _MOST_PNG_MS
    return duration_ms if fits else round(duration_ms, -3)


def _looks(frame: Image.Image) -> bytes:
    return frame.convert("RGBA").tobytes()
