"""Why a schema was not changed. Each message says what to do.

MigrationError
├── SchemaTooNew    a newer program has changed the database
├── ForeignTable    a table has one of our names, and other columns
└── BackupFailed    the copy that comes first cannot be written
"""

from __future__ import annotations

__all__ = ["BackupFailed", "ForeignTable", "MigrationError", "SchemaTooNew"]


class MigrationError(RuntimeError):
    """The base of all errors of this package; nothing was changed."""


class SchemaTooNew(MigrationError):
    """A newer CL Server has changed this database; this one does not know how to use it."""


class ForeignTable(MigrationError):
    """A table has the name of one of ours, and other columns."""


class BackupFailed(MigrationError):
    """The copy before a change cannot be written (a full disk, say)."""
