"""What a database driver raises, told as ours: the one place where that is decided."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .errors import DatabaseBusy, DatabaseUnavailable

__all__ = ["is_busy", "raise_mapped"]


def raise_mapped(bind: Any, error: BaseException) -> None:
    """Raise our error for a driver's or the pool's, from it; return where the error is neither's."""
    driver = bind.dialect.dbapi
    if isinstance(error, PoolTimeout):
        raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig  # of the first connection: SQLAlchemy asks the server for its version
    # SQLite says with the plain class that a file is damaged, or is no database.
    if isinstance(error, driver.OperationalError) or type(error) is driver.DatabaseError:
        if is_busy(error):
            raise DatabaseBusy(f"the database is locked by another writer: {error}") from error
        raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
    if isinstance(error, driver.ProgrammingError):
        raise DatabaseUnavailable(f"the database has not the tables needed: {error}") from error


def is_busy(error: BaseException) -> bool:
    """Return whether a driver's error says that another holds the lock."""
    text = str(error)
    return "is locked" in text or "database is busy" in text
