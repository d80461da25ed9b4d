"""What a child tells its supervisor: facts as JSON lines, over a pipe that only the two have."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["is_supervised", "open_reports", "report"]

_reports: tuple[str, int] | None = None


def open_reports(name: str, descriptor: int) -> None:
    """Say under which name, and where to, this process reports.

    Args:
        name: The child's, as the supervisor knows it.
        descriptor: The pipe's end that is written to.
    """
    global _reports
    _reports = (name, descriptor)


def is_supervised() -> bool:
    """Return whether this process has a supervisor to report to."""
    return _reports is not None


def report(**facts: Any) -> None:
    """Tell the supervisor; without one, nothing happens. `ready=True` says that work has begun.

    Args:
        facts: JSON values; together under 4 KiB, which a pipe takes in one piece.
    """
    if _reports is None:
        return
    name, descriptor = _reports
    try:
        os.write(descriptor, json.dumps({"child": name, **facts}).encode() + b"\n")
    except BrokenPipeError:
        return  # the supervisor is gone, and this process about to follow
