"""One `cl-server up` per directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_server.cli.failures import CommandRefused

__all__ = ["lock_directory"]

LOCK_NAME = "up.lock"


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold a directory; the lock ends with the process, however that dies.

    Raises:
        CommandRefused: Another `up` holds it, or it cannot be written to.
    """
    path = directory / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandRefused(f"{directory} cannot be written to: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            raise CommandRefused(
                f"cl-server up runs on {directory} already (process {holder or 'unknown'}): "
                "stop it first, or choose another directory with --dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
