"""Connections to PostgreSQL that are not of the pool: one listens for hours, one tells."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from ..database import Database
from ..engine import KEEPING_ALIVE
from ..errors import DatabaseUnavailable

__all__ = ["Connector", "can_notify"]


def can_notify(database: Database) -> bool:
    """Return whether connections of one's own can be made to a database: by psycopg, to an engine's."""
    return isinstance(database.bind, Engine) and database.bind.dialect.driver == "psycopg"


class Connector:
    """Makes connections as an engine's are made, by what one of them says of itself.

    Asked once, on the caller's thread: a thread of ours must not hold one of the pool's when the
    caller disposes of it.

    Args:
        cursor: A cursor on one of them.
    """

    def __init__(self, cursor: Any) -> None:
        info = cursor.connection.info
        self._search_path = cursor.execute("SHOW search_path").fetchone()[0]
        # Now: a pool may close the connection as soon as it has it back.
        parameters, password = info.get_parameters(), info.password
        self._parameters: dict[str, Any] = {**KEEPING_ALIVE, **parameters}
        self._parameters.pop("application_name", None)
        if password:
            self._parameters["password"] = password

    def connect(self, name: str) -> Any:
        """Return a new connection, each statement of which is a transaction.

        Args:
            name: What the server is told that it is for.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        import psycopg

        try:
            connection = psycopg.connect(**self._parameters, application_name=name, autocommit=True)
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
        try:
            connection.execute(
                "SELECT set_config('search_path', %s, false), "
                # A `NOTIFY` is a commit: it need not wait for the disk, as nothing is lost with it.
                "set_config('synchronous_commit', 'off', false)",
                [self._search_path],
            )
        except psycopg.Error as error:
            connection.close()
            raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
        return connection
