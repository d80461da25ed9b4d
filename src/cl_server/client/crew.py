"""Threads that do calls one after the other, and that nobody has to wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["Crew"]


class Crew:
    """Threads that end with the process, whatever they wait for: Ctrl-C waits for none of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = 0
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._unfinished = 0
        self._finished = threading.Condition()

    def add(self, call: Callable[[], None]) -> None:
        """Have a thread make the call, after those added before."""
        with self._finished:
            self._unfinished += 1
        self._calls.put(call)
        if self._threads < self._size:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until all calls are made, or the time is over; return whether they are."""
        with self._finished:
            return self._finished.wait_for(lambda: self._unfinished == 0, timeout_seconds)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            try:
                call()
            finally:
                with self._finished:
                    self._unfinished -= 1
                    self._finished.notify_all()
