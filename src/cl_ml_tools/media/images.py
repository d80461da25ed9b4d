"""Opening pictures that nobody vouched for, and what is to be known without decoding them.

A picture is recognised by its content, opened by that format's decoder alone, and measured by its
header before one pixel is decoded. Whatever is wrong with it is a `FinalError` that names the file
and says so in one sentence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional

from ..errors import FinalError
from .exif import is_turned, orientation_of, taken_at_ms
from .formats import FORMATS, PictureFormat, format_by_mime_type
from .pillow import (
    Image,
    TiffImagePlugin,
    UnidentifiedImageError,
    can_write,
    quiet_pillow,
    register_heif,
)
from .samples import UnsupportedSamples, misread_tiff_samples, unsupported_tiff_samples
from .sniffing import SNIFF_BYTES, MediaType, sniff_media

__all__ = [
    "MAX_ANIMATION_PIXELS",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "ImageInfo",
    "OpenedImage",
    "check_pixels",
    "check_writable",
    "decode",
    "decoding",
    "open_image",
    "read_image_info",
    "upright_size",
]

# 100 megapixels take 400 MB decoded, and as much again while they are changed.
MAX_PIXELS = 100_000_000

# All frames of an animation together; they are decoded one by one.
MAX_ANIMATION_PIXELS = 200_000_000

# An hour at three frames a second; each costs time, however small it is.
MAX_FRAMES = 10_000

_GET_HEIC = "pip install 'cl-server-shared[heic]'"

# What Pillow's decoders raise about broken content.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class ImageInfo:
    """What is known about a picture without decoding it.

    Attributes:
        width: In pixels, of the picture upright.
        height: In pixels, of the picture upright.
        mime_type: By its content.
        create_date_ms: When it was taken, in milliseconds since the epoch, UTC; from EXIF.
        frames: Of an animation; 1 for any other.
    """

    width: int
    height: int
    mime_type: str
    create_date_ms: Optional[int]
    frames: int


@dataclass(frozen=True)
class OpenedImage:
    """A picture whose header has been read and found acceptable.

    Attributes:
        name: The file's name, for messages.
        pixels: What Pillow opened; not decoded yet.
        media_type: What the file is by its content.
        format: Its format.
        frames: Of an animation; 1 for any other.
        first_frame: Where the animation begins: at 1 where a PNG has a picture for programs that
            show no animations, which is none of its frames.
    """

    name: str
    pixels: Image.Image
    media_type: MediaType
    format: PictureFormat
    frames: int
    first_frame: int = 0


def read_image_info(path: Path) -> ImageInfo:
    """Return a picture's size, type, date and frames from its header.

    Raises:
        FinalError: It is no picture that is accepted, is damaged, or has too many pixels.
    """
    with open_image(path) as image:
        mime_type, taken_ms = image.media_type.mime_type, taken_at_ms(image.pixels)
        return ImageInfo(*upright_size(image.pixels), mime_type, taken_ms, image.frames)


def upright_size(pixels: Image.Image) -> tuple[int, int]:
    """Return a picture's width and height, in pixels, as it is meant to be seen."""
    width, height = pixels.size
    return (height, width) if is_turned(orientation_of(pixels)) else (width, height)


@contextmanager
def open_image(path: Path) -> Iterator[OpenedImage]:
    """Open a picture, which is closed when the block ends.

    Raises:
        FinalError: It is missing, not to be read by this process, empty, no picture that is
            accepted, damaged, or too large.
    """
    name = path.name
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FinalError(f"{name} is missing: there is no such file") from error
    except PermissionError as error:
        raise FinalError(f"{name} cannot be read: this process may not open it") from error
    with file, quiet_pillow():
        media_type = sniff_media(file.read(SNIFF_BYTES))
        if file.tell() == 0:
            raise FinalError(f"{name} is empty: it has not a single byte")
        file.seek(0)
        known = _format_of(name, media_type)
        with decoding(name):
            pixels = _open(file, known)
        with pixels:
            _scale_transparent_value(pixels)
            check_pixels(name, pixels.size)
            with decoding(name):
                pictures = _count_pictures(pixels, known)
            check_pixels(name, pixels.size, pictures)
            first = 1 if pictures > 1 and getattr(pixels, "default_image", False) else 0
            yield OpenedImage(name, pixels, media_type, known, pictures - first, first)


