"""The task `image_conversion`, by the pixels of what it writes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from cl_ml_tools.errors import FinalError, InvalidParams
from cl_ml_tools.registry import load_task, validate_params
from cl_ml_tools.tasks.image_conversion import ImageConversion
from cl_ml_tools.tasks.image_resize import ImageResize

PHOTOS = {
    path.name: path for path in (Path(__file__).parent.parent / "examples" / "photos").iterdir()
}
FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
}


async def convert(source: Path, folder: Path, format_name: str, **params: Any) -> Image.Image:
    target = folder / "output" / f"converted_{source.stem}.{format_name}"
    target.parent.mkdir(exist_ok=True)
    result = await ImageConversion().process(
        "a-job",
        "image_conversion",
        {
            "input_paths": [str(source)],
            "output_paths": [str(target)],
            "format": format_name,
            **params,
        },
    )
    assert result["status"] == "ok"
    (file,) = result["task_output"]["files"]
    assert (file["output"], file["format"]) == (target.name, format_name)
    assert file["size"] == target.stat().st_size
    return opened(target)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def close(one: Any, other: Any, tolerance: int = 6) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one, other))


def rgb_at(image: Image.Image, at: tuple[int, int]) -> Any:
    return image.convert("RGB").getpixel(at)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", sorted(PHOTOS))
async def test_every_sample_becomes_every_format(
    name: str, format_name: str, tmp_path: Path
) -> None:
    image = await convert(PHOTOS[name], tmp_path, format_name)
    before = opened(PHOTOS[name])
    turned = before.getexif().get(0x0112, 1) >= 5
    assert image.format == FORMATS[format_name]
    assert image.size == (before.size[::-1] if turned else before.size)


@pytest.mark.parametrize("format_name", FORMATS)
async def test_a_turned_photo_comes_out_upright(format_name: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (80, 40), (20, 40, 200))
    stored.paste((220, 30, 30), (0, 0, 40, 40))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = await convert(tmp_path / "a.jpg", tmp_path, format_name)
    assert image.size == (40, 80)
    assert close(rgb_at(image, (20, 10)), (220, 30, 30))
    assert close(rgb_at(image, (20, 70)), (20, 40, 200))
    assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("format_name", ["jpg", "bmp"])
async def test_transparency_is_laid_on_white_where_there_is_none(
    format_name: str, tmp_path: Path
) -> None:
    drawn = Image.new("RGBA", (60, 20), (0, 0, 0, 0))
    drawn.paste((200, 0, 0, 128), (20, 0, 40, 20))
    drawn.paste((0, 0, 200, 255), (40, 0, 60, 20))
    drawn.save(tmp_path / "a.png")
    image = await convert(tmp_path / "a.png", tmp_path, format_name, quality=100)
    assert image.mode == "RGB"
    assert close(image.getpixel((10, 10)), (255, 255, 255))
    assert close(image.getpixel((30, 10)), (227, 127, 127))
    assert close(image.getpixel((50, 10)), (0, 0, 200))


@pytest.mark.parametrize("format_name", ["png", "webp", "tiff", "gif"])
async def test_transparency_is_kept_where_it_can_be(format_name: str, tmp_path: Path) -> None:
    image = (await convert(PHOTOS["kite_transparent.png"], tmp_path, format_name)).convert("RGBA")
    assert image.getpixel((5, 5))[3] == 0
    red, green, blue, alpha = image.getpixel((350, 180))
    assert close((red, green, blue), (240, 90, 60), 16)
    assert alpha == (255 if format_name == "gif" else 235)


@pytest.mark.parametrize("mode", ["L", "P"])
async def test_a_transparent_colour_counts_as_transparency(mode: str, tmp_path: Path) -> None:
    drawn = Image.new(mode, (20, 20), 0)
    if mode == "P":
        drawn.putpalette([9, 9, 9, 0, 200, 0])
    drawn.paste(1 if mode == "P" else 100, (10, 0, 20, 20))
    drawn.save(tmp_path / "a.png", transparency=0)
    image = await convert(tmp_path / "a.png", tmp_path, "jpg")
    assert rgb_at(image, (4, 10))[0] > 245


@pytest.mark.parametrize("format_name", ["jpg", "webp", "gif", "bmp"])
async def test_sixteen_bits_are_scaled_to_eight(format_name: str, tmp_path: Path) -> None:
    ramp = Image.new("I;16", (256, 32))
    ramp.putdata([x * 257 for _ in range(32) for x in range(256)])
    ramp.save(tmp_path / "a.png")
    image = await convert(tmp_path / "a.png", tmp_path, format_name, quality=95)
    for x in (4, 64, 128, 192, 250):
        assert close(rgb_at(image, (x, 16)), (x, x, x))


@pytest.mark.parametrize("format_name", ["png", "tiff"])
async def test_sixteen_bits_are_kept_where_they_can_be(format_name: str, tmp_path: Path) -> None:
    image = await convert(PHOTOS["moon_16bit.png"], tmp_path, format_name)
    assert image.mode == "I;16"
    assert image.tobytes() == opened(PHOTOS["moon_16bit.png"]).tobytes()


async def test_big_endian_sixteen_bits_are_read(tmp_path: Path) -> None:
    ramp = Image.new("I;16B", (64, 4))
    ramp.frombytes(b"".join(struct.pack(">H", x * 1000) for _ in range(4) for x in range(64)))
    ramp.save(tmp_path / "a.tiff")
    image = await convert(tmp_path / "a.tiff", tmp_path, "png")
    assert image.mode == "I;16"
    assert [image.getpixel((x, 0)) for x in (0, 1, 63)] == [0, 1000, 63_000]


@pytest.mark.parametrize("mode", ["F", "I"])
async def test_more_than_sixteen_bits_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4), 70_000).save(tmp_path / "a.tiff")
    with pytest.raises(
        FinalError, match=r"a\.tiff is of a kind .* samples of 32 bits; .* up to 16 bits"
    ):
        await convert(tmp_path / "a.tiff", tmp_path, "jpg")


@pytest.mark.parametrize("format_name", ["jpg", "png", "webp", "tiff"])
async def test_a_profile_is_kept_with_the_numbers_that_it_explains(
    format_name: str, tmp_path: Path
) -> None:
    photo = PHOTOS["dunes_display_p3.jpg"]
    image = await convert(photo, tmp_path, format_name, quality=95)
    assert image.info["icc_profile"] == opened(photo).info["icc_profile"]
    assert close(rgb_at(image, (100, 40)), rgb_at(opened(photo), (100, 40)))


@pytest.mark.parametrize("format_name", ["gif", "bmp"])
async def test_colours_go_to_srgb_where_no_profile_can_be_kept(
    format_name: str, tmp_path: Path
) -> None:
    photo = PHOTOS["dunes_display_p3.jpg"]
    image = await convert(photo, tmp_path, format_name)
    assert "icc_profile" not in image.info
    at = (200, 600)
    was, now = rgb_at(opened(photo), at), rgb_at(image, at)
    assert now[0] > was[0] + 8, "an orange in the wide gamut needs more red in the narrow one"
    assert now[2] < was[2] - 8


@pytest.mark.parametrize("format_name", ["jpg", "png", "webp", "gif", "bmp"])
async def test_print_colours_become_srgb_by_their_profile(format_name: str, tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    cyan.save(tmp_path / "a.jpg", icc_profile=press_profile(), quality=95)
    image = await convert(tmp_path / "a.jpg", tmp_path, format_name, quality=95)
    assert "icc_profile" not in image.info
    # Lab 55, -37, -50, cyan on coated paper, is known as #009EE0 on screens; arithmetic on the
    # plates would say (0, 255, 255).
    assert close(rgb_at(image, (16, 16)), (0x00, 0x9E, 0xE0), 12)


async def test_print_colours_without_a_profile_are_mixed_plainly(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.tiff")
    image = await convert(tmp_path / "a.tiff", tmp_path, "jpg", quality=95)
    assert close(rgb_at(image, (16, 16)), (0, 255, 255))


async def test_print_colours_stay_in_a_tiff(tmp_path: Path) -> None:
    image = await convert(PHOTOS["poster_cmyk.jpg"], tmp_path, "tiff")
    assert image.mode == "CMYK"
    assert image.info["dpi"] == (300, 300)


def press_profile() -> bytes:
    """Return an ICC profile of a printing press: 16 corners from CMYK to Lab (lut8Type)."""
    inks = {(1, 0, 0): (55, -37, -50), (0, 1, 0): (48, 74, -3), (0, 0, 1): (89, -5, 93)}
    grid = b""
    for corner in range(16):
        c, m, y, k = corner >> 3 & 1, corner >> 2 & 1, corner >> 1 & 1, corner & 1
        used = [lab for ink, lab in inks.items() if any(a and b for a, b in zip(ink, (c, m, y)))]
        lightness = 100.0
        for lab in used:
            lightness *= lab[0] / 100
        tint = [sum(lab[axis] for lab in used) * (0.3 if len(used) > 1 else 1) for axis in (1, 2)]
        if k:
            lightness, tint = lightness * 0.15, [0.0, 0.0]
        grid += bytes(
            [round(lightness * 2.55), *(min(255, max(0, round(value) + 128)) for value in tint)]
        )
    identity = b"".join(
        struct.pack(">i", 65_536 * (row == column)) for row in range(3) for column in range(3)
    )
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061)
    tags, offset = [(b"A2B0", table), (b"wtpt", white)], 128 + 4 + 24
    directory, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        directory += name + struct.pack(">II", offset + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02100000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28
    header += struct.pack(">3i", 63_190, 65_536, 54_061)
    return header.ljust(128, b"\0") + directory + body


async def test_a_broken_profile_is_no_reason_to_fail(tmp_path: Path) -> None:
    broken = b"\0" * 16 + b"RGB " + b"\0" * 200
    Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / "a.png", icc_profile=broken)
    image = await convert(tmp_path / "a.png", tmp_path, "bmp")
    assert close(image.getpixel((4, 4)), (10, 200, 30))


async def test_a_profile_for_other_pixels_is_dropped(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (8, 8), 90).save(tmp_path / "a.jpg", icc_profile=srgb)
    image = await convert(tmp_path / "a.jpg", tmp_path, "png")
    assert image.mode == "L"
    assert "icc_profile" not in image.info


@pytest.mark.parametrize("format_name", ["png", "jpg", "webp", "tiff"])
async def test_camera_time_and_place_are_kept(format_name: str, tmp_path: Path) -> None:
    image = await convert(PHOTOS["forest_path.jpg"], tmp_path, format_name)
    exif = image.getexif()
    assert exif[0x0110] == "Sample camera"
    assert exif.get_ifd(0x8769)[0x9003] == "2025:01:26 09:30:55"
    assert exif.get_ifd(0x8769)[0xA002] == 640
    assert exif.get_ifd(0x8825)[2] == (44.0, 16.0, 12.0)


@pytest.mark.parametrize("format_name", ["webp", "gif"])
async def test_an_animation_stays_one(format_name: str, tmp_path: Path) -> None:
    await convert(PHOTOS["pendulum.gif"], tmp_path, format_name)
    with Image.open(tmp_path / "output" / f"converted_pendulum.{format_name}") as image:
        with Image.open(PHOTOS["pendulum.gif"]) as original:
            assert (image.n_frames, image.info["loop"]) == (original.n_frames, 0)
            for index in (0, 6, 18):
                image.seek(index)
                original.seek(index)
                for at in ((104, 168), (216, 168), (160, 24)):
                    assert close(rgb_at(image, at), rgb_at(original, at), 40)
                assert image.info["duration"] == 50


async def test_what_is_around_opaque_rectangles_stays_transparent_in_a_webp(
    tmp_path: Path,
) -> None:
    frames = [Image.new("RGBA", (60, 40), (0, 0, 0, 0)) for _ in range(2)]
    frames[0].paste("red", (10, 10, 40, 30))
    frames[1].paste("blue", (10, 10, 40, 30))
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=70)
    await convert(tmp_path / "a.png", tmp_path, "webp")
    with Image.open(tmp_path / "output" / "converted_a.webp") as image:
        for index in range(2):
            image.seek(index)
            frame = image.convert("RGBA")
            assert [frame.getpixel(at)[3] for at in ((2, 2), (25, 20), (50, 35))] == [0, 255, 0]


async def test_an_opaque_animation_is_not_called_transparent(tmp_path: Path) -> None:
    save_slides(tmp_path / "a.png", [100, 100], "red", "blue")
    image = await convert(tmp_path / "a.png", tmp_path, "webp")
    assert (image.n_frames, image.mode) == (2, "RGB")


def save_slides(path: Path, durations_ms: list[int], *colours: str, loop: int = 0) -> None:
    slides = [Image.new("RGB", (20, 20), colour) for colour in colours]
    slides[0].save(path, save_all=True, append_images=slides[1:], duration=durations_ms, loop=loop)


def times_of(image: Image.Image) -> list[int]:
    times = []
    for index in range(image.n_frames):
        image.seek(index)
        image.load()
        times.append(image.info["duration"])
    return times


async def test_a_frame_that_is_shown_too_long_for_a_gif_is_shown_as_long_as_can_be(
    tmp_path: Path,
) -> None:
    save_slides(tmp_path / "a.webp", [1_000_000, 200], "red", "blue")
    await convert(tmp_path / "a.webp", tmp_path, "gif")
    with Image.open(tmp_path / "output" / "converted_a.gif") as image:
        assert times_of(image) == [655_350, 200]


async def test_equal_slides_that_become_one_are_shown_as_long_as_can_be(tmp_path: Path) -> None:
    colours = ("red", "red", "red", "blue", "red")
    save_slides(tmp_path / "a.webp", [400_000] * 5, *colours)
    await convert(tmp_path / "a.webp", tmp_path, "gif")
    with Image.open(tmp_path / "output" / "converted_a.gif") as image:
        assert times_of(image) == [655_350, 400_000, 400_000]


@pytest.mark.parametrize("format_name", ["gif", "webp"])
async def test_more_repeats_than_can_be_stored_are_as_many_as_can_be(
    format_name: str, tmp_path: Path
) -> None:
    save_slides(tmp_path / "a.png", [100, 100], "red", "blue", loop=100_000)
    image = await convert(tmp_path / "a.png", tmp_path, format_name)
    assert image.info["loop"] == 65_535


async def test_a_png_is_repeated_as_often_as_a_png_was(tmp_path: Path) -> None:
    save_slides(tmp_path / "a.png", [100, 100], "red", "blue", loop=100_000)
    params = {"input_paths": [str(tmp_path / "a.png")], "output_paths": [str(tmp_path / "b.png")]}
    await ImageResize().process("a-job", "image_resize", {**params, "width": 9, "height": 9})
    assert opened(tmp_path / "b.png").info["loop"] == 100_000


@pytest.mark.parametrize("format_name", ["png", "jpg", "bmp", "tiff"])
async def test_other_formats_take_an_animations_first_frame(
    format_name: str, tmp_path: Path
) -> None:
    image = await convert(PHOTOS["pendulum.gif"], tmp_path, format_name)
    assert getattr(image, "n_frames", 1) == 1
    with Image.open(PHOTOS["pendulum.gif"]) as original:
        assert close(rgb_at(image, (104, 168)), rgb_at(original, (104, 168)), 16)


async def test_a_gif_of_a_photo_has_no_bands(tmp_path: Path) -> None:
    image = await convert(PHOTOS["harbour_at_dusk.jpg"], tmp_path, "gif")
    sky, was = image.convert("RGB"), opened(PHOTOS["harbour_at_dusk.jpg"])
    differences = [
        abs(sum(sky.getpixel((x, y))[band] for x in range(40)) / 40 - was.getpixel((20, y))[band])
        for y in range(20, 380, 15)
        for band in range(3)
    ]
    assert max(differences) < 4, "on average over a few pixels, dots give the colour that was"


async def test_quality_trades_size_for_detail(tmp_path: Path) -> None:
    sizes = {}
    for format_name in ("jpg", "webp"):
        for quality in (20, 90):
            await convert(PHOTOS["forest_path.jpg"], tmp_path, format_name, quality=quality)
            written = tmp_path / "output" / f"converted_forest_path.{format_name}"
            sizes[format_name, quality] = written.stat().st_size
    assert sizes["jpg", 20] * 2 < sizes["jpg", 90]
    assert sizes["webp", 20] * 2 < sizes["webp", 90]


async def test_a_damaged_picture_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(PHOTOS["balloons.webp"].read_bytes()[:9_000])
    with pytest.raises(FinalError, match=r"a\.webp is damaged or cut off"):
        await convert(tmp_path / "a.webp", tmp_path, "png")
    assert list((tmp_path / "output").iterdir()) == []


def tiff_of(bits: int, sample_format: int, samples: int = 1, *more: tuple[int, int]) -> bytes:
    """A TIFF of 4 x 4 pixels, all zero; `more` tags with one 16-bit value each."""
    pixels = b"\0" * (4 * 4 * samples * bits // 8)
    tags = [
        (256, 3, 1, 4),  # width
        (257, 3, 1, 4),  # height
        (258, 3, 1, bits),
        (259, 3, 1, 1),  # not compressed
        (262, 3, 1, 1 if samples == 1 else 2),  # grey or RGB
        (273, 4, 1, 8),  # where the pixels are
        (277, 3, 1, samples),
        (278, 3, 1, 4),  # rows in this strip
        (279, 4, 1, len(pixels)),
        (339, 3, 1, sample_format),
    ]
    tags = [tag for tag in tags if tag[0] not in dict(more)] + [(tag, 3, 1, v) for tag, v in more]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    start = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return start + pixels + struct.pack("<H", len(tags)) + directory + b"\0" * 4


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ((32, 3), "float samples of 32 bits"),
        ((64, 3), "float samples of 64 bits"),
        ((16, 3), "float samples of 16 bits"),
        ((32, 3, 3), "float samples of 32 bits"),
        ((64, 6), "complex samples of 64 bits"),
        ((32, 1, 3), "samples of 32 bits"),
        ((16, 1, 1, (262, 0)), "samples of 16 bits, white at 0"),
        ((16, 1, 3, (284, 2)), "samples of 16 bits, each colour by itself"),
    ],
)
async def test_a_tiff_that_is_not_read_rightly_is_not_supported_and_not_called_damaged(
    tmp_path: Path, kind: Any, said: str
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of(*kind))
    with pytest.raises(FinalError) as raised:
        await convert(tmp_path / "a.tif", tmp_path, "png")
    assert str(raised.value) == (
        f"a.tif is of a kind that is not supported: it is a TIFF with {said}; "
        "supported are whole numbers of up to 16 bits, black at 0, those of a pixel together"
    )


async def test_a_tiff_without_a_directory_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of(32, 3)[:40])
    with pytest.raises(FinalError, match=r"a\.tif is damaged or cut off"):
        await convert(tmp_path / "a.tif", tmp_path, "png")


async def test_an_older_result_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "output" / "converted_kite_transparent.png"
    target.parent.mkdir()
    target.write_bytes(b"older" * 100_000)
    image = await convert(PHOTOS["kite_transparent.png"], tmp_path, "png")
    assert image.size == (640, 640)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "format"),
        ({"format": "heic"}, "format"),
        ({"format": "jpg", "quality": 0}, "quality"),
        ({"format": "jpg", "quality": 101}, "quality"),
        ({"format": "jpg", "output_paths": ["output/a.png"]}, "does not fit the format jpg"),
        ({"format": "jpg", "input_paths": []}, "input_paths"),
        ({"format": "jpg", "qualtiy": 3}, "qualtiy"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParams, match=field):
        validate_params(
            ImageConversion(), "image_conversion", {"input_paths": ["input/a.png"], **params}
        )


def test_outputs_are_named_after_the_inputs_and_the_format() -> None:
    params = validate_params(
        ImageConversion(),
        "image_conversion",
        {"input_paths": ["input/a.b.png", "input/a.b.gif"], "format": "tiff"},
    )
    assert params["quality"] == 85
    assert params["output_paths"] == ["output/converted_a.b.tiff", "output/converted_a.b (2).tiff"]


def test_it_is_found_by_its_entry_point_and_documents_its_parameters() -> None:
    module = load_task("image_conversion")
    assert isinstance(module, ImageConversion)
    schema = module.params_model("image_conversion").model_json_schema()
    assert schema["properties"]["format"]["enum"] == list(FORMATS)
    assert all(field.get("description") for field in schema["properties"].values())
