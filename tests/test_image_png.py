"""What only a PNG has: one transparent value, texts, a picture beside its frames."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Optional

import pytest
from PIL import Image

from cl_ml_tools.media.images import read_image_info
from cl_ml_tools.tasks.image_conversion import ImageConversion
from cl_ml_tools.tasks.image_resize import ImageResize

GREY, COLOUR = 0, 2


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def header(size: tuple[int, int], depth: int, colour: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))


def grey_png(depth: int, left: int, right: int, transparent: int) -> bytes:
    """Return a PNG of 16 x 16, one grey on the left and one on the right."""
    bits = f"{left:0{depth}b}" * 8 + f"{right:0{depth}b}" * 8
    row = b"\0" + int(bits, 2).to_bytes(2 * depth, "big")
    return png(
        header((16, 16), depth, GREY),
        chunk(b"tRNS", struct.pack(">H", transparent)),
        chunk(b"IDAT", zlib.compress(row * 16)),
    )


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


async def convert(source: Path, format_name: str) -> Path:
    target = source.with_name(f"converted.{format_name}")
    await run(ImageConversion(), source, target, format=format_name, quality=95)
    return target


async def resize(source: Path, size: tuple[int, int], name: Optional[str] = None) -> Path:
    target = source.with_name(name or f"resized{source.suffix}")
    await run(ImageResize(), source, target, width=size[0], height=size[1])
    return target


async def run(module: Any, source: Path, target: Path, **params: Any) -> None:
    paths = {"input_paths": [str(source)], "output_paths": [str(target)]}
    result = await module.process("a-job", module.task_type, {**paths, **params})
    assert result["status"] == "ok"


@pytest.mark.parametrize(
    ("depth", "transparent", "other", "as_eight_bits"),
    [
        (1, 1, 0, 0),
        (2, 1, 2, 170),
        (4, 1, 9, 153),
        (8, 85, 84, 84),
        (16, 1000, 1001, 4),
        (16, 40_000, 52_428, 204),
    ],
)
async def test_a_transparent_grey_of_any_depth_is_transparent(
    depth: int, transparent: int, other: int, as_eight_bits: int, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(grey_png(depth, transparent, other, transparent))
    for written in (
        await convert(tmp_path / "a.png", "png"),
        await convert(tmp_path / "a.png", "webp"),
        await resize(tmp_path / "a.png", (8, 8)),
    ):
        image = opened(written).convert("RGBA")
        assert image.getpixel((0, 4))[3] == 0, written.name
        grey, alpha = image.getpixel((image.width - 1, 4))[2:]
        assert abs(grey - as_eight_bits) <= 2 and alpha == 255, written.name

    on_white = opened(await convert(tmp_path / "a.png", "jpg")).convert("L")
    assert on_white.getpixel((1, 4)) > 250
    assert abs(on_white.getpixel((14, 4)) - as_eight_bits) <= 4


async def test_a_transparent_colour_of_sixteen_bits_is_transparent(tmp_path: Path) -> None:
    left, right = (0x1234, 0x5678, 0x9ABC), (0xFEDC, 0x1111, 0x2222)
    row = b"\0" + struct.pack(">3H", *left) * 8 + struct.pack(">3H", *right) * 8
    pixels = chunk(b"IDAT", zlib.compress(row * 16))
    transparent = chunk(b"tRNS", struct.pack(">3H", *left))
    (tmp_path / "a.png").write_bytes(png(header((16, 16), 16, COLOUR), transparent, pixels))

    for written in (
        await convert(tmp_path / "a.png", "png"),
        await resize(tmp_path / "a.png", (8, 8)),
    ):
        image = opened(written).convert("RGBA")
        assert image.getpixel((0, 4))[3] == 0, written.name
        assert image.getpixel((image.width - 1, 4)) == (0xFE, 0x11, 0x22, 255), written.name


RED, GREEN, BLUE, NOTHING = (220, 0, 0, 255), (0, 160, 0, 255), (0, 0, 210, 255), (0, 0, 0, 0)


def save_beside_its_frames(path: Path, still: Image.Image, *frames: Image.Image) -> None:
    """Write an animation with a picture, for programs that show none, that is not a frame."""
    still.save(
        path,
        save_all=True,
        default_image=True,
        append_images=frames,
        duration=[100 * number for number in range(1, len(frames) + 1)],
        blend=1,
    )
    assert opened(path).info["default_image"]


def shown(path: Path) -> list[tuple[int, list[Any]]]:
    """Return each frame's time, and what two of its pixels look like: on the left, on the right."""
    frames = []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            seen = image.convert("RGBA")
            pixels = [seen.getpixel((x, 4)) for x in (1, seen.width - 2)]
            frames.append((round(image.info.get("duration", 0)), pixels))
    return frames


