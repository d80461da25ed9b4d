"""A directory that is made for something, and gone again where nothing came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["made_directory"]


@contextmanager
def made_directory(directory: Path) -> Iterator[None]:
    """Make a directory, with those above it; at the end remove of these what is still empty.

    Args:
        directory: May be there already; then it stays.

    Raises:
        OSError: It cannot be made.
    """
    above = (directory, *directory.parents)
    missing = [path for path in above if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # something is in it
            for path in missing:
                path.rmdir()
