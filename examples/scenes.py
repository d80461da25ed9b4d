"""What is on the sample pictures."""

from __future__ import annotations

import math
import random

from drawing import SCALE, Canvas, Colour, caption, fir, glow, gradient, mix, ridge
from PIL import Image, ImageChops, ImageFilter

SIZE = (960, 640)
PORTRAIT = (640, 960)


def harbour() -> Image.Image:
    """Ships before a low sun."""
    image = gradient(SIZE, (31, 38, 84), (232, 122, 86), (255, 196, 120))
    glow(image, (690, 395), 250, (255, 226, 170))
    draw = Canvas(image)
    draw.disc((690, 395), 46, (255, 243, 214))
    draw.polygon(ridge(0, 430, 18, 3), (74, 62, 104))
    draw.polygon(ridge(4, 452, 10, 7), (50, 46, 88))
    draw.box((0, 455, 960, 640), (60, 62, 110))
    rng = random.Random(1)
    for _ in range(150):
        y = rng.uniform(462, 638)
        nearness = (y - 455) / 185
        x = rng.gauss(690, 40 + 160 * nearness)
        length = 14 + 70 * nearness * rng.random()
        tint = mix((255, 205, 140), (110, 96, 140), min(1, abs(x - 690) / 240))
        draw.line([(x - length, y), (x + length, y)], tint, 1.6 + 2 * nearness)
    for x, height, lean in ((150, 190, 6), (235, 150, -4), (330, 215, 3)):
        draw.polygon([(x - 62, 470), (x + 66, 470), (x + 44, 500), (x - 44, 500)], (27, 24, 50))
        draw.line([(x, 472), (x + lean, 472 - height)], (27, 24, 50), 4)
        draw.line([(x + lean, 472 - height), (x + 62, 470)], (27, 24, 50), 1.4)
        draw.line([(x + lean, 472 - height), (x - 60, 470)], (27, 24, 50), 1.4)
        draw.disc((x + lean, 470 - height), 4, (255, 214, 130))
    return caption(draw.finish(), "Harbour at dusk")


def lake() -> Image.Image:
    """Mountains, and their reflection."""
    half = gradient((960, 330), (86, 150, 214), (214, 232, 244))
    draw = Canvas(half)
    draw.disc((200, 84), 34, (255, 250, 228))
    draw.polygon(ridge(1, 210, 70, 2, bottom=340), (128, 152, 184))
    draw.polygon([(520, 330), (700, 66), (905, 330)], (92, 108, 138))
    draw.polygon(
        [(700, 66), (655, 134), (690, 122), (708, 150), (738, 118), (752, 133)], (246, 250, 255)
    )
    draw.polygon([(290, 330), (432, 128), (600, 330)], (106, 124, 152))
    draw.polygon([(432, 128), (398, 176), (428, 166), (446, 186), (468, 170)], (246, 250, 255))
    draw.polygon(ridge(7, 300, 14, 5, bottom=340), (44, 84, 74))
    rng = random.Random(2)
    for _ in range(70):
        x, base = rng.uniform(-10, 970), rng.uniform(300, 330)
        fir(draw, x, base, rng.uniform(22, 46), mix((26, 66, 56), (40, 92, 70), rng.random()))
    upper = draw.finish()
    mirrored = upper.transpose(Image.Transpose.FLIP_TOP_BOTTOM).filter(
        ImageFilter.GaussianBlur(2.4)
    )
    water = Image.blend(mirrored, Image.new("RGB", mirrored.size, (52, 96, 132)), 0.38)
    image = Image.new("RGB", SIZE)
    image.paste(upper, (0, 0))
    image.paste(water, (0, 330))
    canvas = Canvas(image)
    for _ in range(60):
        y = 336 + 300 * rng.random() ** 1.6
        x, length = rng.uniform(0, 960), rng.uniform(20, 110)
        canvas.line([(x, y), (x + length, y)], (150, 186, 208), 1)
    return caption(canvas.finish(), "Mountain lake")


