"""What a running server takes while nothing is to do: memory and processor time, from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .startup import running_up

__all__ = ["Footprint", "measure_footprint"]

_PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
_PATIENCE_SECONDS = 60

# Long enough for renewals, presence and whatever else an idle worker does now and then.
_SETTLE_SECONDS = 3

# What a child loads for its module, in an interpreter without anything of ours around it.
_MODULE = "import PIL.Image, PIL.JpegImagePlugin, PIL.PngImagePlugin"
_OWN_MEMORY = "; print(open('/proc/self/status').read())"


@dataclass(frozen=True)
class Footprint:
    """What a worker of `cl-server up` takes once it has run jobs and waits for more.

    Attributes:
        supervisor_mb: Resident memory of its supervisor.
        child_mb: Of its largest child, less what the module itself takes.
        module_mb: What that is.
        idle_percent: Of a core, the supervisor and its children together.
        problem: Why there are none.
    """

    supervisor_mb: float | None = None
    child_mb: float | None = None
    module_mb: float | None = None
    idle_percent: float | None = None
    problem: str | None = None


def measure_footprint(seconds: float) -> Footprint:
    """Run `cl-server up`, have it resize the sample photos, and look at its worker.

    Args:
        seconds: For how long it is watched while it is idle.
    """
    if not Path("/proc/self/status").exists():
        return Footprint(problem="only Linux has /proc")
    module_mb = _run_alone(_MODULE) - _run_alone("pass")
    with TemporaryDirectory(prefix="cl-bench-") as folder:
        try:
            with running_up(folder, "--import", str(_PHOTOS)) as pid:
                return _watch(pid, module_mb, seconds)
        except OSError as error:
            return Footprint(problem=str(error))


def _watch(pid: int, module_mb: float, seconds: float) -> Footprint:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        workers = [
            each for each in _children(pid) if _runs(each, "cl_server.supervisor.child", "worker")
        ]
        children = [child for worker in workers for child in _children(worker)]
        if children and _cpu_seconds(children[0]) == _cpu_seconds_after(children[0], 1.0):
            break
        if time.monotonic() > give_up:
            return Footprint(problem="its worker has no children")
        time.sleep(0.1)
    time.sleep(_SETTLE_SECONDS)
    processes = [*workers, *children]
    before, began = sum(map(_cpu_seconds, processes)), time.monotonic()
    time.sleep(seconds)
    spent = sum(map(_cpu_seconds, processes)) - before
    return Footprint(
        max(map(_resident_mb, workers)),
        max(map(_resident_mb, children)) - module_mb,
        module_mb,
        100 * spent / (time.monotonic() - began),
    )


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _runs(pid: int, *words: str) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return all(word in command for word in words)


def _cpu_seconds(pid: int) -> float:
    """Return user and system time; the fields behind the command's name, which may have spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_seconds_after(pid: int, seconds: float) -> float:
    time.sleep(seconds)
    return _cpu_seconds(pid)


def _resident_mb(pid: int) -> float:
    return _resident_in(Path(f"/proc/{pid}/status").read_text())


def _resident_in(status: str) -> float:
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1_000_000


def _run_alone(statement: str) -> float:
    command = [sys.executable, "-c", statement + _OWN_MEMORY]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return _resident_in(ran.stdout)
