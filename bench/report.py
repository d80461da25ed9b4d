"""The results as JSON, for programs, and as Markdown, for people."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy

from .startup import Startup
from .targets import Target
from .throughput import Throughput

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        settings: With how many rounds and jobs.
        targets: What is to be reached.
        throughput: Through the repository, beside raw.
        startup: How long starting takes.
    """

    settings: dict[str, int]
    targets: list[Target]
    throughput: list[Throughput]
    startup: list[Startup]


def write_results(results: Results, folder: Path = RESULTS) -> Path:
    """Write `latest.json` and `latest.md` and return the latter's path."""
    conditions = _conditions()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(
        json.dumps({"conditions": conditions, **_as_data(results)}, indent=1) + "\n"
    )
    table = folder / "latest.md"
    table.write_text(as_markdown(results, conditions))
    return table


def as_markdown(results: Results, conditions: dict[str, Any]) -> str:
    """Return the results as tables."""
    lines = ["# Benchmark", "", "Written by `make bench`.", ""]
    lines += [f"- {name}: {value}" for name, value in (conditions | results.settings).items()]
    lines += ["", "## To reach", "", *_target_table(results.targets)]
    lines += ["", "## Through the repository, beside the bare driver", "", *_EXPLANATION, ""]
    lines += _throughput_table(results.throughput)
    lines += ["", "## Claims", "", *_wait_table(results.throughput)]
    lines += ["", "## Starting", "", *_startup_table(results.startup)]
    return "\n".join(lines) + "\n"


_EXPLANATION = (
    "Operations a second, median of the rounds. `raw` is the same statements in the same",
    "transactions on `sqlite3`, without checks, JSON and objects; the ratio is the median of the",
    "rounds' ratios. A cycle is add, claim and complete: as a worker does it, or (plain) with",
    "`add_job`, `fetch_next_job` and `update_job`.",
)


def _conditions() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sqlalchemy": sqlalchemy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def _as_data(results: Results) -> dict[str, Any]:
    return {
        **asdict(results),
        "targets": [asdict(each) | {"is_reached": each.is_reached} for each in results.targets],
        "throughput": [asdict(each) | {"ratio": each.ratio} for each in results.throughput],
    }


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _target_table(targets: list[Target]) -> list[str]:
    rows = []
    for target in targets:
        measured = target.problem if target.value is None else _figure(target.value, target.unit)
        limit = f"{'≤' if target.at_most else '≥'} {_figure(target.limit, target.unit)}"
        rows.append((target.name, str(measured), limit, "yes" if target.is_reached else "**no**"))
    return _table(("", "measured", "to reach", "reached"), rows)


def _throughput_table(measured: list[Throughput]) -> list[str]:
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


def _wait_table(measured: list[Throughput]) -> list[str]:
    rows = [
        (each.sample, str(each.processes), *(f"{wait:.2f} ms" for wait in each.waits_ms))
        for each in measured
        if each.waits_ms is not None
    ]
    return _table(("database", "processes", "median wait", "99.9 %", "worst"), rows)


def _startup_table(measured: list[Startup]) -> list[str]:
    rows = [
        (each.name, each.problem or _figure(each.median_ms, "ms"), str(len(each.milliseconds)))
        for each in measured
    ]
    return _table(("", "median", "runs"), rows)


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if unit else f"{value:.2f}"
