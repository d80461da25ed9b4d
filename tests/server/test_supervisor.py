"""The supervisor by itself; with real children it is tested in `test_up`."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_harness import wait_until

# The main thread blocks the signals, so another thread of the process takes them. That is what the
# main thread sees of one that comes just as it goes to sleep: nothing wakes it.
PROGRAM = """
import signal, threading
from cl_server.supervisor.supervisor import Supervisor

signal.signal(signal.SIGHUP, signal.SIG_DFL)
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
supervisor = Supervisor([], say=print, on_report=print, on_ready=print)
raise SystemExit(supervisor.run())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_does_not_wake_the_main_thread_ends_it_too(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM]) as process:
        try:
            wait_until(lambda: _catches(process.pid, signal.SIGHUP))  # the last that it sees to
            process.send_signal(number)
            assert process.wait(10) == 0
        finally:
            process.kill()


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
