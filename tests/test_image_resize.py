"""The task `image_resize`, by the pixels of what it writes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from PIL import Image, ImageOps

from cl_ml_tools.errors import FinalError, InvalidParams
from cl_ml_tools.registry import load_task, validate_params
from cl_ml_tools.tasks.image_resize import ImageResize

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "photos").iterdir())

RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 160, 40), (30, 40, 210), (240, 220, 20)


async def resize(
    sources: list[Path],
    folder: Path,
    *,
    outputs: Optional[list[str]] = None,
    progress: Optional[Callable[[int], None]] = None,
    **params: Any,
) -> list[dict[str, Any]]:
    names = outputs or [f"resized_{source.name}" for source in sources]
    (folder / "output").mkdir(exist_ok=True)
    result = await ImageResize().process(
        "a-job",
        "image_resize",
        {
            "input_paths": [str(source) for source in sources],
            "output_paths": [str(folder / "output" / name) for name in names],
            **params,
        },
        progress,
    )
    assert result["status"] == "ok"
    files: list[dict[str, Any]] = result["task_output"]["files"]
    return files


async def resize_one(source: Path, folder: Path, **params: Any) -> Image.Image:
    (file,) = await resize([source], folder, **params)
    return opened(folder / "output" / file["output"])


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def quarters(size: tuple[int, int] = (80, 40)) -> Image.Image:
    """Return a picture whose corners tell which way up it is."""
    width, height = size
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = image.width - 4, image.height - 4
    rgb = image.convert("RGB")
    return [rgb.getpixel(at) for at in ((3, 3), (right, 3), (3, bottom), (right, bottom))]


def close(one: Any, other: Any, tolerance: int = 6) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one, other))


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
async def test_every_sample_gets_exactly_the_size_asked_for(photo: Path, tmp_path: Path) -> None:
    (file,) = await resize([photo], tmp_path, width=320, height=240)
    written = tmp_path / "output" / file["output"]
    image = opened(written)
    assert image.size == (320, 240)
    assert (file["width"], file["height"]) == (320, 240)
    assert file["size"] == written.stat().st_size
    assert image.format == opened(photo).format


def test_there_are_twelve_samples_of_every_kind() -> None:
    assert len(PHOTOS) == 12
    assert sum(photo.suffix == ".jpg" for photo in PHOTOS) >= 4
    images = [opened(photo) for photo in PHOTOS]
    assert {"L", "RGB", "RGBA", "CMYK", "P", "I;16"} <= {image.mode for image in images}
    assert {1, 3, 6, 8} <= {image.getexif().get(0x0112) for image in images}
    assert any(image.info.get("icc_profile") for image in images)


@pytest.mark.parametrize(
    ("box", "enlarge", "expected"),
    [
        ((40, 400), True, (40, 20)),
        ((400, 10), True, (20, 10)),
        ((160, 160), True, (160, 80)),
        ((160, 160), False, (80, 40)),
        ((65_535, 30), False, (60, 30)),
        ((1, 1), True, (1, 1)),
    ],
)
async def test_an_aspect_ratio_that_is_kept_fits_within_the_box(
    box: tuple[int, int], enlarge: bool, expected: tuple[int, int], tmp_path: Path
) -> None:
    quarters().save(tmp_path / "a.png")
    image = await resize_one(
        tmp_path / "a.png",
        tmp_path,
        width=box[0],
        height=box[1],
        maintain_aspect_ratio=True,
        enlarge=enlarge,
    )
    assert image.size == expected


async def test_without_enlarging_no_side_grows(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png")
    image = await resize_one(tmp_path / "a.png", tmp_path, width=300, height=20, enlarge=False)
    assert image.size == (80, 20)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
async def test_the_result_is_upright_and_says_so(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera"
    source = tmp_path / f"a{suffix}"
    quarters((320, 160)).save(source, exif=exif, quality=95)
    seen = ImageOps.exif_transpose(opened(source))
    size = (seen.width // 2, seen.height // 2)
    image = await resize_one(source, tmp_path, width=size[0], height=size[1])
    assert image.size == size
    assert all(close(one, other, 12) for one, other in zip(corners(image), corners(seen)))
    assert image.getexif().get(0x0112, 1) == 1
    assert image.getexif()[0x010F] == "Camera"


async def test_camera_time_and_place_are_kept_and_the_thumbnail_is_not(tmp_path: Path) -> None:
    source = next(photo for photo in PHOTOS if photo.name == "lighthouse.jpg")
    with_thumbnail = tmp_path / "a.jpg"
    opened(source).save(with_thumbnail, exif=with_second_directory(opened(source).info["exif"]))
    assert b"A THUMBNAIL" in with_thumbnail.read_bytes()
    before = opened(with_thumbnail).getexif()
    assert before.get_ifd(0x8769)[0xA002] == 960

    image = await resize_one(with_thumbnail, tmp_path, width=100, height=150)
    exif = image.getexif()
    assert exif[0x0110] == "Sample camera"
    tags, was = exif.get_ifd(0x8769), before.get_ifd(0x8769)
    assert tags[0x9003] == "2023:10:14 17:02:08"
    assert tags[0x9011] == "+01:00"
    assert tags[0x829A] == was[0x829A]
    assert (tags[0xA002], tags[0xA003]) == (100, 150)
    assert dict(exif.get_ifd(0x8825)) == dict(before.get_ifd(0x8825))
    assert b"A THUMBNAIL" not in (tmp_path / "output" / "resized_a.jpg").read_bytes()
    assert image.info["dpi"] == (72, 72)


def with_second_directory(exif: bytes) -> bytes:
    """Return EXIF whose first directory is followed by one with a thumbnail."""
    body = exif[6:]
    assert body[:2] == b"II" or body[:2] == b"MM"
    order = "<" if body[:2] == b"II" else ">"
    start = struct.unpack(order + "I", body[4:8])[0]
    link = start + 2 + 12 * struct.unpack(order + "H", body[start : start + 2])[0]
    thumbnail = b"\xff\xd8A THUMBNAIL\xff\xd9"
    place = len(body) + 2 + 24 + 4
    directory = struct.pack(order + "H", 2)
    directory += struct.pack(order + "HHII", 0x0201, 4, 1, place)
    directory += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail)) + b"\0" * 4
    linked = body[:link] + struct.pack(order + "I", len(body)) + body[link + 4 :]
    return exif[:6] + linked + directory + thumbnail


async def test_broken_exif_does_not_stop_a_resize(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    image = await resize_one(tmp_path / "a.jpg", tmp_path, width=20, height=20)
    assert image.size == (20, 20)


async def test_a_colour_profile_is_kept(tmp_path: Path) -> None:
    photo = next(photo for photo in PHOTOS if photo.name == "dunes_display_p3.jpg")
    image = await resize_one(photo, tmp_path, width=96, height=64)
    assert image.info["icc_profile"] == opened(photo).info["icc_profile"]
    before = opened(photo).getpixel((480, 20))
    assert close(image.getpixel((48, 2)), before)  # the numbers mean what they meant


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
async def test_transparency_has_no_dark_fringes(suffix: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste((250, 200, 40, 255), (50, 50, 151, 151))
    image.save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    result = await resize_one(tmp_path / f"a{suffix}", tmp_path, width=33, height=33)
    assert result.mode == "RGBA"
    pixels = [result.getpixel((x, y)) for x in range(33) for y in range(33)]
    edges = [pixel for pixel in pixels if 40 < pixel[3] < 250]
    assert edges
    assert all(close(pixel[:3], (250, 200, 40), 24) for pixel in edges)


async def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    ramp = Image.new("I;16", (256, 16))
    ramp.putdata([20_000 + x for _ in range(16) for x in range(256)])
    ramp.save(tmp_path / "a.png")
    result = await resize_one(tmp_path / "a.png", tmp_path, width=128, height=8)
    assert result.mode == "I;16"
    # Finer than 8 bits: neighbours differ by 2 of 65535.
    middle = [result.getpixel((x, 4)) for x in range(20, 100)]
    assert all(1 <= after - before <= 3 for before, after in zip(middle, middle[1:]))


@pytest.mark.parametrize(
    ("name", "mode"), [("poster_cmyk.jpg", "CMYK"), ("morning_fog_grey.jpg", "L")]
)
async def test_print_colours_and_grey_stay_what_they_are(
    name: str, mode: str, tmp_path: Path
) -> None:
    photo = next(photo for photo in PHOTOS if photo.name == name)
    result = await resize_one(photo, tmp_path, width=64, height=96)
    assert result.mode == mode
    whole = opened(photo).resize((64, 96), Image.Resampling.BOX)
    for at in ((20, 36), (40, 36), (32, 50), (3, 3)):
        one, other = result.getpixel(at), whole.getpixel(at)
        assert close(one, other, 16) if mode == "CMYK" else abs(one - other) <= 16


async def test_a_palette_is_no_reason_for_jagged_edges(tmp_path: Path) -> None:
    two = Image.new("P", (90, 90), 0)
    two.putpalette([0, 0, 0, 255, 255, 255])
    two.paste(1, (0, 0, 46, 90))
    two.save(tmp_path / "a.png")
    result = await resize_one(tmp_path / "a.png", tmp_path, width=30, height=30)
    assert 0 < result.convert("RGB").getpixel((15, 10))[0] < 255


def save_animation(path: Path, **options: Any) -> list[tuple[int, ...]]:
    colours = [RED, GREEN, BLUE]
    frames = []
    for index, colour in enumerate(colours):
        frame = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
        frame.paste((*colour, 255), (index * 20, 0, index * 20 + 20, 40))
        # Without a hole, WebP's encoder stores opaque strips, and Pillow reads them as opaque.
        frame.paste((0, 0, 0, 0), (index * 20 + 2, 2, index * 20 + 6, 6))
        frames.append(frame)
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=[100, 200, 300], **options
    )
    return colours


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".gif", {"disposal": 2}), (".webp", {"lossless": True}), (".png", {"disposal": 1})],
)
async def test_an_animation_stays_one_with_every_frame_resized(
    suffix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    colours = save_animation(tmp_path / f"a{suffix}", loop=0, **options)
    (file,) = await resize([tmp_path / f"a{suffix}"], tmp_path, width=30, height=20)
    with Image.open(tmp_path / "output" / file["output"]) as result:
        assert (result.n_frames, result.size, result.info["loop"]) == (3, (30, 20), 0)
        for index, colour in enumerate(colours):
            result.seek(index)
            result.load()
            assert result.info["duration"] == (index + 1) * 100
            frame = result.convert("RGBA")
            for third in range(3):
                pixel = frame.getpixel((third * 10 + 5, 10))
                if third == index:
                    assert close(pixel[:3], colour, 16) and pixel[3] == 255
                else:
                    assert pixel[3] == 0, "a frame shows through where the next one is empty"


async def test_times_that_a_png_has_no_fraction_for_are_rounded(tmp_path: Path) -> None:
    slides = [Image.new("RGB", (9, 9), colour) for colour in (RED, GREEN, BLUE)]
    slides[0].save(
        tmp_path / "a.webp", save_all=True, append_images=slides[1:], duration=[70_123, 70_500, 33]
    )
    await resize([tmp_path / "a.webp"], tmp_path, outputs=["b.png"], width=5, height=5)
    times = []
    with Image.open(tmp_path / "output" / "b.png") as result:
        for index in range(3):
            result.seek(index)
            times.append(round(result.info["duration"]))
    # Before Pillow 13 all of them were stored in thousandths.
    assert times in ([70_000, 70_500, 33], [65_535, 65_535, 33])


async def test_a_gif_that_plays_once_still_does(tmp_path: Path) -> None:
    save_animation(tmp_path / "a.gif", disposal=2)
    result = await resize_one(tmp_path / "a.gif", tmp_path, width=30, height=20)
    assert "loop" not in result.info


@pytest.mark.parametrize(
    ("output", "expected"),
    [("b.webp", "WEBP"), ("b.PNG", "PNG"), ("b.thumb", "JPEG"), ("b", "JPEG"), ("b.jpeg", "JPEG")],
)
async def test_the_outputs_name_may_ask_for_another_format(
    output: str, expected: str, tmp_path: Path
) -> None:
    quarters().save(tmp_path / "a.jpg")
    result = await resize_one(tmp_path / "a.jpg", tmp_path, outputs=[output], width=9, height=9)
    assert result.format == expected


async def test_content_counts_not_the_name(tmp_path: Path) -> None:
    quarters().save(tmp_path / "really_a_png.jpg", "PNG")
    (file,) = await resize([tmp_path / "really_a_png.jpg"], tmp_path, width=9, height=9)
    assert file["format"] == "jpg"  # what is written is what its name says
    assert opened(tmp_path / "output" / file["output"]).format == "JPEG"


async def test_heic_is_read_and_written_where_its_extra_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    quarters((128, 64)).save(tmp_path / "a.heic")
    result = await resize_one(tmp_path / "a.heic", tmp_path, outputs=["b.jpg"], width=64, height=32)
    assert all(close(one, other, 24) for one, other in zip(corners(result), corners(quarters())))
    (file,) = await resize([tmp_path / "a.heic"], tmp_path, width=64, height=32)
    assert file["format"] == "heic"


# What a worker does that has not seen a HEIC picture yet; other tests of this process have.
NAMED_HEIC = """
import asyncio, sys
from cl_ml_tools.tasks.image_resize import ImageResize
source, target, without = sys.argv[1:]
if without:
    sys.modules[without] = None
