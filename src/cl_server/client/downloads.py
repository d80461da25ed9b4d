"""Files on their way down: written beside their place, checked, then put there in one step."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from cl_server.client.errors import DamagedDownload, FileInTheWay

__all__ = ["place_file", "temporary_beside", "write_download"]


def write_download(
    chunks: Iterable[bytes],
    path: Path,
    *,
    expected_size_bytes: int | None = None,
    expected_sha256: str | None = None,
) -> None:
    """Write what comes to a file, and check it.

    Args:
        chunks: The bytes.
        path: A file that is not there yet; its directory is.
        expected_size_bytes: What the server announced, where it did.
        expected_sha256: In hex, where the server announced it.

    Raises:
        DamagedDownload: The bytes differ from what was announced; no file is left.
        OSError: The file cannot be written; none is left.
    """
    digest, size_bytes = hashlib.sha256(), 0
    with ExitStack() as undo:
        with path.open("xb") as file:
            undo.callback(path.unlink, missing_ok=True)
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
        if expected_size_bytes is not None and size_bytes != expected_size_bytes:
            raise DamagedDownload(
                f"{path.name}: {size_bytes} of {expected_size_bytes} bytes came: try again"
            )
        if expected_sha256 and digest.hexdigest() != expected_sha256.lower():
            raise DamagedDownload(f"{path.name}: the bytes that came are damaged: try again")
        undo.pop_all()


def place_file(temporary: Path, destination: Path, *, overwrite: bool) -> None:
    """Move a finished file to its name, in one step.

    Args:
        temporary: The file, on the same file system as its destination.
        destination: Where it goes; its directory is made where it is missing.
        overwrite: Whether a file that is there is replaced.

    Raises:
        FileInTheWay: A file is there and `overwrite` is not set; nothing was changed.
        OSError: The directory cannot be written to.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
        temporary.replace(destination)
        return
    try:
        os.link(temporary, destination)  # fails where the name is taken, without a gap between
    except FileExistsError:
        raise FileInTheWay(destination) from None
    except OSError:  # a file system without hard links, such as exFAT
        if destination.exists():
            raise FileInTheWay(destination) from None
        temporary.rename(destination)
        return
    temporary.unlink()


def temporary_beside(destination: Path) -> Path:
    """Return the name of a file that is not there yet, in the directory of `destination`.

    The directory is made where it is missing.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.with_name(f".{destination.name[:100]}.{secrets.token_hex(4)}.part")
