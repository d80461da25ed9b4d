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

    def add(self, call: Callable[[], None]) -> None:
        """Have a thread make the call, after those added before."""
        self._calls.put(call)
        if self._threads < self._size:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._calls.get()()
