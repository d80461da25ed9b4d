"""What the processes of `test_maintenance.py` run: a maintenance loop, until it is killed.

    python maintaining_process.py URL LEASE_SECONDS

It prints a line once it runs, and ends cleanly when its standard input is closed.
"""

from __future__ import annotations

import logging
import sys

from sqlalchemy.orm import sessionmaker

from cl_ml_tools import shutdown_broadcaster
from cl_server_shared.maintenance import MaintenanceLoop, MaintenanceParts, RetentionLimits, relay
from job_backends import engine_for


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    relay.STEADY_SECONDS = 0.2  # no test has other live processes whose turn it is first
    url, lease_seconds = sys.argv[1], float(sys.argv[2])
    parts = MaintenanceParts(
        sessionmaker(bind=engine_for(url)),
        lease_seconds=lease_seconds,
        limits=RetentionLimits(event_hours=24, job_days=0),
    )
    with MaintenanceLoop(parts):
        print("runs", flush=True)
        sys.stdin.read()
    shutdown_broadcaster()


if __name__ == "__main__":
    main()
