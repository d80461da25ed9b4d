"""Files of jobs on disk: `{base_dir}/jobs/{job_id}/{input,output}`. The only builder of paths."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

from cl_ml_tools.names import numbered_paths
from cl_ml_tools.protocols import AsyncReadable
from cl_ml_tools.workspace import (
    job_folder,
    make_job_folders,
    naming,
    prepare_upload,
    publish_attempt,
    resolve_inside,
)

from .config import Config

__all__ = ["FileStorageService", "WorkspaceUse"]

CHUNK_BYTES = 1024**2

# What a workspace is called while it is being deleted.
DELETED_PREFIX = ".deleted-"


@dataclass(frozen=True)
class WorkspaceUse:
    """What a workspace holds.

    Attributes:
        size_bytes: The size of its files.
        changed_at: When something in it last changed, in seconds since the epoch; `None`: there is
            no such workspace.
    """

    size_bytes: int
    changed_at: Optional[float]


class FileStorageService:
    """Job workspaces below one folder; nothing that a client names leads out of it.

    Args:
        base_dir: The folder; `None`: `Config.MEDIA_STORAGE_DIR`, read at each use.
    """

    def __init__(self, base_dir: Optional[Union[str, Path]] = None) -> None:
        self._base_dir = base_dir

    @property
    def base_dir(self) -> Path:
        """The folder below which everything lies, absolute."""
        base = Config.MEDIA_STORAGE_DIR if self._base_dir is None else self._base_dir
        return Path(base).absolute()

    def create_job_directory(self, job_id: str) -> Path:
        """Make the job's workspace, `input` and `output`, and return its absolute path."""
        return make_job_folders(self.base_dir, job_id)

    def get_job_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's workspace.

        Raises:
            ValueError: The id is not a safe file name.
        """
        return job_folder(self.base_dir, job_id)

    def get_input_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's input folder."""
        return job_folder(self.base_dir, job_id, "input")

    def get_output_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's output folder."""
        return job_folder(self.base_dir, job_id, "output")

    def get_absolute_path(self, relative_path: str) -> Path:
        """Return the absolute path of a file below the base folder.

        Raises:
            ValueError: The path is unsafe or leads out of it.
        """
        with naming("relative_path"):
            return resolve_inside(self.base_dir, relative_path)

    async def save_input_file(
        self, job_id: str, filename: str, file: AsyncReadable
    ) -> dict[str, Any]:
        """Stream an upload into the job's input folder, in pieces, and onto the disk.

        Args:
            job_id: The job; its workspace is made where it is missing.
            filename: The client's name for it; may have folders. A taken one becomes `a (2).jpg`.
            file: Anything with `async read(n)`.

        Returns:
            `filename` (as saved, relative to the input folder), `path` (absolute), `size` (bytes),
            `hash` (SHA-256, hex).

        Raises:
            ValueError: The id or the name is unsafe; nothing was touched.
        """
        target = prepare_upload(self.base_dir, job_id, filename)
        temporary = target.parent / f".{secrets.token_hex(8)}.part"
        try:
            with temporary.open("xb") as output:
                size, digest = await _copy(file, output)
                await asyncio.to_thread(_sync, output)
            saved = _move_to_free_name(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(saved.parent)
        return {
            "filename": saved.relative_to(self.get_input_path(job_id)).as_posix(),
            "path": str(saved),
            "size": size,
            "hash": digest,
        }

    def cleanup_job(self, job_id: str) -> bool:
        """Delete the workspace, or the file that has its name; False where there was none."""
        job_path = self.get_job_path(job_id)
        doomed = job_path.with_name(f"{DELETED_PREFIX}{secrets.token_hex(8)}")
        try:
            # In one step, so that nobody sees half of a workspace.
            job_path.rename(doomed)
        except FileNotFoundError:
            return False
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
        return True

    def publish_output(self, job_id: str, attempt: int) -> bool:
        """Finish what a worker that died between completing a job and showing its files left.

        Args:
            job_id: A completed job.
            attempt: The attempt that completed it.

        Returns:
            Whether there was something to finish.
        """
        job_path = self.get_job_path(job_id)
        if not (job_path / "attempts").is_dir():
            return False
        publish_attempt(job_path, attempt)
        return True

    def list_workspaces(self) -> list[str]:
        """Return the job id of every workspace; what is left of one whose deletion was cut off, too."""
        folder = self.base_dir / "jobs"
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return [
            name
            for name in names
            if name.startswith(DELETED_PREFIX) or (folder / name / "input").is_dir()
        ]

    def measure_job(self, job_id: str) -> WorkspaceUse:
        """Return how large a job's workspace is, and when it last changed.

        Raises:
            ValueError: The id is not a safe file name.
        """
        size, changed_at = 0, None
        for folder, _, files in os.walk(self.get_job_path(job_id)):
            for name in ("", *files):
                with contextlib.suppress(FileNotFoundError):  # another process deletes it
                    found = Path(folder, name).lstat()
                    size += found.st_size if name else 0
                    changed_at = max(changed_at or 0.0, found.st_mtime)
        return WorkspaceUse(size, changed_at)


async def _copy(source: AsyncReadable, output: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0

    def write(chunk: bytes) -> None:
        digest.update(chunk)
        output.write(chunk)

    while True:
        chunk = await source.read(CHUNK_BYTES)
        if not chunk:
            return size, digest.hexdigest()
        await asyncio.to_thread(write, chunk)
        size += len(chunk)


def _sync(output: BinaryIO) -> None:
    output.flush()
    os.fsync(output.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_to_free_name(temporary: Path, target: Path) -> Path:
    """Give the file its name, or the next free one, without ever replacing another's."""
    candidates = numbered_paths(str(target))
    while True:
        candidate = Path(next(candidates))
        try:
            os.link(temporary, candidate)  # unlike a rename, it fails where the name is taken
        except FileExistsError:
            continue
        return candidate
