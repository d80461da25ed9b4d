"""Recording the statements of one operation, and playing them again on the bare driver.

So "raw" runs the repository's own texts, in its own transactions, whatever they become. Pragmas are
left out: they are what the repository does about waiting, not part of the operation.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What tells one job from another; all else is the same for every job that is measured.
_IDENTITY = ("id", "job_id", "claim_seq")

# Where a new job's id is, instead of a column: the driver says it (`lastrowid`).
_BY_DRIVER = -1
_NEW_JOB = "INSERT INTO jobs "

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


@dataclass(frozen=True)
class Step:
    """One statement as it was run.

    Attributes:
        text: Its SQL.
        values: What it was run with.
        columns: What it returns; empty: no rows.
    """

    text: str
    values: dict[str, Any]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """One operation to play.

    Attributes:
        values: Every parameter of its statements; those that vary are overwritten.
        steps: Each statement, and which columns of its row are kept: (index, name).
    """

    values: dict[str, Any]
    steps: tuple[tuple[str, tuple[tuple[int, str], ...]], ...]


class RecordingConnection(sqlite3.Connection):
    """A driver's connection that remembers what ran on it.

    Args:
        steps: Where; several connections may share it.
    """

    def __init__(self, *args: Any, steps: list[Step], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = steps

    def cursor(self, factory: Any = None) -> Any:
        """Return a cursor that remembers, whatever is asked for."""
        return super().cursor(_RecordingCursor)


class _RecordingCursor(sqlite3.Cursor):
    def execute(self, text: str, values: Any = ()) -> _RecordingCursor:
        super().execute(text, values)
        columns = tuple(column[0] for column in self.description or ())
        assert isinstance(self.connection, RecordingConnection)
        self.connection.steps.append(Step(text, dict(values), columns))
        return self


class Connection:
    """The bare driver: `sqlite3` in autocommit mode, with the pragmas of a service's engine."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
            self._connection.execute(f"PRAGMA {pragma}")

    def play(self, recording: Recording, given: dict[str, Any]) -> dict[str, Any] | None:
        """Run one operation in its transaction.

        Args:
            recording: What to run.
            given: The values that vary: the job's.

        Returns:
            All values, with those that the database gave; `None` where it found no job.
        """
        values = {**recording.values, **given, "now": time.time_ns() // 1_000_000}
        execute = self._connection.cursor().execute
        execute("BEGIN IMMEDIATE")
        for text, carried in recording.steps:
            rows = execute(text, values)
            if carried and carried[0][0] == _BY_DRIVER:
                values["id"] = rows.lastrowid
            elif carried:
                row = rows.fetchone()
                if row is None:
                    execute("COMMIT")
                    return None
                for index, name in carried:
                    values[name] = row[index]
        execute("COMMIT")
        return values

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def record(steps: list[Step], operation: Callable[[], Any]) -> Recording:
    """Run an operation and return what it did.

    Args:
        steps: Where the connections that it uses remember them.
        operation: What to run: one transaction.
    """
    del steps[:]
    operation()
    ran = [step for step in steps if not step.text.startswith("PRAGMA")]
    first, *middle, last = (step.text for step in ran)
    if (first, last) != ("BEGIN IMMEDIATE", "COMMIT") or "COMMIT" in middle:
        raise RuntimeError(f"not one transaction: {[step.text for step in ran]}")
    ran = ran[1:-1]
    values: dict[str, Any] = {}
    for step in ran:
        for name in _PARAMETER.findall(step.text):
            if values.setdefault(name, step.values[name]) != step.values[name]:
                raise RuntimeError(f"the parameter {name!r} has two values in one operation")
    return Recording(
        values, tuple((step.text, carried) for step, carried in zip(ran, _carry(ran), strict=True))
    )


def _carry(steps: list[Step]) -> Iterator[tuple[tuple[int, str], ...]]:
    """Yield which columns of each statement's row name the job: the first that has each does."""
    missing = set(_IDENTITY)
    for step in steps:
        if step.text.lstrip().startswith(_NEW_JOB):
            missing.remove("id")
            yield ((_BY_DRIVER, "id"),)
            continue
        found = missing.intersection(step.columns)
        missing -= found
        yield tuple((index, name) for index, name in enumerate(step.columns) if name in found)
