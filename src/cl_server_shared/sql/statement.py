"""A named statement in the form that each driver takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

__all__ = ["Statement", "statement"]

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")

# PostgreSQL's own clock decides there, so that hosts need not agree on the time; `:now` is given
# only where a test brings its own clock.
_POSTGRESQL_NOW = (
    "COALESCE(CAST(%(now)s AS BIGINT), "
    "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT))"
)


@dataclass(frozen=True)
class Statement:
    """SQL for the cursor of each driver."""

    sqlite: str
    postgresql: str


def statement(sqlite: str, *, postgresql: Optional[str] = None) -> Statement:
    """Return a statement from SQL with `:name` parameters; `:now` is the time in milliseconds.

    Args:
        sqlite: The text, for both databases where they agree.
        postgresql: The text for PostgreSQL where they do not.
    """
    text = (postgresql if postgresql is not None else sqlite).replace("%", "%%")
    return Statement(sqlite, _PARAMETER.sub(_for_psycopg, text))


def _for_psycopg(match: re.Match[str]) -> str:
    return _POSTGRESQL_NOW if match[1] == "now" else f"%({match[1]})s"
