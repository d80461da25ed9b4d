"""Jobs: making them from uploads and entities, showing them, ending and deleting them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.errors import IllegalTransition
from cl_server.http.access import Identity
from cl_server.http.errors import Conflict, NotFound
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.control import CANCELLABLE_STATUSES, JobControl
from cl_server_shared.errors import UnknownJob
from cl_server_shared.ids import new_job_id

from .job_admission import JobAdmission
from .job_changes import change_jobs
from .job_draft import JobDraft, JobMaker
from .job_files import JobFiles, ReadAllowance
from .plain_json import parse_stored_json
from .repository import JobReader, JobRecord
from .schemas import (
    PUBLIC_STATUSES,
    Attempt,
    AttemptList,
    ChangedJobs,
    JobAnswer,
    JobChangeFields,
    JobPage,
    PublicStatus,
    stored_status,
)
from .storage_folders import MarkedFolder
from .task_catalogue import KnownTask

__all__ = ["LIST_READ_BYTES", "JobService"]

logger = logging.getLogger(__name__)

JOBS_PER_PAGE = 50

# What a page of jobs may read for digests that nobody has asked for yet: a tenth of a second.
LIST_READ_BYTES = 64 * 1024**2

# How often a request that waits for a job's end looks: a worker ends it within about a second.
LOOK_SECONDS = 0.1

# A job's events are deleted with it. One that was ended for that is kept so long that the streams of
# every store have told of its end: each looks ten times a second.
TELLING_SECONDS = 0.5


class JobService:
    """What one can do with jobs.

    Args:
        repository: Where jobs are changed.
        reader: Where they are read.
        storage: Their workspaces.
        maker: What turns a draft into a job.
        folder: The one below which the workspaces are.
        control: What ends them and runs them again.
        admission: What refuses more than may wait.
        cancel_wait_seconds: How long deleting a running job waits for its end.
    """

    def __init__(
        self,
        repository: SQLAlchemyJobRepository,
        reader: JobReader,
        storage: FileStorageService,
        maker: JobMaker,
        folder: MarkedFolder,
        *,
        control: JobControl,
        admission: JobAdmission,
        cancel_wait_seconds: float,
    ) -> None:
        self._repository = repository
        self._control = control
        self._admission = admission
        self._cancel_wait_seconds = cancel_wait_seconds
        self._reader = reader
        self._storage = storage
        self._files = JobFiles(storage)
        self._maker = maker
        self._folder = folder

    @asynccontextmanager
    async def draft_job(
        self, task: KnownTask, identity: Identity, idempotency_key: str | None
    ) -> AsyncIterator[JobDraft]:
        """Begin a job; unless it was added by the end of the block, nothing of it is left.

        Args:
            task: What it will run.
            identity: Who makes it.
            idempotency_key: Their name for this request, under which it makes one job only.

        Raises:
            WrongStorageFolder: The disk is not there any more.
            TooManyRequests: Too many jobs wait.
        """
        # Each user's keys are their own.
        key = f"{identity.sub}:{idempotency_key}" if idempotency_key is not None else None
        admitted = await run_in_threadpool(self._admit, identity, key)
        draft = JobDraft(new_job_id(), task, identity, key, self._storage, self._maker)
        try:
            yield draft
        finally:
            if admitted:
                self._admission.settle(identity.sub, added=draft.added)
            if not draft.added:
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(self._storage.cleanup_job, draft.job_id)

    def get_job(self, job_id: str, identity: Identity) -> JobAnswer:
        """Return the job.

        Raises:
            NotFound: There is none that this user may see.
        """
        return self._answer(self._get(job_id, identity), ReadAllowance())

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
        if not identity.may_administer:
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
        allowance = ReadAllowance(LIST_READ_BYTES)
        return JobPage(
            items=[self._answer(record, allowance) for record in page],
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

    def list_attempts(self, job_id: str, identity: Identity) -> AttemptList:
        """Return what is kept of a job's attempts.

        Raises:
            NotFound: There is no job that this user may see.
        """
        record = self._get(job_id, identity)
        rows = self._reader.list_attempts(record.job.id)
        return AttemptList(
            items=[Attempt.model_validate(row, from_attributes=True) for row in rows]
        )

    def cancel_job(self, job_id: str, identity: Identity) -> JobAnswer:
        """End a job that waits; have whoever runs it end one that runs.

        Raises:
            NotFound: There is none that this user may see.
            Conflict: It has completed or failed.
        """
        self._get(job_id, identity)
        with _told_as_problems():
            self._control.cancel_job(job_id)
        return self.get_job(job_id, identity)

    def retry_job(self, job_id: str, identity: Identity) -> JobAnswer:
        """Queue a failed or cancelled job as if it were new.

        Raises:
            NotFound: There is none that this user may see.
            Conflict: It runs, or has completed.
        """
        self._get(job_id, identity)
        with _told_as_problems():
            self._control.retry_job(job_id)
        return self.get_job(job_id, identity)

    def change_jobs(self, fields: JobChangeFields, identity: Identity) -> ChangedJobs:
        """Cancel or retry jobs that match, of those that this user may see.

        Raises:
            Unprocessable: Nothing narrows them down, or the status does not fit.
        """
        return change_jobs(self._control, fields, identity)

    async def delete_job(self, job_id: str, identity: Identity) -> None:
        """Delete a job with its files; one that waits or runs is cancelled first.

        Raises:
            NotFound: There is none that this user may see.
            Conflict: It runs and did not end in time; it has been asked to.
        """
        found = await run_in_threadpool(self._get, job_id, identity)
        give_up = time.monotonic() + self._cancel_wait_seconds
        while not await run_in_threadpool(self._ends_now, job_id):
            if time.monotonic() >= give_up:
                raise Conflict(
                    f"job {job_id} runs: it has been asked to end; delete it once it has ended"
                )
            await anyio.sleep(LOOK_SECONDS)
        if found.job.status in CANCELLABLE_STATUSES:
            await anyio.sleep(TELLING_SECONDS)
        await run_in_threadpool(self._repository.delete_job, job_id)
        await run_in_threadpool(self._storage.cleanup_job, job_id)

    def check_visible(self, job_id: str, identity: Identity) -> None:
        """Raise `NotFound` unless this user may see the job."""
        self._get(job_id, identity)

    def _admit(self, identity: Identity, key: str | None) -> bool:
        """Raise `TooManyRequests` where one more job is too many; a repeated request adds none.

        Returns:
            Whether it counts as one more until it is settled.
        """
        self._folder.check()
        if key is not None and self._reader.has_idempotency_key(key):
            return False
        self._admission.admit(identity.sub)
        return True

    def _ends_now(self, job_id: str) -> bool:
        """Have a job ended; return whether it is. Whoever waits for it hears of its end."""
        try:
            return self._control.cancel_job(job_id) == "cancelled"
        except (UnknownJob, IllegalTransition):
            return True

    def _get(self, job_id: str, identity: Identity) -> JobRecord:
        self._folder.check()  # without its disk every job would look as if it had no files
        record = self._reader.get_job(job_id)
        if record is None or not (identity.may_administer or record.job.created_by == identity.sub):
            raise NotFound(f"there is no job {job_id!r}")
        return record

    def _publish_output(self, record: JobRecord) -> None:
        if record.job.status == "completed":
            self._storage.publish_output(record.job.job_id, record.job.retry_count + 1)

    def _answer(self, record: JobRecord, allowance: ReadAllowance) -> JobAnswer:
        self._publish_output(record)
        job = record.job
        input_files, output_files = self._files.list_files(job.job_id, allowance)
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


@contextmanager
def _told_as_problems() -> Iterator[None]:
    try:
        yield
    except UnknownJob as error:  # deleted just now
        raise NotFound(str(error)) from error
    except IllegalTransition as error:
        status = PUBLIC_STATUSES[error.current]
        raise Conflict(
            f"job {error.job_id} is {status}: it cannot become {error.wanted}"
        ) from error


def _shown_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with `output_path`, where the task makes one file."""
    output_paths = params.get("output_paths") or []
    return {**params, "output_path": output_paths[0]} if len(output_paths) == 1 else params
