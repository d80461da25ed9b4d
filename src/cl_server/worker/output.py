"""What a child prints: log lines of the worker, and what is kept with the attempt."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

__all__ = ["ChildOutput"]

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 8 * 1024

# A module that prints in an endless loop shall not fill the disk with the worker's log.
MAX_LOGGED_LINES = 1000
TAIL_LINES = 5
MAX_TAIL_CHARACTERS = 500

# What is kept with an attempt: the end says why it ended.
MAX_KEPT_BYTES = 64 * 1024


class ChildOutput:
    """The reading end of a child's stdout and stderr.

    Args:
        descriptor: The pipe's reading end; closed by `close`.
        log: Takes one line, under the job that runs.

    Attributes:
        ended: Whether the last process that could print is gone.
    """

    def __init__(self, descriptor: int, log: Callable[[str], None]) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._log = log
        self._rest = b""
        self.ended = False
        self.start_job()

    def start_job(self) -> None:
        """Count lines anew, and forget what was printed before."""
        self._logged = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._kept = bytearray()

    @property
    def kept(self) -> str:
        """The last 64 KiB of what was printed since the job began."""
        return self._kept.decode("utf-8", "replace")

    @property
    def tail(self) -> str:
        """The last lines, as one."""
        return " | ".join(self._tail)[-MAX_TAIL_CHARACTERS:]

    def read(self) -> bool:
        """Log what was printed, 64 KiB at most; False where nothing is there now."""
        if self.ended:
            return False
        try:
            chunk = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        self.ended = not chunk
        self._kept += chunk
        del self._kept[:-MAX_KEPT_BYTES]
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self._take_rest()
        return bool(chunk)

    def drain(self) -> None:
        """Log all that was printed until now, up to a mebibyte: more is still being printed."""
        for _ in range(16):
            if not self.read():
                break
        self._take_rest()

    def close(self) -> None:
        """Close the pipe."""
        self.ended = True
        os.close(self.descriptor)

    def _take_rest(self) -> None:
        rest, self._rest = self._rest, b""
        self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = raw[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        if not line:
            return
        self._tail.append(line)
        self._logged += 1
        if self._logged <= MAX_LOGGED_LINES:
            self._log(line)
        elif self._logged == MAX_LOGGED_LINES + 1:
            self._log(f"more than {MAX_LOGGED_LINES} lines of output: the rest is not logged")
