"""Digests of a file, read once and in pieces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileDigests", "digest_file"]

# Large enough that the hashing, not the reading, sets the pace; small enough to be no burden.
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileDigests:
    """What identifies a file's content.

    Attributes:
        md5: Hexadecimal; what existing clients look files up by, never used for security.
        sha256: Hexadecimal; what content is addressed by.
        size_bytes: How long the file is.
    """

    md5: str
    sha256: str
    size_bytes: int


def digest_file(path: Path) -> FileDigests:
    """Return the digests of a file of any size, in little memory.

    Raises:
        OSError: It cannot be read.
    """
    md5, sha256, size_bytes = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            md5.update(piece)
            sha256.update(piece)
            size_bytes += len(piece)
    return FileDigests(md5.hexdigest(), sha256.hexdigest(), size_bytes)
