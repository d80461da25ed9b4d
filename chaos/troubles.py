"""What happens to a scene, one trouble at a time; each says whether there was anybody to befall."""

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

from cl_server_shared.wakeup.notifications import LISTENER

from .proxy import CuttingProxy
from .scene import LEASE_SECONDS, Role, Scene

__all__ = ["Trouble", "troubles_for"]

Trouble = Callable[[], bool]

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
        "a worker is killed": lambda: kill(pick(scene, frozen)),
        "a child is killed": lambda: kill_child(pick(scene, frozen)),
        "the store is killed": lambda: kill_store(scene),
        "the broker is killed": lambda: kill(scene.broker),
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


def kill(role: Role) -> bool:
    """Kill a process of the scene."""
    runs = role.runs
    role.kill()
    return runs


def kill_store(scene: Scene) -> bool:
    """Kill the store, unless it is still starting since the last time."""
    return scene.store_answers() and kill(scene.store)


def kill_child(worker: Role) -> bool:
    """Kill one child process of a worker."""
    children = child_pids(worker.pid) if worker.pid else []
    if children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(children), signal.SIGKILL)
            return True
    return False


def child_pids(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with contextlib.suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def freeze(worker: Role, frozen: set[Role]) -> bool:
    """Stop a worker, but not its child, until its lease is over, then let it go on."""
    pid = worker.pid
    if not pid:
        return False
    frozen.add(worker)
    os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        time.sleep(LEASE_SECONDS * 1.7)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        frozen.discard(worker)

    threading.Thread(target=thaw, daemon=True).start()
    return True


def hold_transaction(engine: Engine) -> bool:
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
    return True


def hold_lock(engine: Engine) -> bool:
    """Keep SQLite's one write lock for a moment."""

    def hold() -> None:
        with contextlib.suppress(SQLAlchemyError), engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            time.sleep(LEASE_SECONDS / 2)

    threading.Thread(target=hold, daemon=True).start()
    return True


def end_listeners(engine: Engine) -> bool:
    """End every connection that listens for notifications."""
    with engine.connect() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = :name"
            ),
            {"name": LISTENER},
        )
        return bool(ended.all())