params = {"input_paths": [source], "output_paths": [target], "width": 64, "height": 32}
result = asyncio.run(ImageResize().process("j", "image_resize", params))
print(result["task_output"]["files"][0]["format"])
"""


def resize_in_a_new_process(source: Path, target: Path, *, without: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", NAMED_HEIC, str(source), str(target), without],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_a_jpeg_with_the_name_of_a_heic_becomes_one(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    quarters((128, 64)).save(tmp_path / "IMG_1.HEIC", "JPEG")
    target = tmp_path / "resized_IMG_1.HEIC"
    assert resize_in_a_new_process(tmp_path / "IMG_1.HEIC", target) == "heic"
    assert target.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("suffix", "without", "says"),
    [
        (
            "heic",
            "pillow_heif",
            "b.heic is to be a HEIC picture; "
            "writing it needs: pip install 'cl-server-shared[heic]'",
        ),
        (
            "avif",
            "PIL.AvifImagePlugin",
            "b.avif cannot be written: Pillow is installed here without avif",
        ),
    ],
)
def test_what_cannot_be_written_here_is_final_and_says_what_is_missing(
    suffix: str, without: str, says: str, tmp_path: Path
) -> None:
    quarters().save(tmp_path / "a.jpg")
    message = resize_in_a_new_process(tmp_path / "a.jpg", tmp_path / f"b.{suffix}", without=without)
    assert message == f"cl_ml_tools.errors.FinalError: {says}"


async def test_progress_grows_over_several_files_and_results_name_no_folders(
    tmp_path: Path,
) -> None:
    seen: list[int] = []
    files = await resize(PHOTOS[:4], tmp_path, progress=seen.append, width=64, height=64)
    assert [file["input"] for file in files] == [photo.name for photo in PHOTOS[:4]]
    assert [file["output"] for file in files] == [f"resized_{photo.name}" for photo in PHOTOS[:4]]
    assert {tuple(file) for file in files} == {
        ("input", "output", "width", "height", "format", "size")
    }
    assert seen == sorted(seen)
    assert {25, 50, 75, 100} <= set(seen)


def png_of(width: int, height: int) -> bytes:
    """Return a valid PNG of one colour, 1 bit a pixel, whatever its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.jpg"
    if kind == "truncated":
        path.write_bytes(PHOTOS[3].read_bytes()[:20_000])
    elif kind != "missing":
        path.write_bytes(
            {
                "text": b"Dear diary, this is no picture.\n",
                "empty": b"",
                "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                "header": b"\xff\xd8\xff\xe0\0\x10JFIF" + b"x" * 100,
                "noise": bytes(range(128, 256)) * 20,
                "megapixels_200": png_of(20_000, 10_000),
                "megapixels_110": png_of(11_000, 10_000),
            }[kind]
        )
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "text.jpg is not a picture that can be read: by its content it is text/plain"),
        ("truncated", "truncated.jpg is damaged or cut off"),
        ("empty", "empty.jpg is empty"),
        ("missing", "missing.jpg is missing"),
        ("svg", "svg.jpg is not a picture"),
        ("noise", "noise.jpg is not a picture"),
        ("header", "header.jpg is damaged or cut off: its header makes no sense"),
        (
            "megapixels_200",
            "megapixels_200.jpg is too large: 20000 x 10000 are 200.0 megapixels; "
            "at most 100 are accepted",
        ),
        ("megapixels_110", "11000 x 10000 are 110.0 megapixels; at most 100 are accepted"),
    ],
)
async def test_bad_input_is_final_and_says_why(kind: str, says: str, tmp_path: Path) -> None:
    path = bad_file(kind, tmp_path)
    if kind == "megapixels_200":
        assert path.stat().st_size < 40_000
    with pytest.raises(FinalError) as raised:
        await resize([path], tmp_path, width=10, height=10)
    message = str(raised.value)
    assert says in message
    assert "\n" not in message and str(tmp_path) not in message
    assert list((tmp_path / "output").iterdir()) == []


