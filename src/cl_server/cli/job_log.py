"""`cl-server jobs show --log`: what each attempt of a job left behind."""

from __future__ import annotations

from cl_server.cli.output import format_duration, format_time
from cl_server.client.models import Attempt

__all__ = ["print_attempts"]


def print_attempts(attempts: list[Attempt]) -> None:
    """Print each attempt: who ran it and when, its error, its traceback, its last output."""
    if not attempts:
        print("\nNothing is kept of its attempts.")
    for attempt in attempts:
        print(f"\n{_headline(attempt)}")
        for name in ("error", "traceback", "output"):
            text = attempt[name]
            if text:
                print(f"  {name}:")
                print("\n".join(f"    {line}" for line in text.rstrip().splitlines()))


def _headline(attempt: Attempt) -> str:
    parts = [f"attempt {attempt['attempt']}: {attempt['outcome']}"]
    if attempt["worker"]:
        parts.append(f"by {attempt['worker']}")
    parts.append(format_time(attempt["ended_at"]))
    if attempt["started_at"] is not None:
        parts.append(f"after {format_duration(attempt['ended_at'] - attempt['started_at'])}")
    return ", ".join(parts)
