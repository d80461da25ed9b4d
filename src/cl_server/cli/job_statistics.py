"""How `cl-server jobs stats` looks."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from cl_server.cli.output import format_duration, print_table
from cl_server.client.models import JobStatistics, TaskTypeState

__all__ = ["print_statistics"]

OUTCOMES = ("completed", "failed", "cancelled", "retrying")
HEADERS = ("task", "waiting", "oldest", "later", "running", *OUTCOMES)

# People see these also where they are empty.
ALWAYS_SHOWN = ("task", "waiting", "running", "completed")

# What is shown where a number is nothing, so that the others stand out.
NOTHING = "-"


def print_statistics(statistics: JobStatistics) -> None:
    """Print a row for each task type: what waits and runs of it, and what ended."""
    ended: Counter[tuple[str, str]] = Counter()
    for each in statistics["ended"]:
        ended[each["task_type"], each["outcome"]] += each["count"]
    states = {state["task_type"]: state for state in statistics["task_types"]}
    limit = statistics["counted_at_most"]
    rows = []
    for name in sorted({*states, *(task_type for task_type, _ in ended)}):
        counts = (str(ended[name, outcome] or NOTHING) for outcome in OUTCOMES)
        rows.append((name, *_live(states.get(name), limit), *counts))
    remarks = {name: remark for name, state in states.items() if (remark := _remark(state))}
    if not sys.stdout.isatty():
        print_table((*HEADERS, "remark"), [(*row, remarks.get(row[0], "")) for row in rows])
    elif not rows:
        print("No job waits, runs or has ended lately, and no worker lives.")
    else:
        _print_for_people(rows, remarks, statistics["minutes"])


def _print_for_people(rows: Sequence[Sequence[str]], remarks: dict[str, str], minutes: int) -> None:
    """Print what fits a narrow terminal: no column that is empty, and remarks below the table."""
    from rich.console import Console
    from rich.text import Text

    shown = [
        index
        for index, header in enumerate(HEADERS)
        if header in ALWAYS_SHOWN or any(row[index] != NOTHING for row in rows)
    ]
    print_table([HEADERS[index] for index in shown], [[row[i] for i in shown] for row in rows])
    for name, remark in remarks.items():
        Console().print(Text(f"{name}: {remark}", style="yellow"))
    print(f"What ended is of the last {minutes} minutes.")


def _live(state: TaskTypeState | None, limit: int) -> tuple[str, str, str, str]:
    if state is None:
        return NOTHING, NOTHING, NOTHING, NOTHING
    seconds = state["oldest_waiting_seconds"]
    return (
        _number(state["waiting"], limit),
        NOTHING if seconds is None else format_duration(seconds * 1000),
        _number(state["not_yet_due"], limit),
        _number(state["running"], limit),
    )


def _number(count: int, limit: int) -> str:
    return f"{count}+" if count >= limit else str(count or NOTHING)


def _remark(state: TaskTypeState) -> str:
    """Return in words what keeps the jobs of a type from running."""
    limit = state["max_running"]
    remarks = [
        "paused" if state["paused"] else "",
        "jobs wait and no worker runs it" if state["waiting"] and not state["served"] else "",
        "" if limit is None else f"at most {limit} at once",
    ]
    return "; ".join(filter(None, remarks))