def lighthouse() -> Image.Image:
    """A tower in stripes, upright."""
    image = gradient(PORTRAIT, (40, 94, 148), (120, 178, 206), (250, 222, 184))
    glow(image, (322, 235), 200, (255, 244, 206))
    draw = Canvas(image)
    for x, y, width in ((90, 190, 120), (470, 130, 150), (520, 330, 90), (60, 420, 100)):
        for part in range(5):
            draw.disc((x + part * width / 5, y - 10 * math.sin(part)), width / 7, (244, 240, 236))
    draw.box((0, 690, 640, 960), (38, 100, 134))
    rng = random.Random(3)
    for _ in range(130):
        y = rng.uniform(694, 958)
        x, length = rng.uniform(0, 640), rng.uniform(6, 40)
        draw.line(
            [(x, y), (x + length, y)], mix((80, 150, 178), (200, 226, 230), rng.random()), 1.5
        )
    draw.polygon(
        [(0, 960), (0, 800), (130, 744), (300, 720), (470, 742), (590, 838), (640, 960)],
        (58, 62, 66),
    )
    draw.polygon([(140, 744), (300, 716), (470, 742), (400, 752), (230, 752)], (94, 130, 84))
    for index in range(6):
        top, bottom = 290 + index * 74, 290 + (index + 1) * 74
        left, right = 284 - index * 7, 360 + index * 7
        colour = (206, 54, 48) if index % 2 == 0 else (248, 246, 240)
        draw.polygon([(left, top), (right, top), (right + 7, bottom), (left - 7, bottom)], colour)
        shade = mix(colour, (20, 20, 40), 0.22)
        draw.polygon(
            [(right - 22, top), (right, top), (right + 7, bottom), (right - 17, bottom)], shade
        )
    draw.box((270, 276, 374, 292), (44, 46, 56))
    draw.box((292, 216, 352, 276), (255, 238, 170))
    for x in (292, 312, 332, 350):
        draw.box((x, 216, x + 3, 276), (44, 46, 56))
    draw.polygon([(282, 216), (362, 216), (322, 168)], (150, 36, 36))
    return caption(draw.finish(), "Lighthouse")


def forest() -> Image.Image:
    """Trunks in haze, upright."""
    image = gradient(PORTRAIT, (214, 226, 196), (250, 244, 206), (150, 178, 120))
    glow(image, (320, 400), 300, (255, 252, 226))
    draw = Canvas(image)
    rng = random.Random(4)
    for layer in range(4):
        far = 1 - layer / 3
        tint = mix((36, 46, 34), (176, 192, 160), far)
        for _ in range(16 - layer * 3):
            x = rng.uniform(-30, 670)
            if abs(x - 320) < 50 + 60 * (1 - far):
                continue
            width = 5 + 12 * layer
            draw.polygon(
                [
                    (x - width / 2, 0),
                    (x + width / 2, 0),
                    (x + width * 0.8, 640 + layer * 90),
                    (x - width * 0.8, 640 + layer * 90),
                ],
                tint,
            )
        draw.polygon(
            ridge(layer * 3, 610 + layer * 84, 16, 4 + layer, width=640, bottom=960),
            mix((58, 88, 44), (160, 184, 120), far),
        )
    draw.polygon([(304, 624), (336, 624), (560, 960), (80, 960)], (188, 158, 112))
    draw.polygon([(312, 624), (330, 624), (430, 960), (220, 960)], (206, 178, 132))
    for _ in range(420):
        y = 640 + 320 * rng.random()
        x = rng.uniform(0, 640)
        if abs(x - 320) > (y - 600) * 0.74:
            draw.line(
                [(x, y), (x + rng.uniform(-5, 5), y - 6 - 14 * rng.random())],
                mix((44, 84, 36), (140, 176, 84), rng.random()),
                1.8,
            )
    return caption(draw.finish(), "Forest path")


def dunes() -> Image.Image:
    """Sand, for a wide gamut."""
    image = gradient(SIZE, (28, 96, 186), (122, 186, 228), (252, 226, 186))
    draw = Canvas(image)
    draw.disc((760, 128), 52, (255, 250, 220))
    for index, (base, light, dark) in enumerate(
        (
            (350, (236, 176, 112), (196, 128, 84)),
            (420, (240, 160, 84), (186, 98, 56)),
            (500, (228, 124, 52), (158, 66, 36)),
        )
    ):
        crest = [
            (x, base + 56 * math.sin(x / 210 + index * 2.1) + 22 * math.sin(x / 83 + index))
            for x in range(0, 965, 5)
        ]
        draw.polygon([*crest, (960, 640), (0, 640)], light)
        peak = min(range(30, 150), key=lambda at: crest[at][1])
        edge = [
            (crest[peak][0] + 1.9 * t + 46 * math.sin(t / 38), crest[peak][1] + t)
            for t in range(0, 260, 4)
        ]
        draw.polygon([*crest[peak:], (960, 640), *reversed(edge)], dark)
    for x in (238, 292, 350):
        draw.polygon([(x, 470), (x + 9, 440), (x + 18, 470)], (60, 34, 30))
        draw.disc((x + 9, 436), 5, (60, 34, 30))
    return caption(draw.finish().filter(ImageFilter.GaussianBlur(0.5)), "Dunes (Display P3)")


