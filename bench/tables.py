"""The results' tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .chart import PHASE_NAMES
from .claims import ClaimTimes
from .comparison import OURS, RAW, Compared, ratio_of
from .startup import Startup
from .targets import EMPTY, Target
from .throughput import Throughput, ratio

__all__ = [
    "claim_table",
    "compared_table",
    "peer_table",
    "startup_table",
    "target_table",
    "throughput_table",
    "wait_table",
]


def target_table(targets: Sequence[Target]) -> list[str]:
    """Return each target, what was measured, and whether that reaches it."""
    rows = []
    for target in targets:
        measured = target.problem if target.value is None else _figure(target.value, target.unit)
        limit = f"{'≤' if target.at_most else '≥'} {_figure(target.limit, target.unit)}"
        rows.append((target.name, str(measured), limit, "yes" if target.is_reached else "**no**"))
    return _table(("", "measured", "to reach", "reached"), rows)


def peer_table(peers: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return who was measured, and what each writes for a job."""
    return [
        "| queue | version | writes for one job, from added to finished |",
        "| --- | --- | --- |",
        *(f"| {name} | {version} | {writes} |" for name, version, writes in peers),
    ]


def compared_table(compared: Sequence[Compared]) -> list[str]:
    """Return a row per condition and phase, a column per side, and our part of raw."""
    sides = list(dict.fromkeys(each.side for each in compared))
    cells = {(each.condition, each.phase, each.side): each for each in compared}
    rows = []
    for condition in dict.fromkeys(each.condition for each in compared):
        for phase in dict.fromkeys(each.phase for each in compared):
            of_row = [cells[condition, phase, side] for side in sides]
            part = ratio_of(cells[condition, phase, OURS], cells[condition, phase, RAW])
            rows.append(
                (
                    f"{condition}: {PHASE_NAMES[phase]}",
                    *(_per_second(each) for each in of_row),
                    "-" if part is None else f"{part:.2f}",
                )
            )
    return _table(("database: what is done", *sides, "of raw"), rows)


def claim_table(found: Sequence[ClaimTimes]) -> list[str]:
    """Return how long a claim takes on each sample, and how much longer than on an empty one."""
    empty = {
        (each.database, each.task_types): each.milliseconds
        for each in found
        if each.sample == EMPTY
    }
    rows = [
        (
            f"{each.database}: {each.sample}",
            str(each.task_types),
            f"{median(each.milliseconds):.2f} ms",
            f"{ratio(each.milliseconds, empty[each.database, each.task_types]):.2f}",
        )
        for each in found
    ]
    return _table(("database", "task types", "median", "of an empty table's"), rows)


def throughput_table(measured: Sequence[Throughput]) -> list[str]:
    """Return each operation through the repository and on the bare driver."""
    rows = [
        (
            f"{each.sample}: {each.phase}",
            str(each.processes),
            f"{median(each.per_second):,.0f}",
            f"{median(each.raw_per_second):,.0f}",
            f"{each.ratio:.2f}",
        )
        for each in measured
    ]
    return _table(("database: what is done", "processes", "per second", "raw", "ratio"), rows)


def wait_table(measured: Sequence[Throughput]) -> list[str]:
    """Return how long claims took."""
    rows = [
        (each.sample, str(each.processes), *(f"{wait:.2f} ms" for wait in each.waits_ms))
        for each in measured
        if each.waits_ms is not None
    ]
    return _table(("database", "processes", "median wait", "99.9 %", "worst"), rows)


def startup_table(measured: Sequence[Startup]) -> list[str]:
    """Return how long starting takes."""
    rows = [
        (each.name, each.problem or _figure(each.median_ms, "ms"), str(len(each.milliseconds)))
        for each in measured
    ]
    return _table(("", "median", "runs"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _per_second(compared: Compared) -> str:
    if compared.problem is not None:
        return compared.problem
    return f"{compared.median_per_second:,.0f}" if compared.per_second else "-"


def _figure(value: float, unit: str) -> str:
    if not unit:
        return f"{value:.2f}"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
