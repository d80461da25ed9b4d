"""The files of a job's workspace as clients see them: `input/` and `output/`, with their digests."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from cl_ml_tools.media.digests import digest_file
from cl_ml_tools.workspace import check_relative_path, publish_attempt, resolve_inside
from cl_server.http.errors import BadRequest, Forbidden, NotFound
from cl_server_shared import FileStorageService

from .problems import wrong_parameter
from .schemas import JobFile

__all__ = ["FOLDERS", "JobFiles"]

# What is shown of a workspace; attempts that have not succeeded are nobody's business.
FOLDERS = ("input", "output")

# Digests that were read once, each under its file's path, size and time of change.
DIGESTS_NAME = ".digests.json"


class JobFiles:
    """Reads workspaces.

    Args:
        storage: Where they are.
    """

    def __init__(self, storage: FileStorageService) -> None:
        self._storage = storage

    def publish_output(self, job_id: str, attempt: int) -> None:
        """Finish what a worker that died between completing a job and showing its files left.

        Args:
            job_id: A completed job.
            attempt: The attempt that completed it.
        """
        job_path = self._storage.get_job_path(job_id)
        if (job_path / "attempts").is_dir():
            publish_attempt(job_path, attempt)

    def list_files(self, job_id: str, *, read_digests: bool) -> tuple[list[JobFile], list[JobFile]]:
        """Return the job's input and output files, each in the order of their paths.

        Args:
            job_id: The job; one without a workspace has no files.
            read_digests: Whether to read files whose digest is not known yet; without, it is
                `None`.
        """
        job_path = self._storage.get_job_path(job_id)
        digests = _Digests(job_path)
        listed = [
            [digests.describe(path, read=read_digests) for path in _walk(job_path / folder)]
            for folder in FOLDERS
        ]
        digests.save()
        return listed[0], listed[1]

    def remember_digests(self, job_id: str, known: dict[str, str]) -> None:
        """Keep digests that are known already.

        Args:
            job_id: The job.
            known: The SHA-256 in hex under each file's path in the workspace.
        """
        job_path = self._storage.get_job_path(job_id)
        digests = _Digests(job_path)
        for path, digest in known.items():
            digests.add(job_path / path, digest)
        digests.save()

    def find_file(self, job_id: str, path: str) -> Path:
        """Return where a file of the workspace is.

        Args:
            job_id: The job.
            path: Relative to the workspace: `output/a.jpg`.

        Raises:
            Forbidden: The path leads out of the workspace.
            Unprocessable: The path is unsafe in another way.
            NotFound: There is no such file.
            BadRequest: It is a folder.
        """
        job_path = self._storage.get_job_path(job_id)
        if _leads_out(path):
            raise Forbidden("the path leads out of the job's workspace")
        try:
            relative = check_relative_path(path)
        except ValueError as error:
            raise wrong_parameter("path", "path", str(error), "unsafe_path") from error
        try:
            found = resolve_inside(job_path, str(relative))
        except ValueError as error:  # a link
            raise Forbidden("the path leads out of the job's workspace") from error
        if relative.parts[0] not in FOLDERS or not found.exists():
            raise NotFound(f"the job has no file {path!r}")
        if not found.is_file():
            raise BadRequest(f"{path!r} is a folder")
        return found


class _Digests:
    """The digests that are kept in a workspace."""

    def __init__(self, job_path: Path) -> None:
        self._job_path = job_path
        self._kept: dict[str, str] = _read_json(job_path / DIGESTS_NAME)
        self._changed = False

    def describe(self, path: Path, *, read: bool) -> JobFile:
        """Return what a client sees of a file."""
        key = self._key(path)
        if key not in self._kept and read:
            self.add(path, digest_file(path).sha256)
        return JobFile(
            name=path.name,
            path=path.relative_to(self._job_path).as_posix(),
            size=path.stat().st_size,
            sha256=self._kept.get(key),
        )

    def add(self, path: Path, digest: str) -> None:
        """Keep a file's digest."""
        self._kept[self._key(path)] = digest
        self._changed = True

    def save(self) -> None:
        """Write the digests, in one step: a reader sees all of them or the earlier ones."""
        if not self._changed or not self._job_path.is_dir():
            return
        temporary = self._job_path / f"{DIGESTS_NAME}.{secrets.token_hex(4)}"
        temporary.write_text(json.dumps(self._kept))
        temporary.replace(self._job_path / DIGESTS_NAME)

    def _key(self, path: Path) -> str:
        status = path.stat()
        relative = path.relative_to(self._job_path).as_posix()
        return f"{status.st_size}:{status.st_mtime_ns}:{relative}"


def _walk(folder: Path) -> list[Path]:
    """Return every plain file below a folder; links are neither followed nor shown."""
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if not Path(parent, name).is_symlink()
    )


def _leads_out(path: str) -> bool:
    text = path.replace("\\", "/")
    if text.startswith("/"):
        return True
    depth = 0
    for part in text.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; nothing where there is none, or it was cut off."""
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value