def fog() -> Image.Image:
    """Ridges behind each other, grey."""
    image = gradient(SIZE, (232, 232, 232), (206, 206, 206), (150, 150, 150))
    for layer in range(5):
        draw = Canvas(image)
        tone = 196 - layer * 38
        draw.polygon(ridge(layer * 5, 270 + layer * 74, 44 - layer * 5, 3 + layer), (tone,) * 3)
        rng = random.Random(10 + layer)
        for _ in range(6 + layer * 4):
            x = rng.uniform(0, 960)
            fir(draw, x, 300 + layer * 76 + rng.uniform(-10, 26), 20 + layer * 18, (tone - 8,) * 3)
        veil = Image.new("RGB", SIZE, (216, 216, 216))
        mask = (
            Image.linear_gradient("L")
            .resize(SIZE)
            .point([value * (64 - layer * 12) // 255 for value in range(256)])
        )
        image = Image.composite(veil, draw.finish(), mask)
    return caption(image, "Morning fog")


def poster() -> Image.Image:
    """Draw in printing inks: cyan, magenta, yellow and black, each a plate of its own."""
    size = PORTRAIT
    plates = []
    for index, centre in enumerate(((245, 360), (395, 360), (320, 490))):
        plate = Canvas(Image.new("L", size, (10, 4, 14)[index]))
        plate.disc(centre, 170, 235)
        for step in range(6):
            plate.box(
                (60 + step * 88, 760, 140 + step * 88, 800),
                (0, 50, 100, 150, 200, 255)[(step + index * 2) % 6],
            )
        plates.append(plate.finish())
    black = Canvas(Image.new("L", size, 0))
    black.text((320, 130), "INK", 92, 230)
    black.text((320, 850), "cyan  magenta  yellow  key", 34, 230)
    black.box((60, 700, 580, 704), 230)
    plates.append(black.finish())
    return Image.merge("CMYK", plates)


def kite() -> Image.Image:
    """Half transparent on nothing."""
    image = Image.new("RGBA", (640, 640))
    draw = Canvas(image)
    top, right, bottom, left, middle = (320, 50), (500, 230), (320, 470), (140, 230), (320, 230)
    for points, colour in (
        ([top, right, middle], (240, 90, 60, 235)),
        ([right, bottom, middle], (250, 180, 50, 235)),
        ([bottom, left, middle], (60, 160, 200, 235)),
        ([left, top, middle], (90, 190, 120, 235)),
    ):
        draw.polygon(points, colour)
    tail = [(320 + 60 * math.sin(step / 9), 470 + step * 1.6) for step in range(95)]
    draw.line(tail, (70, 60, 90, 255), 4)
    for step in (20, 45, 70):
        x, y = tail[step]
        draw.polygon([(x - 26, y - 13), (x, y), (x - 26, y + 13)], (240, 90, 60, 200))
        draw.polygon([(x + 26, y - 13), (x, y), (x + 26, y + 13)], (250, 180, 50, 200))
    return draw.finish()


def moon() -> Image.Image:
    """Draw 16-bit grey: a gradient finer than 8 bits can show."""
    size = 480
    glow_of = Image.radial_gradient("L").resize((size, size), Image.Resampling.BICUBIC)
    night = ImageChops.invert(glow_of).convert("I").point(lambda value: value * 24 + 900)
    disc = Canvas(Image.new("L", (size, size)))
    disc.disc((240, 240), 150, 255)
    craters = Canvas(Image.new("L", (size, size), 214))
    rng = random.Random(6)
    for _ in range(46):
        x, y, radius = rng.gauss(240, 80), rng.gauss(240, 80), 4 + 22 * rng.random() ** 2
        craters.disc((x, y), radius, 176 + int(30 * rng.random()))
        craters.disc((x - radius * 0.2, y - radius * 0.2), radius * 0.72, 205)
    surface = craters.finish().filter(ImageFilter.GaussianBlur(1.6))
    shade = Image.linear_gradient("L").rotate(60, Image.Resampling.BICUBIC).resize((size, size))
    lit = ImageChops.multiply(surface, shade.point([min(255, 40 + value) for value in range(256)]))
    night.paste(lit.convert("I").point(lambda value: value * 256 + 128), mask=disc.finish())
    return night.convert("I;16")


def diagram() -> Image.Image:
    """Few colours: a palette."""
    canvas = Canvas(Image.new("RGB", (720, 480), (250, 249, 245)))
    for index, (label, value) in enumerate(
        (("Mon", 34), ("Tue", 58), ("Wed", 41), ("Thu", 77), ("Fri", 92), ("Sat", 66), ("Sun", 49))
    ):
        x, colour = 70 + index * 86, ((42, 120, 142), (232, 110, 80))[value == 92]
        canvas.box((x, 400 - value * 3, x + 56, 400), colour)
        canvas.text((x + 28, 424), label, 22, (60, 60, 66))
        canvas.text((x + 28, 384 - value * 3), str(value), 20, (60, 60, 66))
    canvas.box((50, 400, 680, 402), (60, 60, 66))
    canvas.text((360, 56), "Jobs a day, in thousands", 32, (40, 40, 48))
    return canvas.finish().quantize(64)


def balloons() -> Image.Image:
    """Balloons over hills."""
    image = gradient(SIZE, (92, 160, 224), (198, 226, 244), (252, 240, 220))
    draw = Canvas(image)
    draw.polygon(ridge(2, 520, 34, 2), (150, 184, 140))
    draw.polygon(ridge(9, 566, 22, 4), (104, 150, 96))
    for x, y, radius, palette in (
        (230, 220, 110, ((226, 74, 62), (252, 208, 84))),
        (560, 160, 78, ((70, 120, 190), (244, 244, 240))),
        (760, 300, 54, ((124, 84, 160), (250, 170, 120))),
        (430, 380, 38, ((46, 150, 130), (250, 230, 140))),
    ):
        balloon(draw, x, y, radius, palette)
    return caption(draw.finish(), "Balloons")


def pendulum() -> list[Image.Image]:
    """Newton's cradle, a swing in 24 frames."""
    frames = []
    for step in range(24):
        canvas = Canvas(Image.new("RGB", (320, 240), (24, 28, 44)))
        canvas.box((40, 20, 280, 28), (120, 126, 150))
        for index in range(5):
            swing = math.sin(2 * math.pi * step / 24)
            outer = (index == 0 and swing < 0) or (index == 4 and swing > 0)
            angle = 0.75 * swing if outer else 0.0
            x = 104 + index * 28
            end = (x + 140 * math.sin(angle), 28 + 140 * math.cos(angle))
            canvas.line([(x, 28), end], (170, 176, 200), 1.5)
            canvas.disc(end, 14, (236, 178, 84) if outer else (196, 202, 220))
            canvas.disc((end[0] - 4, end[1] - 5), 4, (255, 250, 236))
        frames.append(canvas.finish())
    return frames


def balloon(
    draw: Canvas, x: float, y: float, radius: float, palette: tuple[Colour, Colour]
) -> None:
    """One balloon, its envelope of seven stripes."""
    draw.polygon(
        [
            (x - radius * 0.8, y + radius * 0.6),
            (x + radius * 0.8, y + radius * 0.6),
            (x + radius * 0.2, y + radius * 1.45),
            (x - radius * 0.2, y + radius * 1.45),
        ],
        palette[0],
    )
    for stripe, share in enumerate((1, 0.72, 0.44, 0.16)):
        half = radius * share
        colour = palette[stripe % 2]
        draw.draw.ellipse(
            [(x - half) * SCALE, (y - radius) * SCALE, (x + half) * SCALE, (y + radius) * SCALE],
            fill=colour,
        )
        bottom = radius * 0.2 * share
        draw.polygon(
            [
                (x - half * 0.8, y + radius * 0.6),
                (x + half * 0.8, y + radius * 0.6),
                (x + bottom, y + radius * 1.45),
                (x - bottom, y + radius * 1.45),
            ],
            colour,
        )
    draw.box(
        (x - radius * 0.2, y + radius * 1.55, x + radius * 0.2, y + radius * 1.82), (120, 82, 50)
    )
    for side in (-1, 1):
        draw.line(
            [
                (x + side * radius * 0.2, y + radius * 1.4),
                (x + side * radius * 0.2, y + radius * 1.6),
            ],
            (90, 64, 44),
            1.5,
        )
