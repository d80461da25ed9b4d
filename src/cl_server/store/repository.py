"""The store's SQL: entities, and what it reads of jobs, workers and events.

Jobs are changed through `cl_server_shared.SQLAlchemyJobRepository` alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session, aliased

from cl_ml_tools.jobs import DEFAULT_PRIORITY
from cl_server_shared.errors import DatabaseUnavailable
from cl_server_shared.models import (
    Job,
    JobAttempt,
    JobEvent,
    JobOptions,
    QueueEntry,
    WorkerInstance,
)
from cl_server_shared.sqlite_lock import begin_writing

from .models import Entity, StorageFolder

__all__ = [
    "EntityRecord",
    "EntityRepository",
    "JobReader",
    "JobRecord",
    "LiveProgress",
    "StorageFolders",
    "WorkerRecord",
]


@dataclass(frozen=True)
class EntityRecord:
    """An entity and how many it holds."""

    entity: Entity
    children_count: int


@dataclass(frozen=True)
class JobRecord:
    """A job's row and what other tables say about it.

    Attributes:
        job: The row.
        priority: 0 to 10.
        last_event_at: When it last changed its state; `None` where its events are gone.
    """

    job: Job
    priority: int
    last_event_at: int | None


@dataclass(frozen=True)
class LiveProgress:
    """How far a running job is."""

    job_id: str
    task_type: str
    progress: int
    attempt: int
    created_by: str | None


@dataclass(frozen=True)
class WorkerRecord:
    """A live worker: what it runs, the parameters' JSON Schema per task type, and its free places."""

    capabilities: dict[str, Any]
    free_places: int


class _Repository:
    def __init__(self, session_factory: Callable[[], Session]) -> None:
        self._session_factory = session_factory

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """Open a session; errors of the driver become ours here.

        Raises:
            DatabaseUnavailable: The database cannot be reached, is locked, or lacks the tables.
        """
        try:
            with self._session_factory() as session:
                session.expire_on_commit = False  # what was read is used after the session's end
                yield session
        except (OperationalError, ProgrammingError) as error:
            raise DatabaseUnavailable(f"the database cannot be used: {error.orig}") from error


class EntityRepository(_Repository):
    """Media files and collections."""

    def add_entity(self, entity: Entity) -> bool:
        """Store a new entity; False where one with the same bytes came first."""
        with self._session() as session:
            begin_writing(session)
            session.add(entity)
            try:
                session.commit()
            except IntegrityError:
                session.rollback()
                if entity.sha256 is None or self.find_by_sha256(entity.sha256) is None:
                    raise
                return False
        return True

    def get_entity(self, entity_id: int) -> EntityRecord | None:
        """Return the entity, or `None`."""
        return self._first(_entities().where(Entity.id == entity_id))

    def find_by_sha256(self, sha256: str) -> EntityRecord | None:
        """Return the entity with these bytes, or `None`."""
        return self._first(_entities().where(Entity.sha256 == sha256))

    def list_entities(
        self, *, offset: int, limit: int, md5: str | None, label: str | None
    ) -> tuple[list[EntityRecord], int]:
        """Return some entities, newest first, and how many there are in all.

        Args:
            offset: How many to leave out.
            limit: How many to return at most.
            md5: Only those with these bytes.
            label: Only those with exactly this label.
        """
        wanted = [
            column == value
            for column, value in ((Entity.md5, md5), (Entity.label, label))
            if value is not None
        ]
        page = _entities().where(*wanted).order_by(Entity.id.desc()).offset(offset).limit(limit)
        with self._session() as session:
            total = session.scalar(select(func.count()).select_from(Entity).where(*wanted)) or 0
            return [EntityRecord(entity, count) for entity, count in session.execute(page)], total

    def list_ancestors(self, entity_id: int, limit: int) -> list[Entity]:
        """Return an entity and what it is in, up to the root, `limit` of them at most."""
        found: list[Entity] = []
        next_id: int | None = entity_id
        with self._session() as session:
            while next_id is not None and len(found) < limit:
                entity = session.get(Entity, next_id)
                if entity is None:
                    break
                found.append(entity)
                next_id = entity.parent_id
        return found

    def _first(self, query: Select[Any]) -> EntityRecord | None:
        with self._session() as session:
            row = session.execute(query).first()
            return EntityRecord(row[0], row[1]) if row is not None else None


def _entities() -> Select[Any]:
    child = aliased(Entity)
    children = select(func.count()).where(child.parent_id == Entity.id).scalar_subquery()
    return select(Entity, children)


