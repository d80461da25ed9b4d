"""Being told of jobs on PostgreSQL: `LISTEN` on a connection of its own, on a thread of its own.

The thread looks by itself, on that connection: of many idle workers that one `NOTIFY` wakes, those
that lose the race for the job lose one round trip.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from ..database import Database
from ..errors import SharedError
from ..transaction import Transaction
from .connections import Connector
from .notifier import CHANNEL, Notifier
from .waiting import Look, Way, WayUnusable, look_now, look_until_found

__all__ = ["LISTENER", "Notifications"]

logger = logging.getLogger(__name__)

# As what the server knows the listener's connection (`pg_stat_activity.application_name`).
LISTENER = "cl-server listener"

# How long the listener sleeps before it looks whether it is still needed.
LISTEN_SECONDS = 1.0

# After so long a silence it tells itself something. A pooler in between, or a server that is gone
# without a word, would keep it silent forever.
PROBE_SECONDS = 20.0
ANSWER_SECONDS = 5.0

# Eight idle workers that all looked at once: 14 ms from a job's being added to its claim.
LEFT_TO_THE_EAGER_SECONDS = (0.004, 0.012)

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 10.0


class Notifications(Way):
    """`NOTIFY` after each commit that made a job claimable, `LISTEN` while somebody waits.

    Args:
        database: Where the jobs are.
        cursor: One on a connection to it.
    """

    name = "notify"

    def __init__(self, database: Database, cursor: Any) -> None:
        self._is_woken = False
        connector = Connector(cursor)
        self._notifier = Notifier(connector)
        self._listener = _Listener(database, connector)
        weakref.finalize(self, self._notifier.stop).atexit = False  # it has last words
        weakref.finalize(self, self._listener.stop)

    def wait(self, timeout_seconds: float, task_types: Sequence[str]) -> bool:
        """Look whenever it was told to, until there is a job or the time is over."""
        with self._listener.waiting(task_types) as waiter:
            self._is_woken = look_until_found(self, waiter.look, waiter.sleep, timeout_seconds)
        return self._is_woken

    def has_claimed(self, found: bool) -> None:
        """Be quick again after a job was claimed, and not after another was quicker."""
        if self._is_woken:
            self._is_woken, self._listener.is_eager = False, found

    def announce(self) -> None:
        """Have all who listen told."""
        self._notifier.announce()

    def close(self) -> None:
        """End both threads."""
        super().close()
        self._notifier.stop()
        self._listener.stop()
        self._listener.tell_all((False, None))


class _NotConnected(Exception):
    """The connection cannot be made, or was lost."""


class _Waiter:
    """One call that waits.

    Args:
        database: Where it looks first, by itself.
        task_types: What it waits for.
    """

    def __init__(self, database: Database, task_types: Sequence[str]) -> None:
        self.task_types = task_types
        self._database = database
        self._looks: SimpleQueue[Look | None] = SimpleQueue()
        self._newest: Look | None = None

    def tell(self, look: Look | None) -> None:
        """Wake it with what the listener saw; `None`: nobody listens any more."""
        self._looks.put(look)

    def look(self) -> Look:
        """Return what the listener saw last, or look where it did not."""
        newest, self._newest = self._newest, None
        if newest is not None:
            return newest
        with self._database.reading() as transaction:
            return look_now(self._database, transaction, self.task_types)

    def sleep(self, seconds: float) -> None:
        """Sleep until the listener has looked."""
        try:
            self._newest = self._looks.get(timeout=seconds)
            while not self._looks.empty():
                self._newest = self._looks.get_nowait()
        except Empty:
            return
        if self._newest is None:
            raise WayUnusable("what is told does not arrive; is there a connection pooler?")


class _Listener:
    """Listens for as long as it is not stopped, and looks for those who wait.

    Args:
        database: Where the jobs are.
        connector: Makes its connection.

    Attributes:
        is_eager: Whether it looks at once. Of many that are told of one job, the one that was the
            quickest last time does; the others leave it the time to claim.
    """

    def __init__(self, database: Database, connector: Connector) -> None:
        self._database = database
        self._connector = connector
        self._lock = threading.Lock()
        self._waiters: set[_Waiter] = set()
        self._thread: threading.Thread | None = None
        self.is_eager = True
        self._stopped = False
        self._was_heard = False

    @contextmanager
    def waiting(self, task_types: Sequence[str]) -> Iterator[_Waiter]:
        """Look for somebody from now on, whenever something was told."""
        waiter = _Waiter(self._database, task_types)
        with self._lock:
            self._waiters.add(waiter)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="cl-listen", daemon=True)
                self._thread.start()
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def stop(self) -> None:
        """Let the thread end soon."""
        self._stopped = True

    def _run(self) -> None:
        pause, is_lost = FIRST_PAUSE_SECONDS, False
        while not self._stopped:
            try:
                self._connect_and_listen()
            except _NotConnected as error:
                if not is_lost or self._was_heard:
                    logger.warning("not told of jobs, trying again meanwhile: %s", error)
                    pause = FIRST_PAUSE_SECONDS
                is_lost, self._was_heard = True, False
                time.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _connect_and_listen(self) -> None:
        import psycopg

        try:
            with closing(self._connector.connect(LISTENER)) as connection:
                self._listen(connection)
        except (psycopg.Error, SharedError) as error:
            raise _NotConnected(error) from error

    def _listen(self, connection: Any) -> None:
        """Listen until it is stopped, or told nothing of what it tells itself."""
        own = f"{CHANNEL}_{connection.info.backend_pid}"
        connection.execute(f"LISTEN {CHANNEL}; LISTEN {own}")
        self._look(connection)  # what came before was told to nobody
        silent_since, is_probed = time.monotonic() - PROBE_SECONDS, False
        while not self._stopped:
            channels = {
                notification.channel
                for notification in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1)
            }
            now = time.monotonic()
            if channels:
                self._was_heard, silent_since, is_probed = True, now, False
            if CHANNEL in channels:
                if not self.is_eager:
                    time.sleep(random.uniform(*LEFT_TO_THE_EAGER_SECONDS))
                self._look(connection)
            elif is_probed and now - silent_since > PROBE_SECONDS + ANSWER_SECONDS:
                if not self._was_heard:
                    self._stopped = True
                    self.tell_all(None)
                return
            elif not is_probed and now - silent_since >= PROBE_SECONDS:
                connection.execute(f"NOTIFY {own}")
                is_probed = True

    def _look(self, connection: Any) -> None:
        with self._lock:
            waiters = list(self._waiters)
        cursor = connection.cursor()
        for waiter in waiters:
            transaction = Transaction(cursor, "postgresql", None)
            waiter.tell(look_now(self._database, transaction, waiter.task_types))

    def tell_all(self, look: Look | None) -> None:
        """Wake everyone who waits; with `None` where nothing will ever come."""
        with self._lock:
            for waiter in self._waiters:
                waiter.tell(look)
