"""Job workspaces in a folder of a test's own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from ..names import unique_path
from ..protocols import AsyncReadable
from ..workspace import job_folder, make_job_folders, naming, prepare_upload, resolve_inside

__all__ = ["ScratchStorage"]


class ScratchStorage:
    """`FileStorage` for tests: the same names and refusals, nothing flushed onto the disk.

    Args:
        base_dir: A folder of the test's own, pytest's `tmp_path` say.
    """

    def __init__(self, base_dir: Path) -> None:
        self.base_dir = Path(base_dir).absolute()

    def create_job_directory(self, job_id: str) -> Path:
        """Make the job's workspace and return its absolute path."""
        return make_job_folders(self.base_dir, job_id)

    def get_job_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's workspace."""
        return job_folder(self.base_dir, job_id)

    def get_input_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's input folder."""
        return job_folder(self.base_dir, job_id, "input")

    def get_output_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's output folder."""
        return job_folder(self.base_dir, job_id, "output")

    async def save_input_file(
        self, job_id: str, filename: str, file: AsyncReadable
    ) -> dict[str, Any]:
        """Save an upload in the input folder; a taken name becomes `a (2).jpg`."""
        wanted = prepare_upload(self.base_dir, job_id, filename)
        folder = self.get_input_path(job_id)
        content = await file.read()
        taken = [str(path) for path in folder.rglob("*")]
        path = Path(unique_path(str(wanted), taken))
        path.write_bytes(content)
        return {
            "filename": path.relative_to(folder).as_posix(),
            "path": str(path),
            "size": len(content),
            "hash": hashlib.sha256(content).hexdigest(),
        }

    def cleanup_job(self, job_id: str) -> bool:
        """Delete the workspace, or the file that has its name; False where there was none."""
        job_path = self.get_job_path(job_id)
        if not job_path.exists():
            return False
        if job_path.is_dir() and not job_path.is_symlink():
            shutil.rmtree(job_path)
        else:
            job_path.unlink()
        return True

    def get_absolute_path(self, relative_path: str) -> Path:
        """Return the absolute path of a file below the folder."""
        with naming("relative_path"):
            return resolve_inside(self.base_dir, relative_path)
