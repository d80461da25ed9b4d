"""The first code of each child: `python -m cl_server.supervisor.child NAME LIFELINE REPORTS ARG...`.

It runs the command line with the arguments, and watches the lifeline: a pipe on which nothing is
ever sent, and which ends when the supervisor does, however that dies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib import import_module

from cl_server.supervisor.reporting import open_reports

__all__ = ["watch_lifeline"]

# A worker gives back its jobs in 7 s; who takes longer is not coming back.
LAST_SECONDS = 9.0


def watch_lifeline(descriptor: int) -> None:
    """End this process, and its group, once the supervisor is gone.

    Args:
        descriptor: The pipe's end that is read.
    """
    os.read(descriptor, 1)  # returns at the end only
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _main() -> int:
    name, lifeline, reports, *arguments = sys.argv[1:]
    for descriptor in (int(lifeline), int(reports)):
        os.set_inheritable(descriptor, False)
    open_reports(name, int(reports))
    threading.Thread(target=watch_lifeline, args=(int(lifeline),), daemon=True).start()
    sys.argv[:] = ["cl-server", *arguments]
    # By name: the supervisor does not depend on the command line that it starts.
    exit_code: int = import_module("cl_server.__main__").main()
    return exit_code


if __name__ == "__main__":
    sys.exit(_main())
