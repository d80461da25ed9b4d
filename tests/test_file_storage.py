"""Files of jobs on disk: the service's storage, and the toolkit's for tests."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any, Union

import pytest

from cl_ml_tools import FileStorage
from cl_ml_tools.testing import ScratchStorage
from cl_ml_tools.workspace import check_relative_path
from cl_server_shared import FileStorageService

Storage = Union[FileStorageService, ScratchStorage]

UNSAFE_NAMES = [
    "../a.jpg",
    "a/../../b.jpg",
    "..\\..\\a.jpg",
    "/etc/passwd",
    "\\windows",
    "C:\\a.jpg",
    "",
    ".",
    "..",
    "a\0.jpg",
    "CON",
    "nul.jpg",
    "x" * 241,
    "x" * 300,
    "/".join(["x" * 200] * 30),
]


class Upload:
    """What a client sends, in pieces of any size."""

    def __init__(self, content: bytes, piece_bytes: int = 1000) -> None:
        self._source = io.BytesIO(content)
        self._piece_bytes = piece_bytes
        self.largest_read = 0

    async def read(self, size: int = -1, /) -> bytes:
        self.largest_read = max(self.largest_read, size)
        return self._source.read(self._piece_bytes if size < 0 else min(size, self._piece_bytes))


class Whole(Upload):
    """An upload whose `read` gives all that is asked for."""

    async def read(self, size: int = -1, /) -> bytes:
        return self._source.read(size)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "compute"


@pytest.fixture(params=[FileStorageService, ScratchStorage])
def storage(request: pytest.FixtureRequest, base: Path) -> Storage:
    made: Storage = request.param(base)
    return made


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_it_follows_the_protocol(storage: Storage) -> None:
    assert isinstance(storage, FileStorage)


def test_a_workspace_has_an_input_and_an_output(storage: Storage, base: Path) -> None:
    assert storage.create_job_directory("j1") == base / "jobs" / "j1"
    assert storage.create_job_directory("j1") == base / "jobs" / "j1"  # again is no error

    assert everything_below(base) == ["jobs", "jobs/j1", "jobs/j1/input", "jobs/j1/output"]


def test_paths_are_absolute_and_make_nothing(
    storage: Storage, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    relative = type(storage)(Path("compute"))

    for one in (storage, relative):
        assert one.get_job_path("j") == base / "jobs" / "j"
        assert one.get_input_path("j") == base / "jobs" / "j" / "input"
        assert one.get_output_path("j") == base / "jobs" / "j" / "output"
        assert one.get_absolute_path("a/b.jpg") == base / "a" / "b.jpg"
    assert not base.exists()


async def test_an_upload_is_saved_and_measured(storage: Storage, base: Path) -> None:
    content = os.urandom(300_000)
    upload = Upload(content) if isinstance(storage, FileStorageService) else Whole(content)

    saved = await storage.save_input_file("j", "a.jpg", upload)

    path = base / "jobs" / "j" / "input" / "a.jpg"
    assert saved == {
        "filename": "a.jpg",
        "path": str(path),
        "size": len(content),
        "hash": hashlib.sha256(content).hexdigest(),
    }
    assert path.read_bytes() == content
    assert everything_below(path.parent) == ["a.jpg"]


async def test_an_empty_upload_is_an_empty_file(storage: Storage) -> None:
    saved = await storage.save_input_file("j", "a.jpg", Whole(b""))

    assert (saved["size"], Path(saved["path"]).read_bytes()) == (0, b"")


@pytest.mark.parametrize("name", ["subdir/a.jpg", "subdir\\a.jpg", "./subdir//a.jpg"])
async def test_a_name_with_a_folder_stays_inside(storage: Storage, base: Path, name: str) -> None:
    saved = await storage.save_input_file("j", name, Whole(b"x"))

    assert saved["filename"] == "subdir/a.jpg"
    assert (base / "jobs" / "j" / "input" / "subdir" / "a.jpg").read_bytes() == b"x"


async def test_a_taken_name_is_never_overwritten(storage: Storage, base: Path) -> None:
    names = [
        (await storage.save_input_file("j", name, Whole(str(number).encode())))["filename"]
        for number, name in enumerate(
            ["a.jpg", "a.jpg", "a.jpg", "b/c.tar.gz", "b/c.tar.gz", "d", "d"]
        )
    ]

    assert names == [
        "a.jpg",
        "a (2).jpg",
        "a (3).jpg",
        "b/c.tar.gz",
        "b/c.tar (2).gz",
        "d",
        "d (2)",
    ]
    folder = base / "jobs" / "j" / "input"
    assert [(folder / name).read_text() for name in names] == list("0123456")


@pytest.mark.timeout(30)  # where each begins its search anew this takes minutes
async def test_hundreds_of_files_may_have_one_name(storage: Storage) -> None:
    for _ in range(300):
        saved = await storage.save_input_file("j", "a.jpg", Whole(b""))
    assert saved["filename"] == "a (300).jpg"


@pytest.mark.parametrize("name", ["x" * 236 + ".jpg", "ü" * 118 + ".jpg", "x" * 240])
async def test_the_longest_name_can_be_taken_again(storage: Storage, name: str) -> None:
    saved = [(await storage.save_input_file("j", name, Whole(b"x")))["filename"] for _ in range(12)]

    assert saved[0] == name and len(set(saved)) == 12
    for number, taken in enumerate(saved[1:], start=2):
        assert taken.startswith(name[:100]) and taken.endswith(f" ({number}){Path(name).suffix}")
        assert check_relative_path(taken).as_posix() == taken  # what we save, we accept


async def test_uploads_at_once_under_one_name_are_all_kept(base: Path) -> None:
    storage = FileStorageService(base)
    contents = [str(number).encode() * 5000 for number in range(8)]

    saved = await asyncio.gather(
        *(storage.save_input_file("j", "a.jpg", Upload(content)) for content in contents)
    )

    assert len({one["filename"] for one in saved}) == 8
    assert [Path(one["path"]).read_bytes() for one in saved] == contents


async def test_nothing_is_read_as_a_whole(base: Path) -> None:
    upload = Upload(b"x" * 10_000)
    await FileStorageService(base).save_input_file("j", "a", upload)

    assert 0 < upload.largest_read <= 1024**2


@pytest.mark.parametrize("name", UNSAFE_NAMES, ids=[ascii(name)[:20] for name in UNSAFE_NAMES])
async def test_an_unsafe_name_is_refused_before_anything_is_touched(
    storage: Storage, base: Path, name: str
) -> None:
    with pytest.raises(ValueError):
        await storage.save_input_file("j", name, Whole(b"x"))
    with pytest.raises(ValueError):
        storage.get_absolute_path(name)
    for act in (
        storage.create_job_directory,
        storage.get_job_path,
        storage.get_input_path,
        storage.get_output_path,
        storage.cleanup_job,
    ):
        with pytest.raises(ValueError):
            act(name)
    with pytest.raises(ValueError):
        await storage.save_input_file(name, "a.jpg", Whole(b"x"))

    assert not base.exists()


async def test_the_message_names_the_field(storage: Storage) -> None:
    with pytest.raises(ValueError, match=r"^job_id: "):
        storage.get_job_path("../a")
    with pytest.raises(ValueError, match=r"^filename: "):
        await storage.save_input_file("j", "../a", Whole(b"x"))
    with pytest.raises(ValueError, match=r"^relative_path: "):
        storage.get_absolute_path("../a")


@pytest.mark.parametrize("value", [None, 5, b"a.jpg", Path("a.jpg")], ids=repr)
async def test_what_is_no_text_is_named(storage: Storage, base: Path, value: Any) -> None:
    said = re.escape(f"{value!r} is not text")
    for act in (
        storage.create_job_directory,
        storage.get_job_path,
        storage.get_input_path,
        storage.get_output_path,
        storage.cleanup_job,
    ):
        with pytest.raises(ValueError, match=f"^job_id: {said}"):
            act(value)
    with pytest.raises(ValueError, match=f"^job_id: {said}"):
        await storage.save_input_file(value, "a.jpg", Whole(b"x"))
    with pytest.raises(ValueError, match=f"^filename: {said}"):
        await storage.save_input_file("j", value, Whole(b"x"))
    with pytest.raises(ValueError, match=f"^relative_path: {said}"):
        storage.get_absolute_path(value)
    assert not base.exists()


@pytest.mark.parametrize("job_id", ["a/b", "a\\b", "a/"])
def test_a_job_id_is_one_name(storage: Storage, job_id: str) -> None:
    with pytest.raises(ValueError, match="single name"):
        storage.get_job_path(job_id)


@pytest.mark.parametrize("where", ["jobs", "jobs/j", "jobs/j/input", "jobs/j/input/sub"])
async def test_a_link_that_points_out_is_refused(
    storage: Storage, base: Path, tmp_path: Path, where: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = base / where
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)

    with pytest.raises(ValueError, match="outside"):
        await storage.save_input_file("j", "sub/a.jpg", Whole(b"x"))
    with pytest.raises(ValueError, match="outside"):
        storage.get_absolute_path(f"{where}/a.jpg")
    if where != "jobs/j/input/sub":
        with pytest.raises(ValueError, match="outside"):
            storage.create_job_directory("j")
    assert list(outside.iterdir()) == []


async def test_a_file_where_a_folder_must_be_is_said(storage: Storage, base: Path) -> None:
    await storage.save_input_file("j", "a", Whole(b"x"))

    with pytest.raises(ValueError, match="filename"):
        await storage.save_input_file("j", "a/b", Whole(b"x"))
    assert everything_below(base / "jobs" / "j" / "input") == ["a"]


async def test_a_failed_save_leaves_no_file(base: Path) -> None:
    class Broken(Upload):
        async def read(self, size: int = -1, /) -> bytes:
            if self._source.tell() > 2000:
                raise ConnectionResetError("the client is gone")
            return await super().read(size)

    storage = FileStorageService(base)
    with pytest.raises(ConnectionResetError):
        await storage.save_input_file("j", "sub/a.jpg", Broken(b"x" * 5000))

    assert [path for path in base.rglob("*") if path.is_file()] == []


async def test_a_cancelled_save_leaves_no_file(base: Path) -> None:
    reading = asyncio.Event()

    class Endless(Upload):
        async def read(self, size: int = -1, /) -> bytes:
            if self._source.tell():
                reading.set()
                await asyncio.Event().wait()
            return await super().read(size)

    task = asyncio.ensure_future(
        FileStorageService(base).save_input_file("j", "a.jpg", Endless(b"x" * 5000))
    )
    await asyncio.wait_for(reading.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [path for path in base.rglob("*") if path.is_file()] == []


async def test_a_full_disk_leaves_no_file(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        await FileStorageService(base).save_input_file("j", "a.jpg", Whole(b"x"))

    assert [path for path in base.rglob("*") if path.is_file()] == []


async def test_cleaning_up_removes_the_workspace_alone(storage: Storage, base: Path) -> None:
    for job_id in ("j1", "j2"):
        await storage.save_input_file(job_id, "sub/a.jpg", Whole(b"x"))

    assert storage.cleanup_job("j1") is True
    assert storage.cleanup_job("j1") is False
    assert storage.cleanup_job("j3") is False

    assert [path.name for path in (base / "jobs").iterdir()] == ["j2"]


def test_a_file_with_the_name_of_a_workspace_is_cleaned_up(storage: Storage, base: Path) -> None:
    (base / "jobs").mkdir(parents=True)
    (base / "jobs" / "j").write_text("x")

    assert storage.cleanup_job("j") is True

    assert everything_below(base / "jobs") == []
    assert storage.cleanup_job("j") is False


def test_a_link_to_itself_is_refused(storage: Storage, base: Path) -> None:
    base.mkdir(parents=True, exist_ok=True)
    (base / "loop").symlink_to("loop")

    with pytest.raises(ValueError, match="loop/x"):
        storage.get_absolute_path("loop/x")


def test_cleaning_up_follows_no_link(storage: Storage, base: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("x")
    (storage.create_job_directory("j") / "input" / "link").symlink_to(tmp_path)

    assert storage.cleanup_job("j") is True
    assert kept.read_text() == "x"


def test_the_default_folder_is_that_of_the_media(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = FileStorageService()
    assert storage.get_absolute_path("a") == server_dir / "media" / "a"

    monkeypatch.setenv("MEDIA_STORAGE_DIR", str(tmp_path / "elsewhere"))
    assert storage.get_absolute_path("a") == tmp_path / "elsewhere" / "a"


def test_the_default_folder_needs_the_directory() -> None:
    with pytest.raises(ValueError, match="CL_SERVER_DIR"):
        FileStorageService().get_job_path("j")


def test_a_folder_may_be_text(base: Path) -> None:
    arguments: Any = str(base)
    assert FileStorageService(arguments).get_job_path("j") == base / "jobs" / "j"
