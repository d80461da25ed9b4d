"""Files of jobs on disk: `{base_dir}/jobs/{job_id}/{input,output}`. The only builder of paths."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, BinaryIO, Optional, Union

from cl_ml_tools.compute import unique_path
from cl_ml_tools.protocols import AsyncReadable
from cl_ml_tools.workspace import check_name, check_relative_path, resolve_inside

from .config import Config

__all__ = ["FileStorageService"]

CHUNK_BYTES = 1024**2


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
        for folder in (self.get_input_path(job_id), self.get_output_path(job_id)):
            folder.mkdir(parents=True, exist_ok=True)
        return self.get_job_path(job_id)

    def get_job_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's workspace.

        Raises:
            ValueError: The id is not a safe file name.
        """
        return self._inside_workspace(job_id, "")

    def get_input_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's input folder."""
        return self._inside_workspace(job_id, "/input")

    def get_output_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's output folder."""
        return self._inside_workspace(job_id, "/output")

    def get_absolute_path(self, relative_path: str) -> Path:
        """Return the absolute path of a file below the base folder.

        Raises:
            ValueError: The path is unsafe or leads out of it.
        """
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
        input_path = self.get_input_path(job_id)
        try:
            relative = check_relative_path(filename).as_posix()
            target = resolve_inside(input_path, relative)
        except ValueError as error:
            raise ValueError(f"filename: {error}") from error
        self.create_job_directory(job_id)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"filename: {filename!r} has a file where a folder must be") from error
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
            "filename": saved.relative_to(input_path).as_posix(),
            "path": str(saved),
            "size": size,
            "hash": digest,
        }

    def cleanup_job(self, job_id: str) -> bool:
        """Delete the workspace; False where there was none."""
        job_path = self.get_job_path(job_id)
        doomed = job_path.with_name(f".deleted-{secrets.token_hex(8)}")
        try:
            # In one step, so that nobody sees half of a workspace.
            job_path.rename(doomed)
        except FileNotFoundError:
            return False
        shutil.rmtree(doomed)
        return True

    def _inside_workspace(self, job_id: str, rest: str) -> Path:
        try:
            return resolve_inside(self.base_dir, f"jobs/{check_name(job_id)}{rest}")
        except ValueError as error:
            raise ValueError(f"job_id: {error}") from error


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
    taken: set[str] = set()
    while True:
        candidate = Path(unique_path(str(target), taken))
        try:
            os.link(temporary, candidate)  # unlike a rename, it fails where the name is taken
        except FileExistsError:
            taken.add(str(candidate))
        else:
            return candidate
