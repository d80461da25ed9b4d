"""How the command line shows things: JSON, tables for people, columns for other programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

__all__ = [
    "STATUS_STYLES",
    "AsJson",
    "format_age",
    "format_duration",
    "format_size",
    "format_time",
    "print_json",
    "print_json_line",
    "print_table",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

STATUS_STYLES = {
    "queued": "yellow",
    "processing": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
}

COLUMN_GAP = 2


def print_json(document: Any) -> None:
    """Print one JSON document, indented."""
    print(json.dumps(document, indent=2, ensure_ascii=not _shows_unicode(), default=str))


def print_json_line(document: Any) -> None:
    """Print one JSON document on one line, at once."""
    print(json.dumps(document, ensure_ascii=not _shows_unicode(), default=str), flush=True)


def _shows_unicode() -> bool:
    return sys.stdout.encoding.lower().replace("-", "") == "utf8"


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    styled: int = -1,
    wrap_last: bool = False,
) -> None:
    """Print rows: aligned on a terminal, else with tabs between and the headers first.

    Args:
        headers: A name for each column.
        rows: Text.
        styled: The column that holds a job's status, which colours it.
        wrap_last: Whether the last column is prose, which is broken to fit the terminal. All else
            is shown whole: a row that is too long goes on in the terminal's next line.
    """
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.cells import cell_len
    from rich.console import Console, ConsoleDimensions
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(headers, *rows, strict=True)]
    if wrap_last:
        widths[-1] = cell_len(headers[-1])
    table = Table(box=None, padding=(0, COLUMN_GAP, 0, 0), pad_edge=False, header_style="bold")
    for header, width in zip(headers[:-1], widths[:-1], strict=True):
        table.add_column(header, no_wrap=True, min_width=width)
    table.add_column(headers[-1], no_wrap=not wrap_last, overflow="fold")
    for row in rows:
        table.add_row(
            *(
                Text(cell, style=STATUS_STYLES.get(cell, "") if index == styled else "")
                for index, cell in enumerate(row)
            )
        )
    console = Console()
    needed = sum(widths) + COLUMN_GAP * (len(widths) - 1)
    console.size = ConsoleDimensions(max(console.width, needed), console.height)
    console.print(table)


def format_time(time_ms: int | None) -> str:
    """Return a time in this machine's zone; empty for none."""
    if time_ms is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ms / 1000))


def format_age(time_ms: int) -> str:
    """Return how long ago a time was: `5 s ago`, `2 h ago`, `3 d ago`."""
    age_seconds = max(0, int(time.time() - time_ms / 1000))
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if age_seconds >= seconds:
            return f"{age_seconds // seconds} {unit} ago"
    return f"{age_seconds} s ago"


def format_duration(duration_ms: float) -> str:
    """Return a duration as people say it: `0.3 s`, `2 min 5 s`, `3 h 12 min`."""
    seconds = duration_ms / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_size(size_bytes: int) -> str:
    """Return a size as people say it: `812 B`, `3.4 kB`, `12.0 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
