"""`cl-server worker`: a worker by itself."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cl_ml_tools import MQTTBroadcaster, get_broadcaster, shutdown_broadcaster
from cl_ml_tools.errors import UnknownTask
from cl_ml_tools.jobs import MAX_TEXT_LENGTH
from cl_server.cli.databases import database_url, source_of
from cl_server.logs import configure_logging
from cl_server.migrations import SchemaTooNew, schema_state
from cl_server.supervisor.reporting import report
from cl_server.worker.loop import Worker
from cl_server.worker.presence import PresenceSettings
from cl_server.worker.process import ChildEnded, ModulesUnusable
from cl_server.worker.settings import Until, WorkerSettings
from cl_server_shared import Config, FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.engine import (
    create_database_engine,
    create_session_factory,
    sqlite_module,
)
from cl_server_shared.errors import DatabaseUnavailable
from cl_server_shared.maintenance import MaintenanceLoop, MaintenanceParts, RetentionLimits

from .failures import FAILED, CommandRefused

if TYPE_CHECKING:
    from types import FrameType

    from sqlalchemy import Engine

__all__ = ["main"]

logger = logging.getLogger(__name__)

SCHEMA_LOOK_SECONDS = 0.2
SCHEMA_REMINDER_SECONDS = 30.0

# Store and worker mostly start together: that one is a moment behind is no news.
SCHEMA_PATIENCE_SECONDS = 10.0

# How long the last events may keep a worker that has ended.
FLUSH_SECONDS = 2.0

# The broker is on this machine mostly; presence and the first events should find it connected.
CONNECT_SECONDS = 0.5


def main(
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at once; default: WORKER_CONCURRENCY, the cores."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Task types; default: WORKER_SUPPORTED_TASKS, else all."),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running jobs have after SIGTERM.")
    ] = 30.0,
    worker_id: Annotated[
        str | None, typer.Option("--id", help="What people call it; default: WORKER_ID.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Run one job, or exit if none is.")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Run until no job is due.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Its /metrics; default: WORKER_METRICS_PORT, none."),
    ] = None,
) -> None:
    """Run a worker: it claims jobs and runs them in child processes.

    Needs job workspaces (COMPUTE_STORAGE_DIR, else below CL_SERVER_DIR) and the store's database
    (WORKER_DATABASE_URL, else there too), which it never migrates: it waits until the store has.
    SIGTERM lets running jobs end within --grace seconds; what still runs then is put back at no
    cost. A second signal does so at once.
    """
    configure_logging(Config.LOG_LEVEL)
    _end_at_signals()
    if once and drain:
        raise CommandRefused("--once and --drain exclude each other")
    until: Until = "once" if once else "drained" if drain else "stopped"
    settings = WorkerSettings(
        worker_id=_worker_id(Config.WORKER_ID if worker_id is None else worker_id),
        concurrency=Config.WORKER_CONCURRENCY if concurrency is None else concurrency,
        task_types=_task_types(tasks),
        until=until,
        lease_seconds=Config.WORKER_LEASE_SECONDS,
        job_timeout_seconds=Config.WORKER_JOB_TIMEOUT_SECONDS,
        job_memory_bytes=Config.WORKER_JOB_MEMORY_BYTES,
        poll_interval_seconds=Config.WORKER_POLL_INTERVAL,
        grace_seconds=grace,
        log_level=Config.LOG_LEVEL.upper(),
        metrics_port=Config.WORKER_METRICS_PORT if metrics_port is None else metrics_port,
    )
    storage = FileStorageService(Config.COMPUTE_STORAGE_DIR)  # before it waits for anything
    engine = create_database_engine(database_url("WORKER_DATABASE_URL"), module=sqlite_module())
    try:
        _wait_for_schema(engine)
        _run(settings, engine, storage)
    except (UnknownTask, ModulesUnusable) as error:
        raise CommandRefused(str(error)) from error
    except ChildEnded as error:
        logger.error("no child process can start: %s", error)
        raise typer.Exit(FAILED) from error
    finally:
        shutdown_broadcaster()
        engine.dispose()


def _end_at_signals() -> None:
    """End with exit code 0 at SIGTERM and Ctrl-C, as long as nothing runs that must end first."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _worker_id(worker_id: str) -> str:
    """Return the worker's id, once it is certain to name one topic."""
    if (
        not worker_id.strip()
        or len(worker_id) > MAX_TEXT_LENGTH
        or not worker_id.isprintable()
        or any(character in "/+#" for character in worker_id)
    ):
        raise CommandRefused(
            f"the worker id {worker_id[:40]!r} cannot be the end of an MQTT topic: expected 1 to "
            f"{MAX_TEXT_LENGTH} printable characters, without / + #"
        )
    return worker_id


def _task_types(given: str | None) -> tuple[str, ...]:
    if given is None:
        return tuple(Config.WORKER_SUPPORTED_TASKS)
    task_types = tuple(part.strip() for part in given.split(",") if part.strip())
    if not task_types:
        raise CommandRefused(f"--tasks {given!r} names no task type")
    return task_types


def _run(settings: WorkerSettings, engine: Engine, storage: FileStorageService) -> None:
    broadcaster = get_broadcaster(
        Config.BROADCAST_TYPE,
        Config.MQTT_BROKER,
        Config.MQTT_PORT,
        username=Config.MQTT_USERNAME,
        password=Config.MQTT_PASSWORD,
        tls=Config.MQTT_TLS,
    )
    presence = PresenceSettings(
        topic_prefix=Config.CAPABILITY_TOPIC_PREFIX,
        worker_id=settings.worker_id,
        heartbeat_seconds=Config.MQTT_HEARTBEAT_INTERVAL,
    )
    broadcaster.set_will(presence.topic, "")
    if isinstance(broadcaster, MQTTBroadcaster):
        broadcaster.wait_connected(CONNECT_SECONDS)
    sessions = create_session_factory(engine)
    repository = SQLAlchemyJobRepository(sessions)
    maintenance = MaintenanceLoop(
        MaintenanceParts(
            sessions,
            lease_seconds=settings.lease_seconds,
            limits=RetentionLimits(Config.EVENT_RETENTION_HOURS, Config.JOB_RETENTION_DAYS),
            storage=storage,
        )
    )
    worker = Worker(
        settings,
        queue=repository,
        storage=storage,
        broadcaster=broadcaster,
        presence=presence,
        on_ready=lambda: report(ready=True),
    )
    try:
        with maintenance:
            asyncio.run(worker.run())
    finally:
        _end_at_signals()
        repository.flush_events(FLUSH_SECONDS)


def _wait_for_schema(engine: Engine) -> None:
    """Return once the store's tables are there; a worker never makes them.

    Raises:
        SchemaTooNew: A newer program has changed them.
    """
    told_at = time.monotonic() - SCHEMA_REMINDER_SECONDS + SCHEMA_PATIENCE_SECONDS
    while True:
        try:
            state = schema_state("store", engine)
        except DatabaseUnavailable as error:
            problem = f"{error} (see {source_of('WORKER_DATABASE_URL')})"
        else:
            if state == "current":
                return
            if state == "newer":
                raise SchemaTooNew("the store's database belongs to a newer CL Server")
            problem = f"the store's tables are {state}: start the store, which makes them"
        if time.monotonic() - told_at > SCHEMA_REMINDER_SECONDS:
            told_at = time.monotonic()
            logger.warning("waiting for the database: %s", problem)
        time.sleep(SCHEMA_LOOK_SECONDS)
