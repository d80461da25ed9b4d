"""Telling the idle workers on PostgreSQL: `NOTIFY` after the commit, on a thread of its own.

Inside the transaction that adds a job it would cost more than half of the commits: those that
notify commit one after another.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Optional

from ..errors import SharedError
from .connections import Connector

__all__ = ["CHANNEL", "Notifier"]

logger = logging.getLogger(__name__)

CHANNEL = "cl_server_jobs"

# How long a process that ends may be kept by what is still to be told.
LAST_WORDS_SECONDS = 1.0

# After a failure, so that a database that is away is not asked for each job.
PAUSE_SECONDS = 1.0


class Notifier:
    """Sends `NOTIFY`; what comes up while one is on its way goes out as one.

    Args:
        connector: Makes its connection.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        # Whether there is something to tell, or it is over. Its `put` may be called at any time,
        # also while rubbish is collected.
        self._inbox: SimpleQueue[bool] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._connection: Any = None
        self._has_failed = False

    def announce(self) -> None:
        """Have it told soon; never raises, never waits."""
        if self._thread is None:
            self._start()
        self._inbox.put(True)

    def stop(self) -> None:
        """Let the thread end once it has told what there is."""
        self._inbox.put(False)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="cl-notify", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the interpreter is about to end
                    logger.debug("nobody is told of a job any more: %s", error)
                    return
                self._thread = thread
                atexit.register(self._finish)

    def _finish(self) -> None:
        """Tell what is still to be told at the process's end, but do not keep it for long."""
        self.stop()
        if self._thread is not None:
            self._thread.join(LAST_WORDS_SECONDS)

    def _run(self) -> None:
        try:
            goes_on = True
            while goes_on:
                has_news, goes_on = self._take()
                while has_news and not self._tell():
                    time.sleep(PAUSE_SECONDS)
                    has_news = goes_on = goes_on and self._take_waiting()[1]
        finally:
            atexit.unregister(self._finish)
            self._disconnect()

    def _take(self) -> tuple[bool, bool]:
        """Wait until there is something in the inbox; return whether there is news, and no end."""
        first = self._inbox.get()
        has_news, goes_on = self._take_waiting()
        return first or has_news, first and goes_on

    def _take_waiting(self) -> tuple[bool, bool]:
        has_news, goes_on = False, True
        while True:
            try:
                item = self._inbox.get_nowait()
            except Empty:
                return has_news, goes_on
            has_news, goes_on = has_news or item, goes_on and item

    def _tell(self) -> bool:
        """Send `NOTIFY`, with a new connection where the old one was lost; return whether it went."""
        had_connection = self._connection is not None
        return self._notify() or (had_connection and self._notify())

    def _notify(self) -> bool:
        import psycopg

        try:
            if self._connection is None:
                self._connection = self._connector.connect("cl-server notifier")
            self._connection.execute(f"NOTIFY {CHANNEL}")
        except (psycopg.Error, SharedError) as error:
            self._disconnect()
            if not self._has_failed:
                logger.warning("idle workers cannot be told of jobs, they will look: %s", error)
            self._has_failed = True
            return False
        self._has_failed = False
        return True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