def decode(image: OpenedImage) -> None:
    """Decode the current frame; what stands behind the pixels of a PNG is known only then.

    Raises:
        FinalError: It is damaged.
    """
    with decoding(image.name):
        image.pixels.load()


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises about broken content into a `FinalError` that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        # A frame that is larger than the picture: Pillow counts it before we can.
        raise FinalError(
            f"{name} is too large: a frame of it has more than the {MAX_PIXELS // 1_000_000} "
            "megapixels that are accepted"
        ) from error
    except UnsupportedSamples as error:
        raise FinalError(f"{name} is of a kind that is not supported: {error}") from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the picture
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # whose text shows the whole path
            reason = "its header makes no sense"
        raise FinalError(f"{name} is damaged or cut off: {reason}") from error


def check_pixels(name: str, size: tuple[int, int], frames: int = 1) -> None:
    """Raise `FinalError` for more pixels than are decoded or written here."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise FinalError(
            f"{name} is too large: {width} x {height} are {width * height / 1e6:.1f} megapixels; "
            f"at most {MAX_PIXELS // 1_000_000} are accepted"
        )
    if frames > MAX_FRAMES:
        raise FinalError(
            f"{name} is too long: it has {frames} frames; at most {MAX_FRAMES} are accepted"
        )
    if width * height * frames > MAX_ANIMATION_PIXELS:
        raise FinalError(
            f"{name} is too large: {frames} frames of {width} x {height} are "
            f"{width * height * frames / 1e6:.1f} megapixels; "
            f"at most {MAX_ANIMATION_PIXELS // 1_000_000} are accepted in an animation"
        )


def check_writable(name: str, target_format: PictureFormat) -> None:
    """Raise `FinalError` where what writes a format is not installed here.

    Args:
        name: The name of the file to write.
        target_format: Its format.
    """
    if target_format.name == "heic" and not register_heif():
        raise FinalError(f"{name} is to be a HEIC picture; writing it needs: {_GET_HEIC}")
    if not can_write(target_format.pillow_name):
        raise FinalError(
            f"{name} cannot be written: Pillow is installed here without {target_format.name}"
        )


def _open(file: BinaryIO, known: PictureFormat) -> Image.Image:
    try:
        pixels = Image.open(file, formats=[known.pillow_name])
    except Image.DecompressionBombError:
        # It does not say how large; its decoder does, and `check_pixels` refuses it.
        file.seek(0)
        decoder, _ = Image.OPEN[known.pillow_name]
        return decoder(file, "")
    except UnidentifiedImageError as error:
        kind = unsupported_tiff_samples(file) if known.name == "tiff" else None
        if kind is None:
            raise
        raise UnsupportedSamples(known.pillow_name, kind) from error
    kind = (
        misread_tiff_samples(pixels.tag_v2)
        if isinstance(pixels, TiffImagePlugin.TiffImageFile)
        else None
    )
    if kind is not None:
        raise UnsupportedSamples(known.pillow_name, kind)
    return pixels


def _scale_transparent_value(pixels: Image.Image) -> None:
    """Bring the transparent value of a PNG to the scale of its pixels, as Pillow forgets to.

    It spreads grey of 1 (Pillow 11), 2 and 4 bits over 0 to 255, takes the upper 8 bits of colours
    of 16, and leaves the value as it stands in the file.
    """
    transparent, tiles = pixels.info.get("transparency"), getattr(pixels, "tile", None)
    if pixels.format != "PNG" or not tiles:
        return
    stored_as = tiles[0][3]
    highest = {"1": 1, "L;2": 3, "L;4": 15}.get(stored_as)
    if isinstance(transparent, int) and highest is not None:
        pixels.info["transparency"] = (transparent & highest) * 255 // highest
    elif isinstance(transparent, tuple) and stored_as == "RGB;16B":
        pixels.info["transparency"] = tuple(value >> 8 for value in transparent)


def _format_of(name: str, media_type: MediaType) -> PictureFormat:
    known = format_by_mime_type(media_type.mime_type)
    if known is None:
        accepted = ", ".join(each.name for each in FORMATS)
        raise FinalError(
            f"{name} is not a picture that can be read: by its content it is "
            f"{media_type.mime_type}; accepted are {accepted}"
        )
    if known.name == "heic" and not register_heif():
        raise FinalError(f"{name} is a HEIC picture; reading it needs: {_GET_HEIC}")
    return known


def _count_pictures(pixels: Image.Image, known: PictureFormat) -> int:
    # The further pictures in a JPEG, TIFF or HEIC are pages and previews, not frames.
    return int(getattr(pixels, "n_frames", 1)) if known.animates else 1
