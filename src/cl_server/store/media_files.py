"""Media on disk: stored once, under the SHA-256 of their bytes, so that a name never lies.

    {base}/ab/cd/abcd1234...      a file, read-only
    {base}/incoming/...           what is still being received; moved in one step

A file is on the disk, name and all, before anybody writes a row about it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.protocols import AsyncReadable

from .storage_folders import MarkedFolder, sync_folder

__all__ = ["MediaFiles", "ReceivedFile", "link_or_copy"]

CHUNK_BYTES = 1024**2

# Enough for every format that is recognised by how it begins.
HEAD_BYTES = 4096

# Nobody writes to an upload for a day: what is that old was left by a process that died.
ABANDONED_SECONDS = 24 * 3600

# Jobs get hard links to the files; no task may write through one.
READ_ONLY = 0o444


@dataclass(frozen=True)
class ReceivedFile:
    """An upload that is on the disk, but has no name there yet.

    Attributes:
        path: Where it is, absolute.
        size: In bytes.
        md5: In hex.
        sha256: In hex.
        head: How it begins, for recognising its format.
    """

    path: Path
    size: int
    md5: str
    sha256: str
    head: bytes


class MediaFiles:
    """The media below one folder.

    Args:
        folder: Where they are; written to only while it is the right one.
    """

    def __init__(self, folder: MarkedFolder) -> None:
        self._folder = folder
        self._base_dir = folder.path

    def path_of(self, sha256: str) -> Path:
        """Return where the file with this digest is, or would be."""
        return self._base_dir / sha256[:2] / sha256[2:4] / sha256

    @asynccontextmanager
    async def receive(self, source: AsyncReadable) -> AsyncIterator[ReceivedFile]:
        """Stream an upload onto the disk; what was not kept by the end of the block is deleted.

        Args:
            source: The upload: anything with `async read(n)`.

        Raises:
            WrongStorageFolder: The disk is not there any more.
        """
        await run_in_threadpool(self._folder.check)
        path = self._base_dir / "incoming" / f"{secrets.token_hex(16)}.part"
        try:
            yield await _write(source, path)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(path.unlink, missing_ok=True)

    def keep(self, received: ReceivedFile) -> Path:
        """Give a received file its name, for good, and return its path.

        A file that is there under this name already is replaced: by the same bytes, or because
        it was damaged.
        """
        target = self.path_of(received.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        received.path.chmod(READ_ONLY)
        received.path.replace(target)
        for folder in (target.parent, target.parent.parent, self._base_dir):
            sync_folder(folder)
        return target

    def has(self, sha256: str, size: int) -> bool:
        """Return whether the file with this digest is there, and whole as far as its size tells."""
        try:
            return self.path_of(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def delete_abandoned_uploads(self) -> None:
        """Delete what processes that died in the middle of an upload left behind."""
        oldest = time.time() - ABANDONED_SECONDS
        incoming = self._base_dir / "incoming"
        incoming.mkdir(exist_ok=True)
        for path in incoming.glob("*.part"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, and bring it onto the disk.

    A hard link, which takes no room, where both are on one disk that can do it; else a copy.
    """
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as original, target.open("xb") as copy:
            shutil.copyfileobj(original, copy, CHUNK_BYTES)
            _sync(copy)
    sync_folder(target.parent)


async def _write(source: AsyncReadable, path: Path) -> ReceivedFile:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size, head = 0, b""
    output = await run_in_threadpool(path.open, "xb")

    def write(chunk: bytes) -> None:
        md5.update(chunk)
        sha256.update(chunk)
        output.write(chunk)

    with output:
        while chunk := await source.read(CHUNK_BYTES):
            if len(head) < HEAD_BYTES:
                head += chunk[: HEAD_BYTES - len(head)]
            size += len(chunk)
            await run_in_threadpool(write, chunk)
        await run_in_threadpool(_sync, output)
    return ReceivedFile(path, size, md5.hexdigest(), sha256.hexdigest(), head)


def _sync(output: BinaryIO) -> None:
    output.flush()
    os.fsync(output.fileno())