class JobReader(_Repository):
    """What the store shows of jobs, workers and progress."""

    def get_job(self, job_id: str) -> JobRecord | None:
        """Return the job, or `None`."""
        with self._session() as session:
            row = session.execute(_jobs().where(Job.job_id == job_id)).first()
            return JobRecord(row[0], row[1], row[2]) if row is not None else None

    def list_jobs(
        self,
        *,
        status: str | None,
        task_type: str | None,
        created_by: str | None,
        before_id: int | None,
        limit: int,
    ) -> list[JobRecord]:
        """Return jobs, newest first.

        Args:
            status: Only those in this stored status.
            task_type: Only those of this task.
            created_by: Only those of this maker.
            before_id: Only those older than the job with this `jobs.id`.
            limit: How many to return at most.
        """
        filters = ((Job.status, status), (Job.task_type, task_type), (Job.created_by, created_by))
        query = _jobs().where(*(column == value for column, value in filters if value is not None))
        if before_id is not None:
            query = query.where(Job.id < before_id)
        with self._session() as session:
            rows = session.execute(query.order_by(Job.id.desc()).limit(limit))
            return [JobRecord(job, priority, event_at) for job, priority, event_at in rows]

    def list_attempts(self, row_id: int) -> list[JobAttempt]:
        """Return what is kept of a job's attempts, oldest first.

        Args:
            row_id: The job's `jobs.id`.
        """
        query = select(JobAttempt).where(JobAttempt.entry_id == row_id).order_by(JobAttempt.id)
        with self._session() as session:
            return list(session.scalars(query))

    def has_idempotency_key(self, key: str) -> bool:
        """Return whether a job was made with this key."""
        query = select(JobOptions.id).where(JobOptions.idempotency_key == key)
        with self._session() as session:
            return session.scalar(query) is not None

    def count_live_jobs(self, limit: int) -> int:
        """Return how many jobs wait or run; it counts no further than `limit`."""
        entries = select(QueueEntry.id).limit(limit).subquery()
        with self._session() as session:
            return session.scalar(select(func.count()).select_from(entries)) or 0

    def count_live_jobs_by_user(self) -> dict[str | None, int]:
        """Return how many jobs of each maker wait or run."""
        # From the queue to its jobs: as a join, SQLite goes through every job that ever was.
        maker = select(Job.created_by).where(Job.id == QueueEntry.id).scalar_subquery()
        entries = select(maker.label("created_by")).select_from(QueueEntry).subquery()
        query = select(entries.c.created_by, func.count()).group_by(entries.c.created_by)
        with self._session() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def list_progress(self) -> list[LiveProgress]:
        """Return how far each running job is."""
        query = (
            select(Job.job_id, Job.task_type, Job.progress, Job.retry_count + 1, Job.created_by)
            .join(QueueEntry, QueueEntry.id == Job.id)
            .where(QueueEntry.claimed_by.is_not(None))
        )
        with self._session() as session:
            return [LiveProgress(*row) for row in session.execute(query)]

    def list_workers(self, now_ms: int) -> list[WorkerRecord]:
        """Return the workers whose lease holds and that serve others.

        Args:
            now_ms: The time, in milliseconds since the epoch.
        """
        query = select(
            WorkerInstance.capabilities, WorkerInstance.concurrency - WorkerInstance.running
        ).where(WorkerInstance.lease_expires_at > now_ms, WorkerInstance.concurrency > 0)
        with self._session() as session:
            return [
                WorkerRecord(json.loads(capabilities), free_places)
                for capabilities, free_places in session.execute(query)
            ]

    def check_database(self) -> None:
        """Raise `DatabaseUnavailable` unless the database answers."""
        with self._session() as session:
            session.execute(text("SELECT 1"))


def _jobs() -> Select[Any]:
    priority = func.coalesce(QueueEntry.priority, JobOptions.priority, DEFAULT_PRIORITY)
    last_event = (
        select(func.max(JobEvent.created_at)).where(JobEvent.entry_id == Job.id).scalar_subquery()
    )
    return (
        select(Job, priority, last_event)
        .outerjoin(QueueEntry, QueueEntry.id == Job.id)
        .outerjoin(JobOptions, JobOptions.id == Job.id)
    )


class StorageFolders(_Repository):
    """Which storage folders belong to this database."""

    def find_marker(self, kind: str) -> str | None:
        """Return what the marker file of that folder says, or `None` at the first start."""
        with self._session() as session:
            folder = session.get(StorageFolder, kind)
            return folder.marker if folder is not None else None

    def add_marker(self, kind: str, marker: str, now_ms: int) -> str:
        """Remember a folder's marker; where another process was quicker, return that one's."""
        with self._session() as session:
            begin_writing(session)
            session.add(StorageFolder(kind=kind, marker=marker, created_at=now_ms))
            try:
                session.commit()
            except IntegrityError:
                session.rollback()
        return self.find_marker(kind) or marker
