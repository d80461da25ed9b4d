"""Writing a file so that nobody ever sees half of it under its name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing_file"]


@contextmanager
def replacing_file(target: Path) -> Iterator[BinaryIO]:
    """Give a file to write and read, named when the block ends; an error leaves nothing.

    It is on the disk before it has the name: a computer that stops in between loses the new
    file, never its content alone.
    """
    # Short, whatever the name is: a name can be as long as the file system allows.
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:  # raised again: no temporary file stays, also at Ctrl-C
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
