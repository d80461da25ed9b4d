"""Files of the client: the note of `up`, the sign-in, downloads and where results go."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cl_server.client.destinations import Destinations, expected_outputs
from cl_server.client.downloads import place_file, write_download
from cl_server.client.errors import ClientError, DamagedDownload, FileInTheWay
from cl_server.client.local_server import (
    LocalServer,
    read_local_server,
    remove_local_server,
    write_local_server,
)
from cl_server.client.tokens import SignIn, read_sign_in, remove_sign_in, write_sign_in
from cl_server.client.upload import FileUpload

SERVER = LocalServer(
    auth_url="http://127.0.0.1:8000",
    store_url="http://127.0.0.1:8001",
    compute_url="http://127.0.0.1:8001/compute",
    mqtt_url="mqtt://127.0.0.1:1883",
    server_dir="/data",
    pid=os.getpid(),
    token="t",
)
SIGN_IN = SignIn("http://a", "http://s", "me", "t", issued_at=1000, expires_at=3000)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_note_of_a_running_server_is_read_by_its_owner_only(tmp_path: Path) -> None:
    path = write_local_server(tmp_path / "new", SERVER)

    assert read_local_server(tmp_path / "new") == SERVER
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_the_note_of_a_server_that_was_killed_is_not_believed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    write_local_server(tmp_path, replace(SERVER, pid=ended.pid))

    assert read_local_server(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x"}'])
def test_a_note_that_is_cut_off_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "local-server.json").write_text(text)

    assert read_local_server(tmp_path) is None
    assert not remove_local_server(tmp_path, pid=1)


def test_a_server_removes_its_own_note_and_no_other(tmp_path: Path) -> None:
    path = write_local_server(tmp_path, SERVER)

    assert not remove_local_server(tmp_path, pid=SERVER.pid + 1)
    assert path.exists()
    assert remove_local_server(tmp_path, pid=SERVER.pid)
    assert not path.exists()
    assert not remove_local_server(tmp_path, pid=SERVER.pid)


def test_a_sign_in_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    assert read_sign_in(tmp_path) is None

    path = write_sign_in(tmp_path, SIGN_IN)

    assert read_sign_in(tmp_path) == SIGN_IN
    assert mode_of(path) == 0o600
    assert remove_sign_in(tmp_path)
    assert not remove_sign_in(tmp_path)


def test_a_token_is_due_past_half_of_its_life() -> None:
    assert not SIGN_IN.is_due(1999)
    assert SIGN_IN.is_due(2000)
    assert not SIGN_IN.is_expired(2999)
    assert SIGN_IN.is_expired(3000)


def test_a_download_is_checked_against_size_and_digest(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()

    write_download(
        [b"he", b"llo"], tmp_path / "a", expected_size_bytes=5, expected_sha256=digest.upper()
    )

    assert (tmp_path / "a").read_bytes() == b"hello"


@pytest.mark.parametrize(("size", "sha256"), [(6, None), (5, "0" * 64)])
def test_a_damaged_download_leaves_no_file(size: int, sha256: str | None, tmp_path: Path) -> None:
    with pytest.raises(DamagedDownload, match="try again"):
        write_download([b"hello"], tmp_path / "a", expected_size_bytes=size, expected_sha256=sha256)

    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")

    with pytest.raises(FileInTheWay, match="--force"):
        place_file(tmp_path / "new", tmp_path / "old", overwrite=False)

    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_placed_in_a_directory_that_is_made(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")

    place_file(tmp_path / "new", tmp_path / "sub" / "a", overwrite=overwrite)

    assert (tmp_path / "sub" / "a").read_text() == "new"
    assert not (tmp_path / "new").exists()


def test_two_results_of_one_name_get_two_files(tmp_path: Path) -> None:
    destinations = Destinations(tmp_path, overwrite=False)

    names = [destinations.reserve(path).name for path in ("output/a.jpg",) * 2 + ("output/A.jpg",)]

    assert names == ["a.jpg", "a (2).jpg", "A (3).jpg"]


def test_a_file_that_was_there_is_refused_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()

    with pytest.raises(FileInTheWay):
        Destinations(tmp_path, overwrite=False).reserve("output/a.jpg")
    assert Destinations(tmp_path, overwrite=True).reserve("output/a.jpg") == tmp_path / "a.jpg"


@pytest.mark.parametrize("path", ["../a", "/etc/a", "output/../../a", "output\\..\\..\\a"])
def test_a_server_cannot_write_elsewhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="the server names a result"):
        Destinations(tmp_path, overwrite=True).reserve(path)


def test_names_of_results_are_known_where_the_task_is_installed() -> None:
    size = {"width": ["3"], "height": ["4"]}

    assert expected_outputs("image_resize", [Path("x/a.jpg")], size) == ["output/resized_a.jpg"]
    assert expected_outputs("image_resize", [Path("x/a.jpg"), Path("y/a.jpg")], size) == [
        "output/resized_a.jpg",
        "output/resized_a (2).jpg",
    ]


def test_names_of_results_are_left_to_the_server_otherwise() -> None:
    assert expected_outputs("no_such_task", [Path("a.jpg")], {}) == []
    assert expected_outputs("image_resize", [Path("a.jpg")], {"width": ["much"]}) == []


def test_an_upload_reads_in_pieces_and_again_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    upload = FileUpload(tmp_path / "a")

    assert upload.seek(0, os.SEEK_END) == 5
    assert [upload.read(3), upload.read(3), upload.read(3)] == [b"hel", b"lo", b""]
    upload.seek(0)
    assert upload.read() == b"hello"
    upload.close()
