"""A job while it is made: its files come in, its fields are checked, then it is added.

upload ──► workspace ──► fields ──► entities ──► the task's own check ──► files linked ──► row
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cl_ml_tools.errors import DuplicateJob, InvalidParams
from cl_ml_tools.jobs import Job
from cl_ml_tools.names import unique_paths
from cl_ml_tools.registry import validate_params
from cl_ml_tools.workspace import check_relative_path
from cl_server.http.access import MEDIA_READ, AccessPolicy, Identity, decide
from cl_server.http.errors import BadRequest, Conflict, NotFound, Unprocessable, as_listed
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository

from .job_files import JobFiles, ReadAllowance
from .job_form import FILE_FIELD, PATH_PARAMS, JobForm, parse_job_form
from .media_files import link_or_copy
from .multipart import Fields, FilePart
from .problems import Finding, finding, wrong_field
from .service_entities import EntityService, MediaContent
from .storage_folders import sync_folder
from .task_catalogue import KnownTask

__all__ = ["JobDraft", "JobMaker"]


@dataclass(frozen=True)
class JobMaker:
    """What a draft needs to become a job.

    Attributes:
        repository: Where it is added.
        entities: Whose files it may read.
        policy: What the operator opened.
    """

    repository: SQLAlchemyJobRepository
    entities: EntityService
    policy: AccessPolicy


class JobDraft:
    """A job that is not there yet.

    Args:
        job_id: Its id.
        task: What it will run.
        identity: Who makes it.
        idempotency_key: A second request with this key is the first job again.
        storage: Where its workspace is.
        maker: What it needs to become a job.
    """

    def __init__(
        self,
        job_id: str,
        task: KnownTask,
        identity: Identity,
        idempotency_key: str | None,
        storage: FileStorageService,
        maker: JobMaker,
    ) -> None:
        self.job_id = job_id
        self.added = False
        self._task = task
        self._identity = identity
        self._idempotency_key = idempotency_key
        self._storage = storage
        self._maker = maker
        self._digests: dict[str, str] = {}  # of each input, under its path in the workspace

    async def receive_file(self, part: FilePart) -> None:
        """Stream one uploaded file into the workspace.

        Raises:
            Unprocessable: It is in the wrong field, or its name is unsafe.
        """
        if part.field != FILE_FIELD:
            raise wrong_field(part.field, f"files go into the field {FILE_FIELD!r}")
        try:
            check_relative_path(part.filename)
        except ValueError as error:
            raise wrong_field(FILE_FIELD, str(error), "unsafe_path") from error
        saved = await self._storage.save_input_file(self.job_id, part.filename, part)
        self._digests[f"input/{saved['filename']}"] = saved["hash"]

    def add(self, fields: Fields) -> str:
        """Check everything and add the job.

        Args:
            fields: As read from the body.

        Returns:
            Its id; that of the first one, where the request was made before under the same key.

        Raises:
            Unprocessable: With everything that is wrong.
            Forbidden: It reads entities, and this user may not.
            Conflict: The idempotency key stands for a job with other content.
        """
        form = parse_job_form(fields, self._task.schema)
        media = self._find_media(form)
        inputs = self._name_inputs(media)
        params = self._checked_params(form, [*self._digests, *inputs])
        if form.problems:
            raise Unprocessable(form.problems)
        self._fill_workspace(inputs)
        job = Job(job_id=self.job_id, task_type=self._task.task_type, params=params)
        try:
            job_id = self._maker.repository.add_job(
                job,
                created_by=self._identity.sub,
                priority=form.options.priority,
                max_retries=form.options.max_retries,
                timeout_seconds=form.options.timeout_seconds,
                idempotency_key=self._idempotency_key,
            )
        except DuplicateJob as error:  # another task, or other parameters
            raise _key_is_taken(error.job_id) from error
        self.added = job_id == self.job_id
        if not self.added and self._input_digests(job_id) != self._digests:
            raise _key_is_taken(job_id)
        return job_id

    def _input_digests(self, job_id: str) -> dict[str, str | None]:
        """Return the digest of each input of a job that is there, under its path."""
        input_files, _ = JobFiles(self._storage).list_files(job_id, ReadAllowance())
        return {file.path: file.sha256 for file in input_files}

    def _find_media(self, form: JobForm) -> list[MediaContent]:
        if form.entity_ids:
            decide(self._identity, MEDIA_READ, self._maker.policy)
        found = []
        for entity_id in form.entity_ids:
            try:
                found.append(self._maker.entities.find_media(entity_id))
            except NotFound:
                form.problems.append(finding("entity_ids", f"there is no entity {entity_id}"))
            except BadRequest as error:
                form.problems.append(finding("entity_ids", error.detail))
        return found

    def _name_inputs(self, media: list[MediaContent]) -> dict[str, MediaContent]:
        """Return each entity's file under the path that it gets in the workspace."""
        paths = unique_paths([f"input/{content.name}" for content in media], self._digests)
        return dict(zip(paths, media, strict=True))

    def _checked_params(self, form: JobForm, inputs: list[str]) -> dict[str, Any]:
        """Return the parameters to store; what is wrong with them joins the form's problems."""
        params = {**form.params, "input_paths": form.params.get("input_paths", inputs)}
        try:
            if self._task.module is not None:
                params = validate_params(self._task.module, self._task.task_type, params)
        except InvalidParams as error:
            form.problems += _shown_problems(error, form, inputs)
            return params
        form.problems += _wrong_paths(params, inputs)
        return params

    def _fill_workspace(self, inputs: dict[str, MediaContent]) -> None:
        """Put the entities' files beside the uploaded ones, and all of it onto the disk."""
        job_path = self._storage.create_job_directory(self.job_id)
        for path, content in inputs.items():
            link_or_copy(content.path, job_path / path)
            self._digests[path] = content.sha256
        JobFiles(self._storage).remember_digests(self.job_id, self._digests)
        for folder in (job_path, job_path.parent):
            sync_folder(folder)


def _key_is_taken(job_id: str) -> Conflict:
    return Conflict(
        f"this Idempotency-Key stands for job {job_id}, which has other content: "
        "give each new request a new key"
    )


def _shown_problems(error: InvalidParams, form: JobForm, inputs: list[str]) -> list[Finding]:
    """Return what a task finds, in the words of the request."""
    shown = []
    asked_for_entities = form.entity_ids or any("entity_ids" in p["loc"] for p in form.problems)
    for problem in error.problems:
        if problem["loc"] == ["input_paths"] and not inputs:
            if not asked_for_entities:
                message = "this task reads files: upload one here, or name entity_ids"
                shown.append(finding(FILE_FIELD, message, "missing"))
        else:
            shown += as_listed([problem], within=("body",))
    return shown


def _wrong_paths(params: dict[str, Any], inputs: list[str]) -> list[Finding]:
    """Return what is wrong with the paths that a client named itself.

    A job reads its own inputs and writes below `output/`: an input may be the same file, on the
    disk, as one in the media library.
    """
    found, own = [], frozenset(inputs)
    for name in PATH_PARAMS:
        paths = params.get(name, [])
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            found.append(finding(name, "expected a list of paths", "list_type"))
            continue
        for path in paths:
            try:
                relative = check_relative_path(path)
            except ValueError as error:
                found.append(finding(name, str(error), "unsafe_path"))
                continue
            if name == "input_paths" and relative.as_posix() not in own:
                found.append(finding(name, f"the job has no file {path!r}"))
            if name == "output_paths" and (
                relative.parts[0] != "output" or len(relative.parts) < 2
            ):
                found.append(finding(name, f"{path!r} is not below output/", "unsafe_path"))
    return found
