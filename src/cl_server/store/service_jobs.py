"""Jobs: making them from uploads and entities, showing them, deleting them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.errors import ClaimLost, IllegalTransition
from cl_ml_tools.jobs import TERMINAL_STATUSES
from cl_server.http.access import Identity
from cl_server.http.errors import Conflict, NotFound
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.ids import new_job_id

from .job_draft import JobDraft, JobMaker
from .job_files import JobFiles
from .plain_json import parse_stored_json
from .repository import JobReader, JobRecord
from .schemas import PUBLIC_STATUSES, JobAnswer, JobPage, PublicStatus, stored_status
from .storage_folders import MarkedFolder
from .task_catalogue import KnownTask

__all__ = ["JobService"]

logger = logging.getLogger(__name__)

JOBS_PER_PAGE = 50


class JobService:
    """What one can do with jobs.

    Args:
        repository: Where jobs are changed.
        reader: Where they are read.
        storage: Their workspaces.
        maker: What turns a draft into a job.
        folder: The one below which the workspaces are.
    """

    def __init__(
        self,
        repository: SQLAlchemyJobRepository,
        reader: JobReader,
        storage: FileStorageService,
        maker: JobMaker,
        folder: MarkedFolder,
    ) -> None:
        self._repository = repository
        self._reader = reader
        self._storage = storage
        self._files = JobFiles(storage)
        self._maker = maker
        self._folder = folder

    @asynccontextmanager
    async def draft_job(self, task: KnownTask) -> AsyncIterator[JobDraft]:
        """Begin a job; unless it was added by the end of the block, nothing of it is left.

        Args:
            task: What it will run.

        Raises:
            WrongStorageFolder: The disk is not there any more.
        """
        await run_in_threadpool(self._folder.check)
        draft = JobDraft(new_job_id(), task, self._storage, self._maker)
        try:
            yield draft
        finally:
            if not draft.added:
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(self._storage.cleanup_job, draft.job_id)

    def get_job(self, job_id: str, identity: Identity) -> JobAnswer:
        """Return the job.

        Raises:
            NotFound: There is none that this user may see.
        """
        return self._answer(self._get(job_id, identity), read_digests=True)

    def list_jobs(
        self,
        identity: Identity,
        *,
        status: PublicStatus | None,
        task_type: str | None,
        created_by: str | None,
        before_id: int | None,
    ) -> JobPage:
        """Return a page of the jobs that this user may see, newest first.

        Args:
            identity: Who asks.
            status: Only those in this status.
            task_type: Only those of this task.
            created_by: Only those of this maker.
            before_id: Only those behind this place, the last page's `next_cursor`.
        """
        self._folder.check()
        if not identity.is_admin:
            if created_by not in (None, identity.sub):
                return JobPage(items=[], next_cursor=None)
            created_by = identity.sub
        found = self._reader.list_jobs(
            status=stored_status(status) if status is not None else None,
            task_type=task_type,
            created_by=created_by,
            before_id=before_id,
            limit=JOBS_PER_PAGE + 1,
        )
        page = found[:JOBS_PER_PAGE]
        return JobPage(
            items=[self._answer(record, read_digests=False) for record in page],
            next_cursor=str(page[-1].job.id) if len(found) > len(page) else None,
        )

    def find_file(self, job_id: str, path: str, identity: Identity) -> Path:
        """Return where a file of the job's workspace is.

        Raises:
            NotFound: There is no such job or file.
            Forbidden: The path leads out of the workspace.
            BadRequest: It is a folder.
        """
        self._publish_output(self._get(job_id, identity))
        return self._files.find_file(job_id, path)

    def delete_job(self, job_id: str, identity: Identity) -> None:
        """Delete a job that does not run, with its files.

        Raises:
            NotFound: There is none that this user may see.
            Conflict: It runs.
        """
        record = self._get(job_id, identity)
        try:
            if record.job.status not in TERMINAL_STATUSES:
                # Whoever waits for it hears of its end, and no worker can claim it any more.
                self._cancel_queued(record)
            self._repository.delete_job(job_id)
        except (ClaimLost, IllegalTransition) as error:
            raise Conflict(f"job {job_id} runs: wait until it has ended, then delete it") from error
        self._storage.cleanup_job(job_id)

    def check_visible(self, job_id: str, identity: Identity) -> None:
        """Raise `NotFound` unless this user may see the job."""
        self._get(job_id, identity)

    def _cancel_queued(self, record: JobRecord) -> None:
        job = record.job
        if job.status == "processing":
            raise IllegalTransition(job.job_id, job.status, "cancelled")
        self._repository.update_job(job.job_id, status="cancelled")

    def _get(self, job_id: str, identity: Identity) -> JobRecord:
        self._folder.check()  # without its disk every job would look as if it had no files
        record = self._reader.get_job(job_id)
        if record is None or not (identity.is_admin or record.job.created_by == identity.sub):
            raise NotFound(f"there is no job {job_id!r}")
        return record

    def _publish_output(self, record: JobRecord) -> None:
        if record.job.status == "completed":
            self._files.publish_output(record.job.job_id, record.job.retry_count + 1)

    def _answer(self, record: JobRecord, *, read_digests: bool) -> JobAnswer:
        self._publish_output(record)
        job = record.job
        input_files, output_files = self._files.list_files(job.job_id, read_digests=read_digests)
        times = (job.created_at, job.started_at, job.completed_at, record.last_event_at)
        return JobAnswer(
            job_id=job.job_id,
            task_type=job.task_type,
            status=PUBLIC_STATUSES[job.status],
            progress=job.progress,
            params=_shown_params(parse_stored_json(job.params)),
            task_output=parse_stored_json(job.task_output or "null"),
            error_message=job.error_message,
            priority=record.priority,
            created_at=job.created_at,
            updated_at=max(time for time in times if time is not None),
            started_at=job.started_at,
            completed_at=job.completed_at,
            input_files=input_files,
            output_files=output_files,
            retry_count=job.retry_count,
            max_retries=job.max_retries,
            created_by=job.created_by,
        )


def _shown_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with `output_path`, where the task makes one file."""
    output_paths = params.get("output_paths") or []
    return {**params, "output_path": output_paths[0]} if len(output_paths) == 1 else params
