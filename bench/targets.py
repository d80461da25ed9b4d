"""What is to be reached, and whether it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .claims import ClaimTimes
from .comparison import OURS, RAW, Compared, ratio_of
from .footprint import Footprint
from .startup import Startup
from .throughput import Throughput, ratio

EMPTY = "empty"
DATABASES = ("sqlite", "postgresql")

# The conditions under which a target counts, as `comparison.Condition` names them.
ALONE = "empty, 1 process"
FULL = "empty, 1 process, synchronous=FULL"

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
            "eight claiming, of one", ratio(eight.per_second, one.per_second), 0.7, at_most=False
        ),
        Target("99.9 % of eight claiming wait", eight.waits_ms[1], 50, at_most=True, unit="ms"),
        Target("worst wait of eight claiming", eight.waits_ms[2], 150, at_most=True, unit="ms"),
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


def check_comparison(found: Sequence[Compared]) -> list[Target]:
    """Return what CL Server has to reach beside the bare driver and beside its peers."""
    return [
        *(_of_raw(found, "add", "add one job", database, 0.5) for database in DATABASES),
        _over(found, "add", "add one job", "postgresql", "Procrastinate"),
        *(_of_raw(found, "bulk", "add 1,000 at once", database, 0.7) for database in DATABASES),
        _of_raw(found, "cycle", "full cycle", "sqlite", 0.6),
        _over(found, "cycle", "full cycle", "sqlite", "persist-queue"),
        _over(found, "cycle", "full cycle", "sqlite", "persist-queue", FULL),
        *(
            _of_raw(found, "drain", "drain in batches of 100", database, 0.7)
            for database in DATABASES
        ),
        _over(found, "drain", "drain in batches of 100", "sqlite", "litequeue"),
        _over(found, "drain", "drain in batches of 100", "sqlite", "huey"),
    ]


def check_claims(found: Sequence[ClaimTimes]) -> list[Target]:
    """Return how much longer than an empty table's each claim may take."""
    empty = {
        (each.database, each.task_types): each.milliseconds
        for each in found
        if each.sample == EMPTY
    }
    return [
        Target(
            f"claim of {each.task_types} task type{'s' if each.task_types > 1 else ''} with "
            f"{each.sample}, of an empty table's, {each.database}",
            ratio(each.milliseconds, empty[each.database, each.task_types]),
            1.2,
            at_most=True,
        )
        for each in found
        if each.sample != EMPTY
    ]


def check_footprint(found: Footprint) -> list[Target]:
    """Return what an idle worker may take."""
    return [
        Target(
            "memory of a worker's supervisor", found.supervisor_mb, 80, True, "MB", found.problem
        ),
        Target(
            "memory of its largest child, above its module's own",
            found.child_mb,
            70,
            True,
            "MB",
            found.problem,
        ),
        Target("an idle worker, of a core", found.idle_percent, 0.5, True, "%", found.problem),
    ]


def _of_raw(
    found: Sequence[Compared], phase: str, name: str, database: str, limit: float
) -> Target:
    ours, raw = (_find(found, database, phase, side) for side in (OURS, RAW))
    problem = ours.problem or raw.problem
    return Target(f"{name}, of raw, {database}", ratio_of(ours, raw), limit, False, "", problem)


def _over(
    found: Sequence[Compared],
    phase: str,
    name: str,
    database: str,
    peer: str,
    condition: str = ALONE,
) -> Target:
    ours, theirs = (_find(found, database, phase, side, condition) for side in (OURS, peer))
    problem = ours.problem or theirs.problem
    where = database if condition == ALONE else f"{database}, synchronous=FULL"
    return Target(f"{name}, of {peer}, {where}", ratio_of(ours, theirs), 1, False, "", problem)


def _find(
    found: Sequence[Compared], database: str, phase: str, side: str, condition: str = ALONE
) -> Compared:
    """Return a side's figures; without any where its database was not there."""
    for each in found:
        if (each.database, each.condition, each.phase, each.side) == (
            database,
            condition,
            phase,
            side,
        ):
            return each
    return Compared(database, condition, 1, phase, side, problem=f"no {database}")
