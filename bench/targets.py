"""What is to be reached, and whether it was."""

from __future__ import annotations

from dataclasses import dataclass

from .startup import Startup
from .throughput import Throughput, ratio

EMPTY = "empty"
FULL_SAMPLES = ("100 k finished", "100 k waiting of another type")


@dataclass(frozen=True)
class Target:
    """One figure and its limit.

    Attributes:
        name: What it is.
        value: What was measured; `None`: it could not be, see `problem`.
        limit: What is to be reached.
        at_most: Whether it is to stay below the limit; else above.
        unit: Of both.
        problem: Why there is no value.
    """

    name: str
    value: float | None
    limit: float
    at_most: bool
    unit: str = ""
    problem: str | None = None

    @property
    def is_reached(self) -> bool:
        """Whether the value is within its limit."""
        if self.value is None:
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def check_throughput(measured: list[Throughput]) -> list[Target]:
    """Return what the repository has to reach."""
    found = {(each.sample, each.processes, each.phase): each for each in measured}
    one, eight = found[EMPTY, 1, "claim"], found[EMPTY, 8, "claim"]
    assert eight.waits_ms is not None
    targets = [
        Target(f"{phase} of raw, {sample}", found[sample, 1, phase].ratio, 0.5, at_most=False)
        for phase in ("cycle", "plain cycle")
        for sample in (EMPTY, *FULL_SAMPLES)
    ]
    targets += [
        Target(
            f"time of a claim with {sample}, of an empty table's",
            ratio(one.per_second, found[sample, 1, "claim"].per_second),
            1.2,
            at_most=True,
        )
        for sample in FULL_SAMPLES
    ]
    return [
        *targets,
        Target(
            "eight claiming, of one", ratio(eight.per_second, one.per_second), 0.6, at_most=False
        ),
        Target("worst wait of eight claiming", eight.waits_ms[-1], 250, at_most=True, unit="ms"),
    ]


def check_startup(measured: list[Startup], up: Startup) -> list[Target]:
    """Return what starting has to reach."""
    found = {each.name: each for each in measured}
    ours, theirs = found["import cl_server_shared"], found["import sqlalchemy.orm, pydantic"]
    both = bool(ours.milliseconds and theirs.milliseconds)
    return [
        Target(
            "import cl_server_shared, of sqlalchemy.orm and pydantic",
            ratio(ours.milliseconds, theirs.milliseconds) if both else None,
            1.15,
            at_most=True,
            problem=ours.problem or theirs.problem,
        ),
        _time(found["cl-server --help"], 200),
        _time(up, 5000),
    ]


def _time(startup: Startup, limit_ms: float) -> Target:
    value = startup.median_ms if startup.milliseconds else None
    return Target(startup.name, value, limit_ms, at_most=True, unit="ms", problem=startup.problem)
