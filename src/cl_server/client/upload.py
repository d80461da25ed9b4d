"""Files on their way up: read from disk while they are sent, never as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["FileUpload"]


class FileUpload:
    """A file of a multipart body that is opened when its turn comes and closed after its last byte.

    A job of a thousand files so holds one descriptor, not a thousand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, none at the end."""
        if self._file is None:
            self._file = self.path.open("rb")
        chunk = self._file.read(size)
        if not chunk:
            self.close()
        return chunk

    def tell(self) -> int:
        """Return 0: the length is asked for before anything is read."""
        return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Start again, or with `SEEK_END` return the file's size in bytes."""
        if whence == os.SEEK_END:
            return self.path.stat().st_size
        self.close()
        return 0

    def close(self) -> None:
        """Close the file if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
