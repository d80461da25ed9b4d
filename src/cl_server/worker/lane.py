"""One thread for calls that may wait for the database, so that the event loop never does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["Lane"]

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """A thread that runs calls one after another, in the order in which they were made.

    Unlike an executor's, the thread is a daemon: a call that hangs in a network that is gone
    does not keep the worker from ending.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def call(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Have the thread run a function; what is returned waits for what it returns, or raises."""
        future: Future[T] = Future()
        self._calls.put((future, lambda: function(*args, **kwargs)))
        return asyncio.wrap_future(future)

    async def settle(self, timeout_seconds: float) -> bool:
        """Wait until the calls made so far have ended, or the time is over; return whether they have."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.call(lambda: None)
        except TimeoutError:
            return False
        return True

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - raised again where the call was made
                future.set_exception(error)
            else:
                future.set_result(result)
