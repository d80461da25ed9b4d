"""The store's application, put together from its parts."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from cl_ml_tools import __version__, shutdown_broadcaster
from cl_ml_tools.registry import find_tasks
from cl_server.http.access import AccessPolicy
from cl_server.http.application import OK, create_application
from cl_server.http.error_pages import problem_response
from cl_server.http.errors import Unavailable
from cl_server.http.tokens import TokenVerifier
from cl_server.migrations import migrate
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.control import JobControl
from cl_server_shared.engine import create_database_engine, create_session_factory, sqlite_module
from cl_server_shared.errors import SharedError
from cl_server_shared.event_log import EventLog
from cl_server_shared.maintenance import MaintenanceLoop, MaintenanceParts, RetentionLimits
from cl_server_shared.statistics import JobStatistics
from cl_server_shared.task_control import TaskControl

from .event_stream import EventFeed
from .job_admission import JobAdmission
from .job_draft import JobMaker
from .media_files import MediaFiles
from .metrics import StoreMetrics
from .repository import EntityRepository, JobReader, StorageFolders
from .routes_admin import admin_routes
from .routes_entities import entity_routes
from .routes_events import event_routes
from .routes_job_control import job_control_routes
from .routes_jobs import job_routes
from .routes_service import service_routes
from .routes_statistics import statistics_routes
from .service_admin import AdminService
from .service_entities import EntityService
from .service_jobs import JobService
from .settings import StoreSettings
from .storage_folders import MarkedFolder, WrongStorageFolder
from .task_catalogue import TaskCatalogue

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

# How long the last events may keep the service; what is left then goes out later.
FLUSH_SECONDS = 1.0

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Parts:
    """Everything that the store is made of; nothing is opened before it is used."""

    def __init__(self, settings: StoreSettings) -> None:
        self.policy = AccessPolicy(
            auth_disabled=settings.auth_disabled,
            guest_mode=lambda: not settings.read_auth_enabled,
        )
        self.engine = create_database_engine(
            settings.database_url, module=sqlite_module(), synchronous="FULL"
        )
        sessions = create_session_factory(self.engine)
        self.reader = JobReader(sessions)
        self.feed = EventFeed(EventLog(sessions), self.reader)
        folders = StorageFolders(sessions)
        self.folders = [
            MarkedFolder("media", settings.media_dir.absolute(), folders),
            MarkedFolder("compute", settings.compute_dir.absolute(), folders),
        ]
        self.files = MediaFiles(self.folders[0])
        self.entities = EntityService(EntityRepository(sessions), self.files)
        self.tasks = TaskCatalogue(
            find_tasks(),
            self.reader,
            TaskControl(sessions),
            cache_seconds=settings.capability_cache_seconds,
        )
        self.repository = SQLAlchemyJobRepository(sessions)
        self.statistics = JobStatistics(sessions)
        self.metrics = StoreMetrics(self.statistics)
        storage = FileStorageService(self.folders[1].path)
        maker = JobMaker(self.repository, self.entities, self.policy)
        self.control = JobControl(sessions)
        self.jobs = JobService(
            self.repository,
            self.reader,
            storage,
            maker,
            self.folders[1],
            control=self.control,
            admission=JobAdmission(
                self.reader,
                max_jobs=settings.max_waiting_jobs,
                max_jobs_per_user=settings.max_waiting_jobs_per_user,
            ),
            cancel_wait_seconds=settings.cancel_wait_seconds,
        )

        upkeep = MaintenanceParts(
            sessions,
            lease_seconds=settings.worker_lease_seconds,
            limits=RetentionLimits(settings.event_retention_hours, settings.job_retention_days),
            storage=storage,
            check_storage=self.folders[1].check,
        )
        self.maintenance = MaintenanceLoop(upkeep)
        self.admin = AdminService(upkeep.database, storage, self.folders[1])

    def open(self) -> None:
        """Bring the database up to date, make sure of the folders, and begin with maintenance."""
        migrate("store", self.engine)
        for folder in self.folders:
            folder.claim()
        self.files.delete_abandoned_uploads()
        self.maintenance.start()

    def close(self) -> None:
        """Let go of the broker and the database."""
        self.maintenance.stop()
        self.repository.flush_events(FLUSH_SECONDS)
        self.control.flush_events(FLUSH_SECONDS)
        shutdown_broadcaster()
        self.engine.dispose()

    def check(self) -> dict[str, str]:
        """Say of each dependency `ok` or what is wrong; details, which anybody could read, are logged."""
        states = {"database": OK, **{f"{folder.kind}_storage": OK for folder in self.folders}}
        try:
            self.reader.check_database()
        except SharedError as error:
            logger.error("%s", error)
            states["database"] = "it does not answer"
        for folder in self.folders:
            try:
                folder.check()
            except WrongStorageFolder as error:
                logger.error("%s", error)
                states[f"{folder.kind}_storage"] = "the folder is not there, or another one"
        return states


def create_app(settings: StoreSettings) -> FastAPI:
    """Return the store's application.

    Args:
        settings: Plain values; nothing else is read.

    Raises:
        DuplicateTask: Two installed modules serve one task type.
    """
    parts = _Parts(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(parts.open)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(parts.feed.run()),
                    tasks.create_task(_end_streams(app.state.stopping, parts.feed)),
                ]
                yield
                for task in running:
                    task.cancel()
        finally:
            await run_in_threadpool(parts.close)

    app = create_application(
        "store",
        "Media files and collections, jobs and their results, job events.",
        version=__version__,
        policy=parts.policy,
        verifier=TokenVerifier(settings.public_key_path),
        routers=[
            service_routes(__version__, parts.policy, parts.tasks),
            entity_routes(parts.entities, max_file_bytes=settings.max_upload_bytes),
            job_routes(parts.jobs, parts.tasks, max_file_bytes=settings.max_upload_bytes),
            job_control_routes(parts.jobs),
            event_routes(parts.feed, parts.jobs),
            statistics_routes(parts.statistics, parts.metrics),
            admin_routes(parts.admin),
        ],
        lifespan=lifespan,
        readiness=parts.check,
        observe=parts.metrics.observe_request,
        wake_up=lambda: parts.repository.wake_up,
    )
    app.state.feed = parts.feed
    app.add_exception_handler(WrongStorageFolder, _answer_wrong_folder)
    app.add_exception_handler(OSError, _answer_os_error)
    return app


async def _end_streams(stopping: asyncio.Event, feed: EventFeed) -> None:
    await stopping.wait()
    feed.end_streams()


async def _answer_wrong_folder(_request: Request, error: Exception) -> Response:
    logger.error("%s", error)
    return problem_response(Unavailable("a storage folder is not there: the operator must look"))


async def _answer_os_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        logger.error("the disk is full: %s", error)
        return problem_response(Unavailable("the server's disk is full", retry_after_seconds=60))
    raise error
