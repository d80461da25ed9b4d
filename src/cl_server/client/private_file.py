"""Writing a file that only its owner may read, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_private_file"]


def write_private_file(path: Path, text: str) -> Path:
    """Write a small text file with mode 0600, replacing what was there in one step.

    Args:
        path: Where; its directory is made (0700) where it is missing.
        text: What.

    Returns:
        The path.

    Raises:
        OSError: The directory cannot be made or written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there only where something failed
    return path
