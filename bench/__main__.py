"""`python -m bench`: measure, and write `bench/results/`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .claims import CLAIM_SAMPLES, measure_claims
from .comparison import compare
from .conditions import CONDITIONS, Condition, Load
from .footprint import measure_footprint
from .peers import peers_on
from .peers.ours import OursPeer
from .places import Folders, Places, PostgresqlDatabases, RedisDatabase, postgresql_url, redis_url
from .report import RESULTS, Results, write_figures, write_results
from .samples import Sample
from .startup import measure_startup, measure_up
from .targets import (
    check_claims,
    check_comparison,
    check_footprint,
    check_startup,
    check_throughput,
)
from .throughput import measure_throughput


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: How many ratios each median has.
        jobs: How many jobs each phase of `throughput` has: with a few hundred, eight processes
            mostly begin and wait for the last one.
        load: How much the phases of a comparison do.
        conditions: Under what is compared.
        claim_samples: What the databases hold on which claims are measured.
        claims: How many claims each median is taken from.
        idle_seconds: For how long an idle worker is watched.
    """

    rounds: int
    jobs: int
    load: Load
    conditions: Sequence[Condition]
    claim_samples: Sequence[Sample]
    claims: int
    idle_seconds: float


PARTS = ("comparison", "claims", "throughput", "footprint", "startup")

FULLY = Extent(5, 2000, Load(750), CONDITIONS, CLAIM_SAMPLES, 100, 20)


def quickly() -> Extent:
    """Return an extent that shows that everything works, and no more."""
    return Extent(
        1,
        32,
        Load(8, batches=1, batch_size=50, drained=40),
        [condition for condition in CONDITIONS if not condition.sample.waiting],
        [
            replace(sample, finished=sample.finished // 1000, waiting=sample.waiting // 1000)
            for sample in CLAIM_SAMPLES
        ],
        10,
        2,
    )


def main() -> int:
    """Measure everything and write the results; 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure CL Server.")
    parser.add_argument(
        "--quick", action="store_true", help="a look whether all works; figures mean nothing"
    )
    parser.add_argument("--rounds", type=int, help=f"ratios per median ({FULLY.rounds})")
    parser.add_argument("--to", type=Path, default=RESULTS, help="the folder for the results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (all)")
    arguments = parser.parse_args()
    extent = quickly() if arguments.quick else FULLY
    if arguments.rounds:
        extent = replace(extent, rounds=arguments.rounds)
    os.environ["BROADCAST_TYPE"] = "none"  # the broker is not what is measured here
    results = measure(extent, arguments.only)
    print(write_results(results, arguments.to).read_text())
    if arguments.to == RESULTS and set(arguments.only) == set(PARTS):
        write_figures(results)
    return 0 if all(target.is_reached for target in results.targets) else 1


def measure(extent: Extent, parts: Collection[str]) -> Results:
    """Measure some of `PARTS`."""
    results = Results({"rounds": extent.rounds, "jobs per phase": extent.load.jobs}, peers=_peers())
    _measure_databases(extent, parts, results)
    if "throughput" in parts:
        results.throughput += measure_throughput(extent.rounds, extent.jobs, _say)
        results.targets += check_throughput(results.throughput)
    if "footprint" in parts:
        _say("watching an idle worker")
        results.targets += check_footprint(measure_footprint(extent.idle_seconds))
    if "startup" in parts:
        _say("starting programs, and the server")
        startup, up = measure_startup(5 * extent.rounds), measure_up(extent.rounds)
        results.startup += [*startup, up]
        results.targets += check_startup(startup, up)
    return results


def _measure_databases(extent: Extent, parts: Collection[str], results: Results) -> None:
    redis = RedisDatabase(redis_url())
    databases: dict[str, Places] = {
        "sqlite": Folders(),
        "postgresql": PostgresqlDatabases(postgresql_url()),
    }
    for database, places in databases.items():
        if places.problem is not None:
            results.versions[database] = places.problem
            continue
        results.versions[database] = places.version
        try:
            if "comparison" in parts:
                results.comparison += compare(
                    database, places, redis, extent.conditions, extent.rounds, extent.load, _say
                )
            if "claims" in parts:
                results.claims += measure_claims(
                    database, places, extent.rounds, extent.claims, extent.claim_samples, _say
                )
        finally:
            places.close()
    results.versions["redis"] = redis.problem or redis.version
    if "comparison" in parts:
        results.targets += check_comparison(results.comparison)
    results.targets += check_claims(results.claims)


def _peers() -> list[tuple[str, str, str]]:
    everybody = [OursPeer("sqlite"), *peers_on("sqlite", "NORMAL"), *peers_on("postgresql", "")]
    return [
        (peer.name, peer.version if peer.is_installed else "not installed", peer.writes)
        for peer in everybody
    ]


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