async def test_a_picture_that_may_not_be_read_is_final_and_says_so(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png")
    await resize([tmp_path / "a.png"], tmp_path, width=10, height=10)  # everything is imported now
    (tmp_path / "a.png").chmod(0)
    me = os.geteuid()
    if me == 0:  # who may read everything
        os.seteuid(65_534)
    try:
        with pytest.raises(FinalError, match="cannot be read"):
            await ImageResize().process(
                "a-job",
                "image_resize",
                {"input_paths": [str(tmp_path / "a.png")], "width": 10, "height": 10},
            )
    finally:
        os.seteuid(me)


async def test_a_frame_that_is_larger_than_its_picture_is_refused(tmp_path: Path) -> None:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 20_000, 20_000, 0) + b"\x02\x02\x44\x01\0"
    screen = b"GIF89a" + struct.pack("<HHBBB", 5, 5, 0, 0, 0)
    (tmp_path / "a.gif").write_bytes(screen + frame + b";")
    with pytest.raises(FinalError, match="a frame of it has more than the 100 megapixels"):
        await resize([tmp_path / "a.gif"], tmp_path, width=1, height=1)


async def test_an_animation_without_its_colours_is_damaged(tmp_path: Path) -> None:
    frames = [Image.new("L", (20, 10), value) for value in (10, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    written = (tmp_path / "a.gif").read_bytes()
    colours = 3 * 2 ** ((written[10] & 7) + 1)
    (tmp_path / "a.gif").write_bytes(
        written[:10] + bytes([written[10] & 0x7F]) + written[11:13] + written[13 + colours :]
    )

    with pytest.raises(FinalError, match=r"a\.gif is damaged or cut off"):
        await resize([tmp_path / "a.gif"], tmp_path, width=10, height=5)


async def test_an_animation_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"
    gif += b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0" * 10_001 + b";"
    (tmp_path / "a.gif").write_bytes(gif)
    with pytest.raises(FinalError, match="10001 frames"):
        await resize([tmp_path / "a.gif"], tmp_path, width=1, height=1)
    save_animation(tmp_path / "b.gif")
    with pytest.raises(FinalError, match=r"3 frames of 9000 x 9000 are 243\.0 megapixels"):
        await resize([tmp_path / "b.gif"], tmp_path, width=9000, height=9000)


async def test_a_side_that_the_format_cannot_hold_is_named(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.webp")
    with pytest.raises(FinalError, match="no side of a webp can be longer than 16383"):
        await resize([tmp_path / "a.webp"], tmp_path, width=20_000, height=10)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"height": 10}, "width"),
        ({"width": 0, "height": 10}, "width"),
        ({"width": 10, "height": 65_536}, "height"),
        ({"width": "wide", "height": 10}, "width"),
        ({"width": 10, "height": 10, "maintain_aspect_ratio": "maybe"}, "maintain_aspect_ratio"),
        ({"width": 10, "height": 10, "widht": 3}, "widht"),
        ({"width": 10, "height": 10, "input_paths": []}, "input_paths"),
        ({"width": 20_000, "height": 20_000}, "400.0 megapixels"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParams, match=field):
        validate_params(ImageResize(), "image_resize", {"input_paths": ["input/a.jpg"], **params})


def test_outputs_are_named_after_the_inputs() -> None:
    long_name = "ä" * 118 + ".jpg"
    params = validate_params(
        ImageResize(),
        "image_resize",
        {
            "input_paths": ["input/a.jpg", "input/b/a.jpg", f"input/{long_name}", "input/noext"],
            "width": "320",
            "height": "240",
        },
    )
    assert params["width"] == 320
    assert params["output_paths"][:2] == ["output/resized_a.jpg", "output/resized_a (2).jpg"]
    assert params["output_paths"][3] == "output/resized_noext"
    shortened = params["output_paths"][2]
    assert shortened.startswith("output/resized_ää") and shortened.endswith("ä.jpg")
    assert len(shortened[7:].encode()) <= 240


def test_it_is_found_by_its_entry_point_and_documents_its_parameters() -> None:
    module = load_task("image_resize")
    assert isinstance(module, ImageResize)
    schema = module.params_model("image_resize").model_json_schema()
    assert set(schema["required"]) == {"input_paths", "width", "height"}
    assert all(field.get("description") for field in schema["properties"].values())


def test_pillow_is_loaded_late_and_its_absence_names_the_extra(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from cl_ml_tools.tasks.image_resize import ImageResize
assert "PIL" not in sys.modules
sys.modules["PIL"] = None
params = {"input_paths": ["/a.png"], "output_paths": ["/b.png"], "width": 1, "height": 1}
asyncio.run(ImageResize().process("j", "image_resize", params))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    last_line = done.stderr.strip().splitlines()[-1]
    assert "MissingExtra" in last_line
    assert "cl-server-shared[compute]" in last_line
