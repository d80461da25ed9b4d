"""A trace (`trace.py`) played on the bare driver: the "raw" side of a comparison."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg

from .trace import Call, Trace, set_pragmas

__all__ = ["Replayed"]


class Replayed:
    """One process's hold on a database that is equal to the one that was recorded.

    Args:
        url: A file's path, or a libpq URL.
        synchronous: SQLite's: `NORMAL` or `FULL`.
        trace: What to play.
    """

    def __init__(self, url: str, synchronous: str, trace: Trace) -> None:
        self._trace = trace
        self._is_postgresql = url.startswith("postgresql")
        self._connection: Any
        if self._is_postgresql:
            self._connection = psycopg.connect(url)
        else:
            self._connection = sqlite3.connect(url, isolation_level=None)
            set_pragmas(self._connection, synchronous)

    def run(self, phase: str) -> int:
        """Play a phase and return how many operations it had."""
        calls = self._trace.phases[phase]
        play = _play_postgresql if self._is_postgresql else _play_sqlite
        play(self._connection, calls)
        return self._trace.operations[phase]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _play_sqlite(connection: sqlite3.Connection, calls: Sequence[Call]) -> None:
    cursor = connection.cursor()
    for call in calls:
        if call.kind == "executemany":
            cursor.executemany(call.text, call.values)
            continue
        cursor.execute(call.text, call.values)
        if call.rows is not None:
            _check(call, len(cursor.fetchall()))


def _play_postgresql(connection: psycopg.Connection[Any], calls: Sequence[Call]) -> None:
    cursor = connection.cursor()
    pipeline = ExitStack()
    others: dict[str, Callable[[], Any]] = {
        "commit": connection.commit,
        "rollback": connection.rollback,
        "enter pipeline": lambda: pipeline.enter_context(connection.pipeline()),
        "leave pipeline": pipeline.close,
    }
    for call in calls:
        if call.kind == "execute":
            cursor.execute(call.text, call.values)
            if call.rows is not None:
                _check(call, len(cursor.fetchall()))
        elif call.kind == "executemany":
            cursor.executemany(call.text, call.values)
        elif call.kind == "autocommit":
            connection.autocommit = call.values
        else:
            others[call.kind]()


def _check(call: Call, rows: int) -> None:
    if rows != call.rows:
        raise RuntimeError(f"played, it returned {rows} rows, not {call.rows}: {call.text}")
