"""Turns: of several idle workers one watches, the others wait until it no longer does.

Each commit would wake all of them otherwise. A turn is a `flock`, so the kernel passes it on when
its holder goes to work, and also when it is killed. `flock` knows no time-out, so a thread per
waiting object waits in it; whoever gives up leaves the thread where it is, and takes up its place
in the queue again with the next try.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

__all__ = ["Turn", "Turns"]

logger = logging.getLogger(__name__)

# What this process has open: a forked child would hold its parent's turns beyond the parent's end.
_descriptors: set[int] = set()


def _close_inherited() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)


class Turn:
    """One wish for the turn: first waited for, then held, then over.

    Args:
        path: The lock file; made where it is not there, and left behind.

    Attributes:
        had_to_wait: Whether another held it when it was wished for.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.had_to_wait = False
        self._changed = threading.Condition()
        self._is_wanted = True
        self._is_held = False
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor: Optional[int] = os.open(path, flags, 0o600)
        _descriptors.add(self._descriptor)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._is_held = True
        except BlockingIOError:
            self.had_to_wait = True
            threading.Thread(
                target=self._wait_in_queue, args=[self._descriptor], name="cl-turn", daemon=True
            ).start()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for it; return whether it is held. If not, its place is kept until it comes."""
        with self._changed:
            if self._descriptor is None:
                return False
            self._is_wanted = True
            self._changed.wait_for(lambda: self._is_held or not self._is_wanted, timeout_seconds)
            self._is_wanted = self._is_held
            return self._is_held

    def end(self) -> None:
        """Let it go to whoever is next; also once nobody wishes for it any more."""
        with self._changed:
            self._is_wanted = False
            if self._is_held:
                self._close()
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether it came and went."""
        return self._descriptor is None

    def _wait_in_queue(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with self._changed:
            self._is_held = True
            if not self._is_wanted:
                self._close()
            self._changed.notify()

    def _close(self) -> None:
        assert self._descriptor is not None
        descriptor, self._descriptor = self._descriptor, None
        self._is_held = False
        _descriptors.discard(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that forks now has the descriptor, too
        os.close(descriptor)


class Turns:
    """The turns that one object takes, and the queues in which it kept its place.

    Args:
        database_path: The database's file; lock files are made beside it.
    """

    def __init__(self, database_path: Path) -> None:
        self._database_path = database_path
        self._lock = threading.Lock()
        self._queued: list[Turn] = []
        self._waited_for: set[Turn] = set()

    def take(self, task_types: Sequence[str], timeout_seconds: float) -> Optional[Turn]:
        """Wait for the turn among the idle workers with these task types.

        Args:
            task_types: In any order.
            timeout_seconds: How long at most.

        Returns:
            What is to be ended after; `None` where the time is over.

        Raises:
            OSError: The lock file cannot be opened.
        """
        turn = self._queued_before(self._path(task_types))
        if turn is not None and self._wait(turn, timeout_seconds):
            return turn
        if turn is None or turn.is_over:
            turn = Turn(self._path(task_types))
            if self._wait(turn, timeout_seconds):
                return turn
        with self._lock:
            self._queued.append(turn)
        return None

    def close(self) -> None:
        """Give up every place in a queue; whoever waits in one is told that the time is over."""
        with self._lock:
            given_up = [*self._queued, *self._waited_for]
            self._queued = []
        for turn in given_up:
            turn.end()

    def _wait(self, turn: Turn, timeout_seconds: float) -> bool:
        with self._lock:
            self._waited_for.add(turn)
        try:
            return turn.wait(timeout_seconds)
        finally:
            with self._lock:
                self._waited_for.discard(turn)

    def _queued_before(self, path: Path) -> Optional[Turn]:
        with self._lock:
            self._queued = [turn for turn in self._queued if not turn.is_over]
            for turn in self._queued:
                if turn.path == path:
                    self._queued.remove(turn)
                    return turn
        return None

    def _path(self, task_types: Sequence[str]) -> Path:
        text = "\0".join(sorted(task_types))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._database_path.with_name(f"{self._database_path.name}-idle-{digest}")
