"""What happens to a scene, one trouble at a time: each a function of the scene and its database."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from .proxy import CuttingProxy
from .scene import LEASE_SECONDS, Role, Scene

__all__ = ["Trouble", "troubles_for"]

Trouble = Callable[[], None]

HELD_SECONDS = 4.0


def troubles_for(scene: Scene, engine: Engine, proxy: CuttingProxy | None) -> dict[str, Trouble]:
    """Return every trouble that can happen, by its name.

    Args:
        scene: To whom.
        engine: The database, not through the proxy.
        proxy: What stands before PostgreSQL; `None`: SQLite.
    """
    frozen: set[Role] = set()
    troubles: dict[str, Trouble] = {
        "a worker is killed": lambda: pick(scene, frozen).kill(),
        "a child is killed": lambda: kill_child(pick(scene, frozen)),
        "the store is killed": lambda: kill_store(scene),
        "the broker is killed": scene.broker.kill,
        "a worker is frozen past its lease": lambda: freeze(pick(scene, frozen), frozen),
        "a transaction is held open": lambda: hold_transaction(engine),
    }
    if proxy is not None:
        troubles["answers are lost after the commit"] = proxy.cut
        troubles["listening connections are ended"] = lambda: end_listeners(engine)
    else:
        troubles["the write lock is held"] = lambda: hold_lock(engine)
    return troubles


def pick(scene: Scene, frozen: set[Role]) -> Role:
    """Return one of the workers that run."""
    awake = [worker for worker in scene.workers if worker not in frozen]
    return random.choice(awake or scene.workers)


def kill_store(scene: Scene) -> None:
    """Kill the store, unless it is still starting since the last time."""
    if scene.store_answers():
        scene.store.kill()


def kill_child(worker: Role) -> None:
    """Kill one child process of a worker."""
    children = child_pids(worker.pid) if worker.pid else []
    if children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(children), signal.SIGKILL)


def child_pids(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with contextlib.suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def freeze(worker: Role, frozen: set[Role]) -> None:
    """Stop a worker, but not its child, until its lease is over, then let it go on."""
    pid = worker.pid
    if not pid:
        return
    frozen.add(worker)
    os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        time.sleep(LEASE_SECONDS * 1.7)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        frozen.discard(worker)

    threading.Thread(target=thaw, daemon=True).start()


def hold_transaction(engine: Engine) -> None:
    """Keep a snapshot open that nothing behind it can be cleaned away of."""

    def hold() -> None:
        with contextlib.suppress(SQLAlchemyError), engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            connection.execute(text("SELECT COUNT(*) FROM queue_entries"))
            time.sleep(HELD_SECONDS)

    threading.Thread(target=hold, daemon=True).start()


def hold_lock(engine: Engine) -> None:
    """Keep SQLite's one write lock for a moment."""

    def hold() -> None:
        with contextlib.suppress(SQLAlchemyError), engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            time.sleep(LEASE_SECONDS / 2)

    threading.Thread(target=hold, daemon=True).start()


def end_listeners(engine: Engine) -> None:
    """End every connection that listens for notifications."""
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query ILIKE 'listen%'"
            )
        )
