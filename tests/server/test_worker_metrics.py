"""A worker's own `/metrics`."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from worker_harness import wait_until, workshop_in

from ports import free_port

RUNS = "cl_worker_job_run_seconds_count"
WAITS = "cl_worker_job_wait_seconds"


def counted(port: int, name: str = RUNS) -> dict[tuple[str, ...], float]:
    """What the worker has counted, by the labels of a series in the order of their names."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except URLError:
        return {}
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_a_worker_counts_how_long_its_attempts_take(tmp_path: Path) -> None:
    port = free_port()
    with workshop_in(tmp_path, WORKER_METRICS_PORT=str(port)) as shop:
        worker = shop.ready_worker()
        shop.wait_for_end(shop.add("nothing"))
        shop.wait_for_end(shop.add("finally_raise"))

        wait_until(
            lambda: counted(port) == {("completed", "act"): 1.0, ("failed", "act"): 1.0},
        )
        assert worker.terminate() == 0
    assert counted(port) == {}


def test_a_worker_counts_how_long_jobs_waited_the_first_time(tmp_path: Path) -> None:
    port = free_port()
    with workshop_in(tmp_path, WORKER_METRICS_PORT=str(port)) as shop:
        failing = shop.add("raise", max_retries=1)
        time.sleep(0.5)
        shop.ready_worker()
        wait_until(lambda: shop.row(failing)["retry_count"] == 1)
        shop.end_waiting()
        shop.wait_for_end(failing)

        assert counted(port, f"{WAITS}_count") == {("act",): 1.0}
        assert 0.5 <= counted(port, f"{WAITS}_sum")["act",] < 30


def test_a_port_that_is_taken_keeps_no_worker_from_working(tmp_path: Path) -> None:
    with socket.socket() as taken, workshop_in(tmp_path) as shop:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = shop.ready_worker("--metrics-port", str(port))

        assert shop.wait_for_end(shop.add("nothing"))["status"] == "completed"

        assert any(f"WORKER_METRICS_PORT={port}" in line["message"] for line in worker.log())
        assert worker.terminate() == 0


def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    with workshop_in(tmp_path) as shop:
        worker = shop.ready_worker()
        listening = Path(f"/proc/{worker.process.pid}/net/tcp").read_text().splitlines()[1:]
        inodes = {line.split()[9] for line in listening if line.split()[3] == "0A"}
        own = {str(link.readlink()) for link in Path(f"/proc/{worker.process.pid}/fd").iterdir()}
        assert own.isdisjoint({f"socket:[{inode}]" for inode in inodes})
