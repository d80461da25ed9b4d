"""`python -m bench`: measure, and write `bench/results/`."""

from __future__ import annotations

import argparse
import os
import sys

from .report import Results, write_results
from .startup import measure_startup, measure_up
from .targets import check_startup, check_throughput
from .throughput import measure_throughput


def main() -> int:
    """Measure everything and write the results; 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure CL Server.")
    parser.add_argument("--quick", action="store_true", help="about a minute, less exact")
    parser.add_argument("--rounds", type=int, default=5, help="ratios per median (5)")
    parser.add_argument("--jobs", type=int, default=1200, help="jobs per phase and round (1200)")
    arguments = parser.parse_args()
    rounds, jobs = (3, 240) if arguments.quick else (arguments.rounds, arguments.jobs)
    os.environ["BROADCAST_TYPE"] = "none"  # the broker is not what is measured here

    throughput = measure_throughput(rounds, jobs, _say)
    _say("starting programs")
    startup = measure_startup(5 * rounds)
    _say("starting the server")
    up = measure_up(rounds)

    targets = check_throughput(throughput) + check_startup(startup, up)
    settings = {"rounds": rounds, "jobs per phase": jobs}
    print(write_results(Results(settings, targets, throughput, [*startup, up])).read_text())
    return 0 if all(target.is_reached for target in targets) else 1


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
