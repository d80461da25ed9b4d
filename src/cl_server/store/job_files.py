"""The files of a job's workspace as clients see them: `input/` and `output/`, with their digests."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_ml_tools.workspace import check_relative_path, resolve_inside
from cl_server.http.errors import BadRequest, Forbidden, NotFound
from cl_server_shared import FileStorageService

from .problems import wrong_parameter
from .schemas import JobFile

__all__ = ["FOLDERS", "JobFiles", "ReadAllowance"]

logger = logging.getLogger(__name__)

# What is shown of a workspace; attempts that have not succeeded are nobody's business.
FOLDERS = ("input", "output")

# Digests that were read once, each under its file's path, size and time of change.
DIGESTS_NAME = ".digests.json"


@dataclass
class ReadAllowance:
    """How much may still be read for digests that are not known yet.

    Attributes:
        bytes_left: That many bytes; by default all there are.
    """

    bytes_left: float = math.inf

    def take(self, size_bytes: int) -> bool:
        """Return whether a file of this size may be read, and count it where it may."""
        if size_bytes > self.bytes_left:
            return False
        self.bytes_left -= size_bytes
        return True


class JobFiles:
    """Reads workspaces.

    Args:
        storage: Where they are.
    """

    def __init__(self, storage: FileStorageService) -> None:
        self._storage = storage

    def list_files(
        self, job_id: str, allowance: ReadAllowance
    ) -> tuple[list[JobFile], list[JobFile]]:
        """Return the job's input and output files, each in the order of their paths.

        Only plain files are shown, and of these none whose name is not UTF-8: a line in the log
        names it.

        Args:
            job_id: The job; one without a workspace has no files.
            allowance: What may be read; the digest of a file beyond it is `None`, unless it is
                known already.
        """
        job_path = self._storage.get_job_path(job_id)
        digests = _Digests(job_path)
        listed = [
            [digests.describe(path, status, allowance) for path, status in _walk(job_path, folder)]
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
            file = job_path / path
            digests.add(file, file.lstat(), digest)
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
        if not path:
            raise BadRequest("the path is empty: the workspace itself is a folder")
        if _leads_out(path):
            raise Forbidden("the path leads out of the job's workspace")
        try:
            relative = check_relative_path(path)
        except ValueError as error:
            raise wrong_parameter("path", "path", str(error), "unsafe_path") from error
        try:
            found = resolve_inside(job_path, str(relative))
        except ValueError as error:  # a link
            if isinstance(error.__cause__, RuntimeError):  # in a circle; before Python 3.13
                raise NotFound(f"the job has no file {path!r}") from error
            raise Forbidden("the path leads out of the job's workspace") from error
        if relative.parts[0] in FOLDERS and found.is_dir():
            raise BadRequest(f"{path!r} is a folder")
        if relative.parts[0] not in FOLDERS or not _is_plain(found):
            raise NotFound(f"the job has no file {path!r}")
        return found


class _Digests:
    """The digests that are kept in a workspace."""

    def __init__(self, job_path: Path) -> None:
        self._job_path = job_path
        self._kept: dict[str, str] = _read_json(job_path / DIGESTS_NAME)
        self._changed = False

    def describe(self, path: Path, status: os.stat_result, allowance: ReadAllowance) -> JobFile:
        """Return what a client sees of a plain file."""
        key = self._key(path, status)
        if key not in self._kept and allowance.take(status.st_size):
            try:
                self.add(path, status, _digest(path))
            except OSError as error:  # it is gone just now, or its maker closed it to us
                logger.warning("the digest of %r cannot be read: %s", str(path), error)
        return JobFile(
            name=path.name,
            path=path.relative_to(self._job_path).as_posix(),
            size=status.st_size,
            sha256=self._kept.get(key),
        )

    def add(self, path: Path, status: os.stat_result, digest: str) -> None:
        """Keep a file's digest."""
        self._kept[self._key(path, status)] = digest
        self._changed = True

    def save(self) -> None:
        """Write the digests, in one step: a reader sees all of them or the earlier ones."""
        if not self._changed:
            return
        temporary = self._job_path / f"{DIGESTS_NAME}.{secrets.token_hex(4)}"
        try:
            temporary.write_text(json.dumps(self._kept))
            temporary.replace(self._job_path / DIGESTS_NAME)
        except FileNotFoundError:  # the job was deleted just now
            return

    def _key(self, path: Path, status: os.stat_result) -> str:
        relative = path.relative_to(self._job_path).as_posix()
        return f"{status.st_size}:{status.st_mtime_ns}:{relative}"


def _walk(job_path: Path, folder: str) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every plain file below a folder, in the order of their paths, as it is now.

    Links are neither followed nor shown: opening a FIFO waits for ever, a device has no end.
    """
    paths = sorted(
        Path(parent, name) for parent, _, names in os.walk(job_path / folder) for name in names
    )
    for path in paths:
        try:
            status = path.lstat()
        except FileNotFoundError:  # deleted just now
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        if not _is_utf8(path):
            logger.warning("%r is not shown: its name is not UTF-8", str(path))
            continue
        yield path, status


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(path: Path) -> str:
    """Return the SHA-256 of a plain file, in hex; what has taken its place is not waited for.

    Raises:
        OSError: It cannot be read, or is a plain file no more.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is a plain file no more")
        return hashlib.file_digest(file, "sha256").hexdigest()


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
