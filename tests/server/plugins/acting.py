"""A compute module that behaves, well or badly, as its job asks: for the tests of the worker.

It runs in a worker's child process. `params["do"]` names one of the functions below.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_ml_tools import ComputeModule, FinalError, Later

Progress = Callable[[int], None]


class Acting(ComputeModule):
    @property
    def supported_task_types(self) -> list[str]:
        return ["act"]

    async def process(
        self,
        job_id: str,
        task_type: str,
        params: dict[str, Any],
        progress_callback: Progress | None = None,
    ) -> dict[str, Any]:
        for path in params["output_paths"]:
            Path(path).write_text(f"written by {job_id}")
        action: Callable[..., Any] = globals()[f"do_{params['do']}"]
        assert progress_callback is not None
        output = action(params, progress_callback)
        return output if isinstance(output, dict) else {"status": "ok", "task_output": {}}


def do_nothing(params: dict[str, Any], progress: Progress) -> None:
    pass


def do_wait(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Say that it runs, and go on until the test says so."""
    progress(params.get("progress", 10))
    pid_file = Path(params["folder"]) / f"running-{os.getpid()}"
    pid_file.touch()
    while not (Path(params["folder"]) / "go").exists():
        time.sleep(0.01)
    (Path(params["folder"]) / f"ended-{os.getpid()}").touch()
    return {"status": "ok", "task_output": {"pid": os.getpid()}}


def do_count(params: dict[str, Any], progress: Progress) -> None:
    """Report every per cent, and leave time for each to be seen at times."""
    for per_cent in range(101):
        progress(per_cent)
        time.sleep(params.get("pause", 0.0))


def do_raise(params: dict[str, Any], progress: Progress) -> None:
    raise RuntimeError("the lens is dirty")


def do_finally_raise(params: dict[str, Any], progress: Progress) -> None:
    raise FinalError("there is no picture in it")


def do_later(params: dict[str, Any], progress: Progress) -> None:
    """Ask to be run later, once."""
    marker = Path(params["folder"]) / "asked-for-later"
    if not marker.exists():
        marker.touch()
        progress(50)
        print("the sun is not up yet")
        raise Later(3600)


def do_print(params: dict[str, Any], progress: Progress) -> None:
    print("click")
    logging.getLogger("camera").warning("the battery is low")


def do_error(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    return {"status": "error", "error": "the film has run out"}


def do_no_json(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    return {"status": "ok", "task_output": {"colours": {"red", "green"}}}


def do_no_result(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    return {"result": "fine"}


def do_large_output(params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    return {"status": "ok", "task_output": {"text": "x" * 20_000_000}}


def do_sys_exit(params: dict[str, Any], progress: Progress) -> None:
    print("the shutter is stuck")
    sys.exit(3)


def do_os_exit(params: dict[str, Any], progress: Progress) -> None:
    os._exit(4)


def do_kill_itself(params: dict[str, Any], progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def do_hang(params: dict[str, Any], progress: Progress) -> None:
    _say_that_it_runs(params)
    time.sleep(600)


def do_hang_with_gil(params: dict[str, Any], progress: Progress) -> None:
    _say_that_it_runs(params)
    ctypes.PyDLL(None).sleep(600)


def do_match_forever(params: dict[str, Any], progress: Progress) -> None:
    re.match("(a+)+$", "a" * 60 + "b")


def do_eat_memory(params: dict[str, Any], progress: Progress) -> None:
    eaten = []
    while True:
        eaten.append(b"x" * 10_000_000)
        time.sleep(0.01)


def do_eat_memory_elsewhere(params: dict[str, Any], progress: Progress) -> None:
    """In a process that it starts."""
    code = "import time\nx = b'x' * 400_000_000\ntime.sleep(600)"
    subprocess.run([sys.executable, "-c", code], check=True)


def do_allocate_too_much(params: dict[str, Any], progress: Progress) -> None:
    bytearray(20_000_000_000)


def do_print_a_lot(params: dict[str, Any], progress: Progress) -> None:
    for number in range(100_000):
        print("a line of output, number", number)
    print("y" * 1_000_000)


def do_print_rubbish(params: dict[str, Any], progress: Progress) -> None:
    sys.stdout.buffer.write(b"\xff\xfe\x00 no text \ud83d\n")
    os.write(2, b'{"kind": "outcome", "ok": true}\n')


def do_start_processes(params: dict[str, Any], progress: Progress) -> None:
    """Leave a process behind that outlives the job, then end as told."""
    left = subprocess.Popen(["sleep", "600"])
    (Path(params["folder"]) / f"left-{left.pid}").touch()
    if params["then"] == "return":
        return
    if params["then"] == "exit":
        os._exit(5)
    _say_that_it_runs(params)
    ctypes.PyDLL(None).sleep(600)


def do_fail_once(params: dict[str, Any], progress: Progress) -> None:
    marker = Path(params["folder"]) / "failed-once"
    if not marker.exists():
        marker.touch()
        raise RuntimeError("only the first time")


def do_raise_base_exception(params: dict[str, Any], progress: Progress) -> None:
    raise asyncio.CancelledError


def do_report_nonsense(params: dict[str, Any], progress: Progress) -> None:
    progress(101)


def _say_that_it_runs(params: dict[str, Any]) -> None:
    if "folder" in params:
        (Path(params["folder"]) / f"running-{os.getpid()}").touch()