def flat(left: tuple[int, ...], right: tuple[int, ...]) -> Image.Image:
    image = Image.new("RGBA", (16, 16), left)
    image.paste(right, (8, 0, 16, 16))
    return image


@pytest.mark.parametrize("name", ["b.png", "b.gif"])
async def test_the_picture_beside_an_animation_is_no_frame_of_the_result(
    name: str, tmp_path: Path
) -> None:
    source = tmp_path / "a.png"
    save_beside_its_frames(source, flat(GREEN, GREEN), flat(RED, NOTHING), flat(RED, BLUE))
    expected = [(100, [RED, NOTHING]), (200, [RED, BLUE])]
    assert shown(await resize(source, (16, 16), name)) == expected
    assert read_image_info(source).frames == 2


async def test_a_conversion_leaves_the_picture_beside_an_animation_out(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    save_beside_its_frames(source, flat(GREEN, GREEN), flat(RED, RED), flat(BLUE, BLUE))
    assert shown(await convert(source, "gif")) == [(100, [RED, RED]), (200, [BLUE, BLUE])]
    assert shown(await convert(source, "png")) == [(0, [GREEN, GREEN])]


@pytest.mark.parametrize("mode", ["P", "RGB"])
async def test_the_picture_beside_an_animation_is_not_seen_through_its_frames(
    mode: str, tmp_path: Path
) -> None:
    """The first frame covers a part only: around it there is nothing."""
    source = tmp_path / "a.png"
    if mode == "P":
        palette = chunk(b"PLTE", bytes([*GREEN[:3], *RED[:3], 1, 1, 1]))
        colour, transparent, green, red = 3, b"\xff\xff\0", b"\0", b"\1"
    else:
        palette = b""
        colour, transparent = 2, struct.pack(">HHH", 1, 1, 1)
        green, red = bytes(GREEN[:3]), bytes(RED[:3])
    left = struct.pack(">IIIIIHHBB", 0, 8, 16, 0, 0, 1, 10, 0, 1)
    source.write_bytes(
        png(
            header((16, 16), 8, colour),
            chunk(b"acTL", struct.pack(">II", 1, 0)),
            palette,
            chunk(b"tRNS", transparent),
            chunk(b"IDAT", zlib.compress((b"\0" + green * 16) * 16)),
            chunk(b"fcTL", left),
            chunk(b"fdAT", b"\0\0\0\1" + zlib.compress((b"\0" + red * 8) * 16)),
        )
    )
    assert shown(await resize(source, (16, 16))) == [(0, [RED, (1, 1, 1, 0)])]


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation{}</x:xmpmeta>'


def text_of(kind: str, orientation: int) -> bytes:
    """Return the chunk in which a program wrote down how a PNG is to be turned."""
    if kind == "xmp":
        text = XMP.format(f'="{orientation}"/>')
        return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode())
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera"
    packed = exif.tobytes()
    text = f"\nexif\n{len(packed):8}\n{packed.hex()}\n"
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode()))


def turned_png(*, before: bytes = b"", behind: bytes = b"") -> bytes:
    """Return a PNG of 16 x 8 pixels, red on the left, with texts before or behind them."""
    row = b"\0" + bytes(RED[:3]) * 8 + bytes(BLUE[:3]) * 8
    pixels = chunk(b"IDAT", zlib.compress(row * 8))
    return png(header((16, 8), 8, 2), before, pixels, behind)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", ["xmp", "raw"])
async def test_a_png_is_turned_as_its_texts_say(kind: str, behind: bool, tmp_path: Path) -> None:
    source, text = tmp_path / "a.png", text_of(kind, 6)
    source.write_bytes(turned_png(behind=text) if behind else turned_png(before=text))
    for written in (await convert(source, "png"), await resize(source, (8, 16))):
        image = opened(written)
        assert image.size == (8, 16), written.name
        assert [image.getpixel((4, y)) for y in (2, 13)] == [RED[:3], BLUE[:3]]
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1
        assert exif.get(0x010F) == (None if kind == "xmp" else "Camera")


@pytest.mark.parametrize("kind", ["xmp", "raw"])
def test_the_size_of_a_turned_png_is_known_without_decoding_it(kind: str, tmp_path: Path) -> None:
    # Its pixels are cut off: reading them would fail.
    (tmp_path / "a.png").write_bytes(turned_png(before=text_of(kind, 6))[:-30])
    info = read_image_info(tmp_path / "a.png")
    assert (info.width, info.height) == (8, 16)


@pytest.mark.parametrize(
    "text", [b"Raw profile type exif\0\0\n\n\nno hex", b"XML:com.adobe.xmp\0<"]
)
async def test_a_text_that_makes_no_sense_turns_nothing(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(turned_png(before=chunk(b"tEXt", text)))
    assert opened(await convert(tmp_path / "a.png", "png")).size == (16, 8)
