"""Idle workers of other queues on PostgreSQL and Redis: how soon they begin a job that is added.

python -m bench.waking_peers worker NAME ADDRESS FILE
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .peers.celery import BEGAN_VARIABLE, CeleryPeer, make_app
from .peers.peer import Peer
from .peers.pgqueuer import PgQueuerPeer
from .peers.procrastinate import ProcrastinatePeer
from .places import Places, PostgresqlDatabases, RedisDatabase, postgresql_url, redis_url
from .samples import PARAMS, Sample

__all__ = ["measure_peers"]

_EMPTY = Sample("empty")
_WARM_UP_JOBS = 20
_PATIENCE_SECONDS = 30.0


def measure_peers(jobs: int, pause: Callable[[], None]) -> Iterator[tuple[str, list[int]]]:
    """Yield each queue's name and how many nanoseconds each job took from added to begun.

    One idle worker, one job at a time; as `waking` does with ours.

    Args:
        jobs: How many.
        pause: Called between two jobs.
    """
    postgresql, redis = PostgresqlDatabases(postgresql_url()), RedisDatabase(redis_url())
    sides: list[tuple[Peer, Places]] = [
        (ProcrastinatePeer(), postgresql),
        (PgQueuerPeer(10), postgresql),
        (CeleryPeer(), redis),
    ]
    for peer, places in sides:
        if peer.is_installed and places.problem is None:
            yield f"{peer.name} {peer.version}", _measure(peer, places, jobs, pause)
    postgresql.close()


def _measure(peer: Peer, places: Places, jobs: int, pause: Callable[[], None]) -> list[int]:
    with ExitStack() as at_end:
        master = places.prepare(lambda address: peer.create(address, _EMPTY))
        address = places.copy(master)
        at_end.callback(places.discard, address)
        began = Path(f"/dev/shm/cl-bench-{os.getpid()}-{peer.module}")
        at_end.callback(began.unlink, missing_ok=True)
        began.touch()
        at_end.enter_context(_worker(peer, address, began))
        add = _adder(peer, address, at_end)
        took = []
        for number in range(_WARM_UP_JOBS + jobs):
            pause()
            add()
            added = time.time_ns()
            took.append(_wait_for_line(began, number) - added)
        return took[_WARM_UP_JOBS:]


def _adder(peer: Peer, address: str, at_end: ExitStack) -> Callable[[], Any]:
    """Return what adds a job and leaves it to the worker."""
    if isinstance(peer, CeleryPeer):
        app = make_app(address)
        at_end.callback(app.close)
        return partial(app.tasks["resize"].delay, PARAMS)
    queue = peer.open(address)
    at_end.callback(queue.close)
    return queue.add_one


def _wait_for_line(path: Path, number: int) -> int:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        lines = path.read_text().split()
        if len(lines) > number:
            return int(lines[number])
        if time.monotonic() > give_up:
            raise RuntimeError("the job does not begin")
        time.sleep(0.005)


@contextmanager
def _worker(peer: Peer, address: str, began: Path) -> Iterator[None]:
    if isinstance(peer, CeleryPeer):
        os.environ[BEGAN_VARIABLE] = str(began)
        with peer.served(address, 1):
            yield
        return
    command = [sys.executable, "-m", "bench.waking_peers", "worker", peer.module]
    process = subprocess.Popen([*command, address, str(began)])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def _work(module: str, address: str, descriptor: int) -> None:
    """Be one of the workers; each job writes when it begins."""

    def note_time() -> None:
        os.write(descriptor, f"{time.time_ns()}\n".encode())

    if module == "procrastinate":
        from procrastinate import App, PsycopgConnector

        app = App(connector=PsycopgConnector(conninfo=address))

        @app.task(name="resize")
        async def wake(params: dict[str, Any]) -> None:
            note_time()

        async with app.open_async():
            await app.run_worker_async(concurrency=10)
        return
    import asyncpg
    from pgqueuer import PgQueuer

    worker = PgQueuer.from_asyncpg_connection(await asyncpg.connect(address))

    @worker.entrypoint("resize")
    async def wake_too(job: Any) -> None:
        note_time()

    await worker.run(batch_size=10)


if __name__ == "__main__":
    _, _, name, where, file = sys.argv
    asyncio.run(_work(name, where, os.open(file, os.O_WRONLY | os.O_APPEND)))
