"""Smooth shapes, colours and landscapes, drawn with Pillow."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Union

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Paint = Union[int, tuple[int, ...]]
Point = tuple[float, float]

# Drawn this much larger and scaled down: Pillow's shapes have hard edges.
SCALE = 2


class Canvas:
    """Draws smooth shapes: everything is painted larger and scaled down at the end."""

    def __init__(self, image: Image.Image) -> None:
        self.size = image.size
        self.image = image.resize(
            (image.width * SCALE, image.height * SCALE), Image.Resampling.BICUBIC
        )
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[Point], colour: Paint) -> None:
        """Fill the shape between the points."""
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=colour)

    def line(self, points: Sequence[Point], colour: Paint, width: float) -> None:
        """Draw a line through the points."""
        self.draw.line(
            [(x * SCALE, y * SCALE) for x, y in points],
            fill=colour,
            width=round(width * SCALE),
            joint="curve",
        )

    def box(self, corners: tuple[float, float, float, float], colour: Paint) -> None:
        """Fill a rectangle: left, top, right, bottom."""
        left, top, right, bottom = corners
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, centre: Point, radius: float, colour: Paint) -> None:
        """Fill a circle."""
        x, y = centre
        self.draw.ellipse(
            [
                (x - radius) * SCALE,
                (y - radius) * SCALE,
                (x + radius) * SCALE,
                (y + radius) * SCALE,
            ],
            fill=colour,
        )

    def text(self, centre: Point, text: str, size: float, colour: Paint) -> None:
        """Write a line of text around its centre."""
        x, y = centre
        self.draw.text(
            (x * SCALE, y * SCALE),
            text,
            fill=colour,
            anchor="mm",
            font=ImageFont.load_default(size * SCALE),
        )

    def finish(self) -> Image.Image:
        """Return the picture in its own size."""
        return self.image.resize(self.size, Image.Resampling.LANCZOS)


def gradient(size: tuple[int, int], *colours: Colour) -> Image.Image:
    """Return a picture that runs through the colours from top to bottom."""
    column = Image.new("RGB", (1, size[1]))
    for y in range(size[1]):
        position = y / size[1] * (len(colours) - 1)
        index = int(position)
        column.putpixel((0, y), mix(colours[index], colours[index + 1], position - index))
    return column.resize(size)


def glow(image: Image.Image, centre: tuple[int, int], radius: int, colour: Colour) -> None:
    """Let light fall off around a point."""
    # The gradient is 180 at the middle of each side: nothing is left of the glow there.
    fading = [max(0, 255 - value * 255 // 178) for value in range(256)]
    mask = (
        Image.radial_gradient("L")
        .point(fading)
        .resize((radius * 2, radius * 2), Image.Resampling.BICUBIC)
    )
    image.paste(colour, (centre[0] - radius, centre[1] - radius), mask)


def ridge(
    seed: int, base: float, height: float, waves: float, *, width: int = 960, bottom: int = 640
) -> list[Point]:
    """Return the outline of hills: four waves upon each other, different for each seed."""
    rng = random.Random(seed)
    parts = [
        (rng.uniform(0.4, 1), rng.uniform(0.6, 1.6) * waves * (n + 1), rng.uniform(0, 6))
        for n in range(4)
    ]
    top = [
        (
            x,
            base
            + height
            * sum(
                a / (n + 1) * math.sin(f * x / width * math.pi + p)
                for n, (a, f, p) in enumerate(parts)
            ),
        )
        for x in range(0, width + 4, 4)
    ]
    return [*top, (width, bottom), (0, bottom)]


def fir(draw: Canvas, x: float, base: float, height: float, colour: Colour) -> None:
    """Draw a fir that stands at the point."""
    for part in range(3):
        top, width = base - height + part * height * 0.26, height * (0.16 + part * 0.08)
        draw.polygon(
            [(x, top), (x + width, top + height * 0.46), (x - width, top + height * 0.46)], colour
        )


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return a colour between two."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other))
    return red, green, blue


def caption(image: Image.Image, text: str) -> Image.Image:
    """Write the name of a picture into its corner."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(22)
    place = (image.width - 22, image.height - 20)
    draw.text((place[0] + 1, place[1] + 1), text, fill=(30, 30, 40), anchor="rs", font=font)
    draw.text(place, text, fill=(255, 255, 255), anchor="rs", font=font)
    return image
