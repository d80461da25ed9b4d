"""What a file is by its content, and what is known about a picture without decoding it."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cl_ml_tools.errors import FinalError
from cl_ml_tools.media.digests import digest_file
from cl_ml_tools.media.images import read_image_info
from cl_ml_tools.media.sniffing import SNIFF_BYTES, sniff_media

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "photos").iterdir())


def ftyp(brand: bytes, *compatible: bytes) -> bytes:
    brands = b"".join(compatible)
    return struct.pack(">I4s4sI", 16 + len(brands), b"ftyp", brand, 0) + brands + b"\0\0\0\x08mdat"


HEADS: list[tuple[bytes, str, str, str]] = [
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg", "image", "jpg"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png", "image", "png"),
    (b"GIF87a\1\0\1\0", "image/gif", "image", "gif"),
    (b"GIF89a\1\0\1\0", "image/gif", "image", "gif"),
    (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp", "image", "webp"),
    (b"BM" + b"\0" * 12 + b"\x28\0\0\0", "image/bmp", "image", "bmp"),
    (b"II*\0\x08\0\0\0", "image/tiff", "image", "tiff"),
    (b"MM\0*\0\0\0\x08", "image/tiff", "image", "tiff"),
    (ftyp(b"heic", b"mif1", b"heic"), "image/heic", "image", "heic"),
    (ftyp(b"mif1", b"mif1", b"heic"), "image/heic", "image", "heic"),
    (ftyp(b"mif1", b"mif1", b"miaf"), "image/heif", "image", "heif"),
    (ftyp(b"avif", b"mif1", b"miaf"), "image/avif", "image", "avif"),
    (ftyp(b"mif1", b"avif", b"miaf"), "image/avif", "image", "avif"),
    (ftyp(b"isom", b"isom", b"mp41"), "video/mp4", "video", "mp4"),
    (ftyp(b"mp42", b"mp42"), "video/mp4", "video", "mp4"),
    (ftyp(b"qt  ", b"qt  "), "video/quicktime", "video", "mov"),
    (b"\0\0\0\x08wide\0\0\x10\0mdat", "video/quicktime", "video", "mov"),
    (ftyp(b"3gp4", b"isom"), "video/3gpp", "video", "3gp"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "video/webm", "video", "webm"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "video/x-matroska", "video", "mkv"),
    (b"RIFF\x10\0\0\0AVI LIST", "video/x-msvideo", "video", "avi"),
    (b"\0\0\x01\xba\x44", "video/mpeg", "video", "mpg"),
    ((b"\x47" + b"\0" * 187) * 3, "video/mp2t", "video", "ts"),
    (b"OggS" + b"\0" * 24 + b"\x80theora", "video/ogg", "video", "ogv"),
    (b"OggS" + b"\0" * 24 + b"\x01vorbis", "audio/ogg", "audio", "ogg"),
    (b"ID3\x04\0\0\0\0\0\0", "audio/mpeg", "audio", "mp3"),
    (b"\xff\xfb\x90\x44" + b"\0" * 20, "audio/mpeg", "audio", "mp3"),
    (ftyp(b"M4A ", b"isom"), "audio/mp4", "audio", "m4a"),
    (b"\xff\xf1\x50\x80\0\x1f\xfc", "audio/aac", "audio", "aac"),
    (b"RIFF\x10\0\0\0WAVEfmt ", "audio/wav", "audio", "wav"),
    (b"fLaC\0\0\0\x22", "audio/flac", "audio", "flac"),
    (b"FORM\0\0\0\x10AIFFCOMM", "audio/aiff", "audio", "aiff"),
    (b"Dear diary,\n\ttoday ...", "text/plain", "text", "txt"),
    ("Grüße aus Köln".encode(), "text/plain", "text", "txt"),
    ("\ufeffwith a mark".encode(), "text/plain", "text", "txt"),
    ("sixteen".encode("utf-16"), "text/plain", "text", "txt"),
    (b"BMW builds cars, and this is a text about them.", "text/plain", "text", "txt"),
    (b"\n<!-- a -->\n<!DOCTYPE html><html></html>", "text/html", "text", "html"),
    (b"<?xml version='1.0'?><!-- b --><svg xmlns='x'/>", "image/svg+xml", "other", "svg"),
    (b"%PDF-1.7\n", "application/pdf", "other", "pdf"),
    (b"PK\x03\x04\x14\0", "application/zip", "other", "zip"),
    (b"\x1f\x8b\x08\0", "application/gzip", "other", "gz"),
    (b"\x7fELF\x02\x01\x01\0", "application/octet-stream", "other", "bin"),
    (b"\xff\xd8", "application/octet-stream", "other", "bin"),
    (b"", "application/octet-stream", "other", "bin"),
]


@pytest.mark.parametrize(("head", "mime_type", "kind", "extension"), HEADS)
def test_content_tells_what_a_file_is(
    head: bytes, mime_type: str, kind: str, extension: str
) -> None:
    found = sniff_media(head)
    assert (found.mime_type, found.kind, found.extension) == (mime_type, kind, extension)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_every_sample_is_what_its_name_says(photo: Path) -> None:
    found = sniff_media(photo.read_bytes()[:SNIFF_BYTES])
    assert (found.kind, f".{found.extension}") == ("image", photo.suffix)


def test_a_text_that_is_cut_within_a_character_is_still_text() -> None:
    text = "ä€😀" * 1000
    for length in range(SNIFF_BYTES - 8, SNIFF_BYTES + 1):
        assert sniff_media(text.encode()[:length]).kind == "text"


def test_a_hostile_text_is_looked_at_quickly() -> None:
    started = time.monotonic()
    for part in (b"<!---->", b"<!-- ", b"<?xml>", b" \n", b"<!doctype svg>"):
        assert sniff_media((part * SNIFF_BYTES)[:SNIFF_BYTES]).kind == "text"
    assert time.monotonic() - started < 20


def test_sniffing_needs_no_pillow() -> None:
    program = (
        "import sys, cl_ml_tools.media.sniffing, cl_ml_tools.media.digests; "
        "assert 'PIL' not in sys.modules and 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_digests_are_those_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a.bin").write_bytes(content)
    found = digest_file(tmp_path / "a.bin")
    assert found.md5 == hashlib.md5(content).hexdigest()
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.size_bytes == len(content)


def photo_with(path: Path, tags: dict[int, Any], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x8769] = tags
    Image.new("RGB", (60, 40)).save(path, exif=exif.tobytes())
    return path


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({0x9003: "2024:06:21 21:47:12"}, datetime(2024, 6, 21, 21, 47, 12)),
        ({0x9003: "2024:06:21 21:47:12", 0x9011: "+02:00"}, datetime(2024, 6, 21, 19, 47, 12)),
        ({0x9003: "2024:06:21 21:47:12", 0x9011: "-05:30"}, datetime(2024, 6, 22, 3, 17, 12)),
        ({0x9003: "2024:06:21 21:47:12", 0x9011: "?"}, datetime(2024, 6, 21, 21, 47, 12)),
        ({0x9003: "2024:06:21 21:47:12", 0x9291: "25"}, datetime(2024, 6, 21, 21, 47, 12, 250_000)),
        ({0x9003: "1961:04:12 06:07:00"}, datetime(1961, 4, 12, 6, 7)),
        ({0x9003: "0000:00:00 00:00:00"}, None),
        ({0x9003: "    :  :     :  :  "}, None),
        ({}, None),
    ],
)
def test_when_a_photo_was_taken(tags: dict[int, Any], expected: Any, tmp_path: Path) -> None:
    found = read_image_info(photo_with(tmp_path / "a.jpg", tags)).create_date_ms
    if expected is None:
        assert found is None
    else:
        assert found == round(expected.replace(tzinfo=timezone.utc).timestamp() * 1000)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_of_the_picture_upright(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    info = read_image_info(photo_with(tmp_path / f"a{suffix}", {}, orientation))
    assert (info.width, info.height) == ((40, 60) if orientation >= 5 else (60, 40))


def test_what_is_known_about_the_samples() -> None:
    infos = {photo.name: read_image_info(photo) for photo in PHOTOS}
    assert {name for name, info in infos.items() if info.frames != 1} == {"pendulum.gif"}
    assert infos["pendulum.gif"].frames == 24
    assert (infos["lighthouse.jpg"].width, infos["lighthouse.jpg"].height) == (640, 960)
    assert infos["balloons.webp"].mime_type == "image/webp"
    assert sum(info.create_date_ms is not None for info in infos.values()) == 4


def test_a_picture_near_the_limit_raises_no_warning(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_900)).save(tmp_path / "a.png")
    assert read_image_info(tmp_path / "a.png").width == 10_000


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(FinalError, match=r"a\.jpg is missing"):
        read_image_info(tmp_path / "a.jpg")
