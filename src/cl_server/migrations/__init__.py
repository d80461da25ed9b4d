"""Schema changes: applied at start, under a lock, after a backup.

Each service has its own folder of revisions (`auth/versions`, `store/versions`) and its own
version table, so one PostgreSQL database serves all. A revision is named after its file, and the
files in the order of their names are its history.
"""

from .errors import BackupFailed, ForeignTable, MigrationError, SchemaTooNew
from .runner import SchemaState, Service, migrate, schema_state

__all__ = [
    "BackupFailed",
    "ForeignTable",
    "MigrationError",
    "SchemaState",
    "SchemaTooNew",
    "Service",
    "migrate",
    "schema_state",
]
