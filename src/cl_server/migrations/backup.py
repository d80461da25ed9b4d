"""A copy of an SQLite database, made before its schema is changed."""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from .errors import BackupFailed

__all__ = ["back_up"]

logger = logging.getLogger(__name__)


def back_up(engine: Engine, reason: str) -> Path | None:
    """Copy an SQLite database beside itself, for its owner only and safe on the disk.

    PostgreSQL has tools of its own; there, and in memory, nothing is done.

    Args:
        engine: The database.
        reason: What comes next; it becomes part of the copy's name.

    Returns:
        The copy.

    Raises:
        BackupFailed: It cannot be written.
    """
    if engine.dialect.name != "sqlite" or engine.url.database in (None, "", ":memory:"):
        return None
    source = Path(str(engine.url.database))
    copy = source.with_name(f"{source.name}.before-{reason}-{time.time_ns() // 1_000_000}")
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        mode = stat.S_IMODE(source.stat().st_mode)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        # A connection of its own: VACUUM does not run in the transaction that holds the lock.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM INTO :path"), {"path": str(partial)})
        _sync(partial)
        partial.rename(copy)
        _sync(copy.parent)
    except (OSError, OperationalError) as error:
        partial.unlink(missing_ok=True)
        raise BackupFailed(
            f"{source} has to be changed for this version and cannot be copied to {copy} before: "
            f"{error}. Make room or make the directory writable, then start again."
        ) from error
    logger.info("%s was copied to %s before its change", source, copy)
    return copy


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
