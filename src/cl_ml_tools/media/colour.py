"""Kinds of pixels (Pillow's modes) and colour spaces: from what was read to what can be written.

Everything is first brought to one of six plain modes: L, LA, RGB, RGBA, CMYK, I;16 (16-bit grey).
"""

from __future__ import annotations

import io
from typing import Optional

from .formats import PictureFormat
from .pillow import Image, ImageCms
from .samples import UnsupportedSamples

__all__ = ["fit_pixels", "plain_pixels"]

_PLAIN_MODES = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "I;16"})

# What each other mode becomes without loss; a palette is spelled out, so that it can be resized.
_SPELLED_OUT = {
    "1": "L",
    "P": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "I;16B": "I;16",
    "I;16L": "I;16",
    "I": "I;16",
}
_WITH_ALPHA = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA", "PA": "RGBA"}

# Where a format does not store a mode: the first of these that it does.
_SECOND_BEST: dict[str, tuple[str, ...]] = {
    "I;16": ("I;16", "L", "RGB"),
    "L": ("L", "RGB"),
    "LA": ("LA", "RGBA", "L", "RGB"),
    "RGB": ("RGB",),
    "RGBA": ("RGBA", "RGB"),
    "CMYK": ("CMYK", "RGB"),
}

# The colour space that an ICC profile must be of (its header, byte 16) to describe a mode.
_COLOUR_SPACES = {
    "L": b"GRAY",
    "LA": b"GRAY",
    "I;16": b"GRAY",
    "RGB": b"RGB ",
    "RGBA": b"RGB ",
    "CMYK": b"CMYK",
}

# 16 bits to 8, rounded: 65535 is 255. Pillow's own conversion cuts everything above 255 off.
_TO_EIGHT_BITS = [(value * 255 + 32_767) // 65_535 for value in range(65_536)]


def plain_pixels(image: Image.Image) -> Image.Image:
    """Return a decoded picture in one of the six plain modes.

    Raises:
        UnsupportedSamples: They are 32-bit or floating-point numbers, which no format here has.
    """
    if image.mode == "I;16" and "transparency" in image.info:
        return _grey_with_alpha(image)
    if image.has_transparency_data and image.mode in _WITH_ALPHA:
        return image.convert(_WITH_ALPHA[image.mode])
    if image.mode in _PLAIN_MODES:
        return image
    wanted = _SPELLED_OUT.get(image.mode)
    if wanted is None or (image.mode == "I" and not _fits_sixteen_bits(image)):
        kind = "float samples of 32 bits" if image.mode == "F" else "samples of 32 bits"
        raise UnsupportedSamples(image.format or "picture", kind)
    if wanted == "I;16" and image.mode != "I":
        image = image.convert("I")  # Pillow has no direct way from one byte order to the other
    return image.convert(wanted)


def fit_pixels(
    image: Image.Image, profile: Optional[bytes], target: PictureFormat
) -> tuple[Image.Image, Optional[bytes]]:
    """Return a picture in plain pixels as a format can store it, and the profile to embed.

    16 bits are scaled to 8, transparency is laid on white, colours go to sRGB by way of the
    profile: each only where the format cannot do without.

    Args:
        image: In one of the plain modes.
        profile: The ICC profile that was embedded; one that does not fit the pixels is ignored.
        target: The format.
    """
    wanted = next(mode for mode in _SECOND_BEST[image.mode] if mode in target.modes)
    if image.mode == "I;16" and wanted != "I;16":
        image = image.convert("I").point(_TO_EIGHT_BITS, "L")
    if image.mode in ("LA", "RGBA") and wanted in ("L", "RGB"):
        image = _lay_on_white(image)
    if profile is not None and profile[16:20] != _COLOUR_SPACES[image.mode]:
        profile = None
    keeps = target.keeps_profile and _COLOUR_SPACES[image.mode] == _COLOUR_SPACES[wanted]
    if profile is not None and not keeps:
        image, profile = _to_srgb(image, profile), None
    return (image if image.mode == wanted else image.convert(wanted)), profile


def _grey_with_alpha(image: Image.Image) -> Image.Image:
    """Return 16-bit grey with one transparent value in 8 bits, Pillow's only grey with alpha."""
    values = image.convert("I")
    opacity = [255] * 65_536
    opacity[image.info["transparency"]] = 0
    return Image.merge("LA", (values.point(_TO_EIGHT_BITS, "L"), values.point(opacity, "L")))


def _fits_sixteen_bits(image: Image.Image) -> bool:
    low, high = image.getextrema()
    return isinstance(low, int) and isinstance(high, int) and low >= 0 and high <= 65_535


def _lay_on_white(image: Image.Image) -> Image.Image:
    opaque = image.convert("L" if image.mode == "LA" else "RGB")
    paper = Image.new(opaque.mode, opaque.size, "white")
    paper.paste(opaque, mask=image.getchannel("A"))
    return paper


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image if alpha is None else image.convert(image.mode[:-1])
    try:
        converted = ImageCms.profileToProfile(
            opaque,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile says nothing: the picture looks as if it had none
    if converted is None:
        raise AssertionError("a new picture was asked for, not a change in place")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
