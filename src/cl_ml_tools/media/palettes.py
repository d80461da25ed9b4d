"""Pictures of at most 256 colours, as GIF stores them."""

from __future__ import annotations

from .pillow import Image

__all__ = ["to_palette"]

# GIF knows "there" and "not there" only: less than half there is not there.
_THRESHOLD = [255 if alpha < 128 else 0 for alpha in range(256)]

_TRANSPARENT = 255

# Colours are chosen from a copy with at most twice this side.
_SAMPLE_SIDE = 1000


def to_palette(image: Image.Image, *, dither: bool) -> Image.Image:
    """Return an L, RGB or RGBA picture with the palette that suits it best.

    Args:
        image: The picture.
        dither: Whether colours that are missing are made of dots: right for a photo, flickering
            in an animation.
    """
    if image.mode == "L":
        return image
    missing = image.getchannel("A").point(_THRESHOLD) if image.mode == "RGBA" else None
    if missing is None or missing.getbbox() is None:
        opaque = image if image.mode == "RGB" else image.convert("RGB")
        return _quantized(opaque, 256, dither)
    indexed = _quantized(image.convert("RGB"), _TRANSPARENT, dither)
    indexed.paste(_TRANSPARENT, mask=missing)
    indexed.info["transparency"] = _TRANSPARENT
    return indexed


def _quantized(image: Image.Image, colours: int, dither: bool) -> Image.Image:
    if not dither or image.getcolors(colours) is not None:  # few enough to fit as they are
        return image.quantize(colours, method=Image.Quantize.MEDIANCUT)
    # A smaller copy has the same colours, and choosing among them takes far less memory.
    shrinking = max(1, max(image.size) // _SAMPLE_SIDE)
    palette = image.reduce(shrinking).quantize(colours, method=Image.Quantize.MEDIANCUT)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
