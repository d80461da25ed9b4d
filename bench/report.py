"""The results as JSON, for programs, and as Markdown and a chart, for people."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy

from .chart import as_svg
from .claims import ClaimTimes
from .comparison import Compared
from .startup import Startup
from .tables import (
    claim_table,
    compared_table,
    peer_table,
    startup_table,
    target_table,
    throughput_table,
    wait_table,
)
from .targets import ALONE, Target
from .throughput import Throughput

__all__ = [
    "RESULTS",
    "Results",
    "as_markdown",
    "write_figures",
    "write_results",
    "write_section",
]

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


@dataclass
class Results:
    """All that was measured.

    Attributes:
        settings: With how many rounds and jobs.
        peers: Of each peer its name, its version or why it is absent, and what it writes per job.
        versions: Of databases and servers.
        targets: What is to be reached.
        comparison: CL Server beside raw and beside its peers.
        claims: Claims, whatever else is in the tables.
        throughput: Each operation through the repository, beside raw.
        startup: How long starting takes.
        sections: Further text, under its title.
    """

    settings: dict[str, int]
    peers: list[tuple[str, str, str]]
    versions: dict[str, str] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    comparison: list[Compared] = field(default_factory=list)
    claims: list[ClaimTimes] = field(default_factory=list)
    throughput: list[Throughput] = field(default_factory=list)
    startup: list[Startup] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)


def write_results(results: Results, folder: Path = RESULTS) -> Path:
    """Write `latest.json`, `latest.md` and `latest.svg` and return the table's path."""
    conditions = _conditions() | results.versions
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(
        json.dumps({"conditions": conditions, **_as_data(results)}, indent=1) + "\n"
    )
    (folder / "latest.svg").write_text(as_svg(results.comparison, ALONE))
    table = folder / "latest.md"
    table.write_text(as_markdown(results, conditions))
    return table


def write_figures(results: Results, document: Path = DOCUMENT) -> None:
    """Put the figures into the page that explains them."""
    conditions = _conditions() | results.versions
    lines = [f"- {name}: {value}" for name, value in conditions.items()]
    write_section("figures", [*lines, "", *target_table(results.targets)], document)


def write_section(name: str, lines: Sequence[str], document: Path = DOCUMENT) -> None:
    """Put lines into the page that explains them, between the two marks of that name."""
    before, begin, rest = document.read_text().partition(f"<!-- {name}: written by make bench -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    document.write_text("\n".join([before + begin, "", *lines, "", end + after]))


def as_markdown(results: Results, conditions: dict[str, Any]) -> str:
    """Return the results as tables."""
    lines = ["# Benchmark", "", "Written by `make bench`; docs/performance.md says how.", ""]
    lines += [f"- {name}: {value}" for name, value in (conditions | results.settings).items()]
    lines += ["", "## To reach", "", *target_table(results.targets)]
    lines += ["", "## Beside other queues", "", "![Jobs a second](latest.svg)"]
    lines += ["", *peer_table(results.peers)]
    for database in dict.fromkeys(each.database for each in results.comparison):
        of_it = [each for each in results.comparison if each.database == database]
        lines += ["", f"### {database}: jobs a second", "", *compared_table(of_it)]
    lines += ["", "## A claim's transaction", "", *claim_table(results.claims)]
    lines += ["", "## Through the repository, beside the bare driver", "", *_EXPLANATION, ""]
    lines += throughput_table(results.throughput)
    lines += ["", "## Claims", "", *wait_table(results.throughput)]
    lines += ["", "## Starting", "", *startup_table(results.startup)]
    for title, text in results.sections.items():
        lines += ["", f"## {title}", "", "```", *text.splitlines(), "```"]
    return "\n".join(lines) + "\n"


_EXPLANATION = (
    "SQLite. Operations a second, median of the rounds. `raw` is the same statements in the same",
    "transactions on `sqlite3`, without checks, JSON and objects; the ratio is the median of the",
    "rounds' ratios. A cycle is add, claim and complete: as a worker does it, or (plain) with",
    "`add_job`, `fetch_next_job` and `update_job`.",
)


def _conditions() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "sqlite": f"{sqlite3.sqlite_version} (WAL, synchronous=NORMAL where nothing else is said)",
        "sqlalchemy": sqlalchemy.__version__,
        "system": f"{platform.system()} {platform.machine()}, {_memory_gb()} GB of memory",
        "cores": os.cpu_count(),
    }


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def _as_data(results: Results) -> dict[str, Any]:
    return {
        **asdict(results),
        "targets": [asdict(each) | {"is_reached": each.is_reached} for each in results.targets],
        "throughput": [asdict(each) | {"ratio": each.ratio} for each in results.throughput],
    }
