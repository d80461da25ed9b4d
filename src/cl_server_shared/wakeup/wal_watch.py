"""Seeing commits of others as they are written: inotify on an SQLite database's `-wal` file."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from ..database import Database
from .data_version import Version
from .turns import Turn, Turns
from .waiting import NOTICE_SECONDS, Look, Way, WayUnusable, look_now, look_until_found

__all__ = ["WalWatch", "wal_path"]

logger = logging.getLogger(__name__)

# The event comes before the commit is visible: by some 0.5 ms, or by as long as the disk takes where
# the writer waits for it (`synchronous=FULL`). So the version is read again (20 us) six times within the
# first millisecond, and then less and less often, for a second in all. Once a commit was seen it is most
# likely the one that the event told of; should another have begun meanwhile, the later pauses are for
# that one.
FIRST_PAUSES_SECONDS = (0.000_2, 0.000_1, 0.000_1, 0.000_1, 0.000_2, 0.000_3)
LATER_PAUSES_SECONDS = (0.002, 0.007, 0.020, 0.070, 0.200, 0.700)

# Below this `poll` is too coarse; events gather meanwhile.
SHORT_SECONDS = 0.001

# How long whoever takes over the watch leaves the last one to claim what it went for.
HAND_OVER_SECONDS = (0.000_5, 0.001)


class WalWatch(Way):
    """Watches the `-wal` file while it is this object's turn.

    Args:
        database: Where the jobs are.
        path: The `-wal` file; it may come and go.

    Raises:
        WayUnusable: It cannot be watched here.
    """

    name = "inotify"

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._path = path
        self._turns = Turns(path.with_name(path.name[: -len("-wal")]))
        self._takes_turns = True
        self._lock = threading.Lock()
        # Closing one takes the kernel some milliseconds: those that are not in use are kept.
        self._idle = [_FileEvents(path)]

    def wait(self, timeout_seconds: float, task_types: Sequence[str]) -> bool:
        """Look whenever something was committed, until there is a job or the time is over."""
        give_up = time.monotonic() + timeout_seconds
        turn = self._take_turn(task_types, timeout_seconds)
        if turn is None and self._takes_turns:
            return False
        try:
            handed_over = turn is not None and turn.had_to_wait
            return self._watch(give_up, task_types, handed_over)
        finally:
            if turn is not None:
                turn.end()

    def close(self) -> None:
        """Close what is open but not in use."""
        super().close()
        self._turns.close()
        with self._lock:
            idle, self._idle = self._idle, []
        for events in idle:
            events.close()

    def _take_turn(self, task_types: Sequence[str], timeout_seconds: float) -> Optional[Turn]:
        """Return the turn; `None` where the time is over, or turns cannot be taken here."""
        if not self._takes_turns:
            return None
        try:
            return self._turns.take(task_types, timeout_seconds)
        except OSError as error:
            logger.info("each idle worker watches the database by itself: %s", error)
            self._takes_turns = False
            return None

    def _watch(self, give_up: float, task_types: Sequence[str], handed_over: bool) -> bool:
        with self._lock:
            events = self._idle.pop() if self._idle else None
        events = events or _FileEvents(self._path)
        try:
            with self._database.reading() as transaction:
                # From here on nothing is missed; what was begun before may become visible now.
                sleep = _Sleep(self, events, Version(transaction))

                def look() -> Look:
                    return look_now(self._database, transaction, task_types)

                if handed_over:
                    _leave_to_last_watcher(look)
                return look_until_found(self, look, sleep, give_up - time.monotonic())
        finally:
            with self._lock:
                self._idle.append(events)


class _Sleep:
    """Sleeps until another connection has committed.

    Args:
        way: What is waited by, until it is closed.
        events: What tells that something is written.
        version: What tells that it is committed.
    """

    def __init__(self, way: Way, events: _FileEvents, version: Version) -> None:
        self._way = way
        self._events = events
        self._version = version
        self._pauses: Iterator[float] = iter(FIRST_PAUSES_SECONDS + LATER_PAUSES_SECONDS)

    def __call__(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._version.has_changed():
            left = until - time.monotonic()
            if left <= 0 or self._way.is_closed:
                return
            pause = min(left, next(self._pauses, NOTICE_SECONDS))
            if self._events.wait(pause) and pause >= SHORT_SECONDS:  # else it is the same commit's
                self._pauses = iter(FIRST_PAUSES_SECONDS + LATER_PAUSES_SECONDS)
        self._pauses = iter(LATER_PAUSES_SECONDS)


class _FileEvents:
    """Tells that a file was written to, made or removed.

    Args:
        path: The file; its directory must be there.

    Raises:
        WayUnusable: It cannot be watched here.
    """

    def __init__(self, path: Path) -> None:
        try:
            import inotify_simple  # type: ignore[import-untyped]
        except ImportError as error:
            raise WayUnusable(f"inotify-simple is not there: {error}") from error
        self._path = path
        self._flags: Any = inotify_simple.flags
        try:
            self._inotify = inotify_simple.INotify()
            self._close = weakref.finalize(self, self._inotify.close)
            self._in_directory = self._inotify.add_watch(
                path.parent, self._flags.CREATE | self._flags.MOVED_TO
            )
        except OSError as error:
            raise _unusable(error) from error
        self._watch_file()

    def wait(self, seconds: float) -> bool:
        """Return as soon as something happened, and whether it did; at most after so long."""
        if seconds < SHORT_SECONDS:
            time.sleep(max(0.0, seconds))
            seconds = 0
        happened = False
        for event in self._inotify.read(timeout=seconds * 1000):
            if event.wd != self._in_directory:
                happened = True
            elif event.name == self._path.name:
                happened = True
                self._watch_file()
        return happened

    def close(self) -> None:
        """Let go of it."""
        self._close()

    def _watch_file(self) -> None:
        """Watch the file, where it is there; once it is made, the directory tells."""
        try:
            self._inotify.add_watch(self._path, self._flags.MODIFY)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(error) from error


def _unusable(error: OSError) -> WayUnusable:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EMFILE):  # their texts speak of disks and files
        hint = "; the user's share is used up, see /proc/sys/fs/inotify"
    return WayUnusable(f"inotify does not work here: {error}{hint}")


def _leave_to_last_watcher(look: Callable[[], Look]) -> None:
    """Wait until what the last watcher went for is claimed, but not for long."""
    for pause in HAND_OVER_SECONDS:
        if not look()[0]:
            return
        time.sleep(pause)


def wal_path(database: Database) -> Optional[Path]:
    """Return where the `-wal` file of a database is; `None` where it does without one."""
    with database.reading() as transaction:
        cursor = transaction.cursor
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            return None
        files = {row[1]: row[2] for row in cursor.execute("PRAGMA database_list").fetchall()}
    return Path(os.path.realpath(files["main"] + "-wal")) if files.get("main") else None
