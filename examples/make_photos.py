"""Make the sample pictures in `examples/photos`: one of each kind that cameras and programs write.

    python examples/make_photos.py [DIRECTORY]

The same Pillow makes the same bytes each time. Everything is drawn here; nobody's rights are touched.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import scenes
from PIL import Image

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825

# How the pixels of an upright picture are stored under each orientation.
STORED = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def main() -> None:
    """Make all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    save_photo(
        scenes.harbour(),
        folder / "harbour_at_dusk.jpg",
        1,
        "2024:06:21 21:47:12",
        "+02:00",
        (53.54, 9.97),
    )
    save_photo(
        scenes.lake(),
        folder / "mountain_lake.jpg",
        3,
        "2024:08:03 06:15:40",
        "+02:00",
        (47.58, 12.98),
    )
    save_photo(
        scenes.lighthouse(),
        folder / "lighthouse.jpg",
        6,
        "2023:10:14 17:02:08",
        "+01:00",
        (51.95, -5.16),
    )
    save_photo(
        scenes.forest(),
        folder / "forest_path.jpg",
        8,
        "2025:01:26 09:30:55",
        "-05:00",
        (44.27, -71.30),
    )
    scenes.dunes().save(
        folder / "dunes_display_p3.jpg", quality=88, subsampling=0, icc_profile=display_p3_profile()
    )
    scenes.fog().convert("L").save(folder / "morning_fog_grey.jpg", quality=86)
    scenes.poster().save(folder / "poster_cmyk.jpg", quality=88, dpi=(300, 300))
    scenes.kite().save(folder / "kite_transparent.png", optimize=True)
    scenes.moon().save(folder / "moon_16bit.png")
    scenes.diagram().save(folder / "bar_chart_palette.png", optimize=True)
    scenes.balloons().save(folder / "balloons.webp", quality=82, method=6)
    save_animation(scenes.pendulum(), folder / "pendulum.gif")


def save_photo(
    image: Image.Image,
    path: Path,
    orientation: int,
    taken: str,
    offset: str,
    place: tuple[float, float],
) -> None:
    """Save as a camera does: turned as it was held, with EXIF that says so."""
    turn = STORED[orientation]
    stored = image if turn is None else image.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F], exif[0x0110] = "CL Server", "Sample camera"
    exif[0x0132] = taken
    exif[0x8298] = "Public domain (CC0)"
    exif[EXIF_IFD] = {
        0x829A: 1 / 250,
        0x829D: 5.6,
        0x8827: 200,
        0x9003: taken,
        0x9011: offset,
        0x920A: 35.0,
        0xA002: stored.width,
        0xA003: stored.height,
    }
    latitude, longitude = place
    exif[GPS_IFD] = {
        1: "N" if latitude >= 0 else "S",
        2: degrees(latitude),
        3: "E" if longitude >= 0 else "W",
        4: degrees(longitude),
    }
    stored.save(path, quality=86, exif=exif, dpi=(72, 72))


def save_animation(frames: list[Image.Image], path: Path) -> None:
    """Save frames that share a palette."""
    palette = frames[6].quantize(64)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    indexed[0].save(
        path, save_all=True, append_images=indexed[1:], duration=50, loop=0, optimize=False
    )


def degrees(value: float) -> tuple[float, float, float]:
    """Return degrees, minutes and seconds, as EXIF has them."""
    value = abs(value)
    minutes = (value - int(value)) * 60
    return float(int(value)), float(int(minutes)), round((minutes - int(minutes)) * 60, 2)


def display_p3_profile() -> bytes:
    """Return an ICC profile of the Display P3 colour space (matrix and curve, ICC.1:2001)."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(fixed(value) for value in values)

    def text(tag: bytes, value: str) -> bytes:
        if tag == b"desc":
            return b"desc\0\0\0\0" + struct.pack(">I", len(value) + 1) + value.encode() + b"\0" * 79
        return b"text\0\0\0\0" + value.encode() + b"\0"

    curve = b"".join(
        struct.pack(
            ">H", round(65535 * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4))
        )
        for c in (step / 255 for step in range(256))
    )
    tones = b"curv\0\0\0\0" + struct.pack(">I", 256) + curve
    tags = [
        (b"desc", text(b"desc", "Display P3")),
        (b"cprt", text(b"text", "Public domain (CC0)")),
        (b"wtpt", xyz(0.9642, 1.0, 0.8249)),
        (b"rXYZ", xyz(0.51512, 0.24120, -0.00105)),
        (b"gXYZ", xyz(0.29198, 0.69225, 0.04189)),
        (b"bXYZ", xyz(0.15710, 0.06657, 0.78407)),
        (b"rTRC", tones),
        (b"gTRC", tones),
        (b"bTRC", tones),
    ]
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    placed: dict[bytes, int] = {}
    for name, data in tags:
        if data not in placed:
            placed[data] = offset + len(body)
            body += data + b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", placed[data], len(data))
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(body), b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28
    header += fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


if __name__ == "__main__":
    main()
