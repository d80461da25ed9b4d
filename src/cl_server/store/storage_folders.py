"""Whether a storage folder is the one that belongs to the database.

Each folder has a marker file, and the database knows what it says. A disk that is not mounted
leaves an empty folder behind: without the marker that would look like an empty library, and new
files would go under the mount point.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from .repository import StorageFolders

__all__ = [
    "MARKER_NAME",
    "MarkedFolder",
    "UnusableStorageFolder",
    "WrongStorageFolder",
    "sync_folder",
]

MARKER_NAME = ".cl-server-storage"


class WrongStorageFolder(Exception):
    """A storage folder is not the one that belongs to the database."""

    def __init__(self, kind: str, folder: Path, marker: str | None) -> None:
        super().__init__(
            f"{folder} is not the {kind} folder of this database: its marker file is missing or "
            "another one's. Is the disk mounted? If the folder was moved, let "
            f"{kind.upper()}_STORAGE_DIR name it; if it is the right one and only its marker was "
            f"lost, write {marker} into {folder / MARKER_NAME}"
        )


class UnusableStorageFolder(Exception):
    """A storage folder cannot be made, read or written to."""

    def __init__(self, kind: str, folder: Path, error: OSError) -> None:
        super().__init__(
            f"the {kind} folder {folder} cannot be used ({error.strerror}): "
            f"{kind.upper()}_STORAGE_DIR names another one"
        )


class MarkedFolder:
    """A storage folder that is used only while it is the right one.

    Args:
        kind: `media` or `compute`.
        path: Where it is, absolute.
        folders: What the database knows.
    """

    def __init__(self, kind: str, path: Path, folders: StorageFolders) -> None:
        self.kind = kind
        self.path = path
        self._folders = folders
        self._marker: str | None = None

    def claim(self) -> None:
        """Make sure that the folder belongs to the database; at the first start, make it so.

        Raises:
            UnusableStorageFolder: It cannot be made, read or written to.
            WrongStorageFolder: The database knows another one.
        """
        self._marker = self._folders.find_marker(self.kind)
        try:
            if self._marker is None:
                self.path.mkdir(parents=True, exist_ok=True)
                marker = _read_marker(self.path) or _write_marker(self.path)
                now_ms = time.time_ns() // 1_000_000
                self._marker = self._folders.add_marker(self.kind, marker, now_ms)
            self.check()
        except OSError as error:
            raise UnusableStorageFolder(self.kind, self.path, error) from error

    def check(self) -> None:
        """Raise `WrongStorageFolder` unless the folder is still the one that was claimed."""
        if self._marker is None or _read_marker(self.path) != self._marker:
            raise WrongStorageFolder(self.kind, self.path, self._marker)


def _read_marker(folder: Path) -> str | None:
    """Return what the folder's marker file says, or `None` where it has none."""
    try:
        return (folder / MARKER_NAME).read_text().strip() or None
    except FileNotFoundError:
        return None


def _write_marker(folder: Path) -> str:
    """Write a marker file, on the disk before this returns, and return what it says.

    Where another process was quicker, what that one wrote stands.
    """
    temporary, target = folder / f"{MARKER_NAME}.{secrets.token_hex(4)}", folder / MARKER_NAME
    with temporary.open("x") as file:
        file.write(f"{secrets.token_hex(16)}\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, target)
    temporary.unlink()
    sync_folder(folder)
    return target.read_text().strip()


def sync_folder(folder: Path) -> None:
    """Bring the folder's names onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
