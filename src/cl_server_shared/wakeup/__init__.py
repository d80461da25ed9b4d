"""Waking idle workers when there is a job for them, instead of at the next poll.

Which way depends on the database:

    inotify        an SQLite file in WAL mode on Linux: the `-wal` file is watched (`wal_watch`)
    data_version   any other SQLite file: its version is read every 50 ms (`data_version`)
    notify         PostgreSQL: `NOTIFY` after the commit, `LISTEN` while idle (`notifications`)
    poll           all else: looks at intervals (`waiting`)

None of them is relied on: a worker claims at its poll interval, whatever it was told.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, Optional

from sqlalchemy import Engine
from sqlalchemy.event import contains, listen
from sqlalchemy.orm import Session

from ..database import Database
from ..errors import SharedError
from ..transaction import Transaction
from .connections import can_notify
from .data_version import DataVersion
from .notifications import Notifications
from .waiting import Poll, Way, WayUnusable
from .wal_watch import WalWatch, wal_path

__all__ = ["Wakeup"]

logger = logging.getLogger(__name__)


class Wakeup:
    """How a repository sleeps until there is a job for it, and wakes others when it has made one.

    Threads may share it. After a fork it begins anew: what it had open is the parent's.

    Args:
        database: Where the jobs are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._current: Optional[Way] = None
        self._has_waited = False
        self._left_to_parent: list[Way] = []
        self._pid = os.getpid()

    @property
    def way(self) -> str:
        """`inotify`, `data_version`, `notify` or `poll`.

        Raises:
            SharedError: The database cannot be used, so that nobody knows.
        """
        return self._chosen().name

    def wait(self, timeout_seconds: float, task_types: Sequence[str]) -> bool:
        """Sleep until a job is there, one has become due, or the time is over.

        Args:
            timeout_seconds: How long to sleep at most.
            task_types: What the caller last looked for in vain; none: whatever comes.

        Returns:
            True where a claim is worth it, False where the time is over.

        Raises:
            SharedError: The database cannot be used.
        """
        way = self._chosen()
        if not self._has_waited:
            self._has_waited = True
            logger.info("waiting for jobs, woken by %s", way.name)
        try:
            return way.wait(timeout_seconds, task_types)
        except WayUnusable as error:
            self._replace(way, error)
            return False

    def has_claimed(self, found: bool) -> None:
        """Take in whether a claim found something: who lost the race lets others go first."""
        if self._current is not None:
            self._current.has_claimed(found)

    def announce(self) -> None:
        """Wake who waits; to be called after a commit that made a job claimable. Never raises.

        SQLite's waiters see the commit itself.
        """
        if not self._can_announce():
            return
        try:
            self._chosen().announce()
        except SharedError as error:
            logger.warning("idle workers are not told of a job, they will look: %s", error)

    def announce_after_commit(self, session: Session, transaction: Transaction) -> None:
        """Do so once the caller's transaction is committed; what is needed for it is asked here.

        After the commit the session still has its connection, and it may be the pool's only one.
        """
        if self._can_announce():
            self._chosen(transaction.cursor)
        session.info[self] = True
        if not contains(session, "after_commit", self._announce_committed):
            listen(session, "after_commit", self._announce_committed)

    def close(self) -> None:
        """Let go of what is open; a later wait opens it again."""
        with self._lock:
            way, self._current = self._current, None
        if way is not None and self._pid == os.getpid():
            way.close()

    def _announce_committed(self, session: Session) -> None:
        if not session.in_nested_transaction() and session.info.pop(self, False):
            self.announce()

    def _can_announce(self) -> bool:
        return self._database.dialect == "postgresql" and can_notify(self._database)

    def _chosen(self, cursor: Any = None) -> Way:
        """Return the way in use; one is chosen at the first call.

        Args:
            cursor: On a connection to PostgreSQL that the caller has; `None`: one of the pool's.
        """
        if self._pid != os.getpid():
            self._after_fork()
        way = self._current
        if way is None:
            with self._lock:
                way = self._current = self._current or _choose(self._database, cursor)
        return way

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent's may have held it
        if self._current is not None:
            self._left_to_parent.append(self._current)  # else its connections would be closed here
        self._current = None
        self._pid = os.getpid()

    def _replace(self, way: Way, error: WayUnusable) -> None:
        """Go on without a way that does not work here."""
        with self._lock:
            if self._current is not way:
                return
            self._current = (
                Poll(self._database) if way.name == "notify" else DataVersion(self._database)
            )
            logger.warning("jobs are waited for by %s: %s", self._current.name, error)
        way.close()


def _choose(database: Database, cursor: Any) -> Way:
    if database.dialect == "postgresql":
        if not can_notify(database):
            return Poll(database)
        if cursor is not None:
            return Notifications(database, cursor)
        with database.reading() as transaction:
            return Notifications(database, transaction.cursor)
    if database.in_memory or not isinstance(database.bind, Engine):
        return Poll(database)
    watched = wal_path(database)
    if watched is None:
        return DataVersion(database)
    try:
        return WalWatch(database, watched)
    except WayUnusable as error:
        logger.info("the database's file is not watched: %s", error)
        return DataVersion(database)
