"""Log lines: for people on a terminal, JSON otherwise; with the request and the job they are about.

A line about one request or job carries its id: `bind_log_context(job_id=...)` puts it on every
line that is written within, in this task or thread.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO

from cl_server_shared.errors import InvalidSetting

__all__ = ["bind_log_context", "configure_logging"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))

# What every record has; anything else on it was passed as `extra=` and is shown.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's, for its own formatter
}


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _escape(control: re.Match[str]) -> str:
    return f"\\x{ord(control.group()):02x}"


@contextmanager
def bind_log_context(**ids: str) -> Iterator[None]:
    """Put ids (`request_id`, `job_id`) on every line that is logged within.

    Args:
        ids: Each id under its name; they join those already bound.
    """
    token = _context.set(MappingProxyType({**_context.get(), **ids}))
    try:
        yield
    finally:
        _context.reset(token)


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Send all log lines of this process, uvicorn's and Alembic's too, to one stream.

    Args:
        level: The lowest level shown: DEBUG, INFO, WARNING or ERROR.
        stream: Where to; `None`: standard error. Readable lines when it is a terminal, one JSON
            object a line otherwise.

    Raises:
        InvalidSetting: The level is not one of those.
    """
    name = level.strip().upper()
    if name not in LEVELS:
        raise InvalidSetting(f"LOG_LEVEL={level!r}: expected one of {', '.join(LEVELS)}")
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_HumanFormatter() if stream.isatty() else _JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(name)
    logging.captureWarnings(True)
    for noisy in ("uvicorn", "uvicorn.error", "alembic"):
        # Their news is ours to tell: what listens, what was migrated. Problems come through.
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


class _HumanFormatter(logging.Formatter):
    """`18:42:07 INFO    cl_server.auth: message  request_id=...`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, RUF100 - logging's name
        # What a client sent may be in a message: it must not begin a line of its own,
        # or speak to the terminal.
        line = super().formatMessage(record)
        details = " ".join(f"{name}={value}" for name, value in _details(record).items())
        return _CONTROL.sub(_escape, f"{line}  {details}" if details else line)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (milliseconds since the epoch), `level`, `logger`, `message`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": int(record.created * 1000),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_details(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _details(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**_context.get(), **extra}
