"""What the store takes and answers, as JSON. Times are integer milliseconds since the epoch, UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from cl_ml_tools.jobs import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_PRIORITY,
    MAX_PRIORITY,
    MAX_RETRIES_LIMIT,
    MAX_TEXT_LENGTH,
)
from cl_server.http.paging import Pagination
from cl_server_shared.task_control import MAX_REASON_CHARACTERS, MAX_RUNNING_LIMIT

__all__ = [
    "PUBLIC_STATUSES",
    "Attempt",
    "AttemptList",
    "Capabilities",
    "ChangedJobs",
    "CleanupAnswer",
    "EntityAnswer",
    "EntityPage",
    "JobAnswer",
    "JobChangeFields",
    "JobFile",
    "JobOptionFields",
    "JobPage",
    "JobStorageSize",
    "NewEntityFields",
    "PublicStatus",
    "ServiceState",
    "StorableText",
    "Task",
    "TaskList",
    "TaskSettingFields",
    "stored_status",
]

PublicStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]

# The one place where a status changes its name: every client ends its wait on `completed` or
# `failed`, and what is stored says `error`.
PUBLIC_STATUSES: dict[str, PublicStatus] = {
    "queued": "queued",
    "processing": "processing",
    "completed": "completed",
    "error": "failed",
    "cancelled": "cancelled",
}

MAX_LABEL_CHARACTERS = 255
MAX_DESCRIPTION_CHARACTERS = 10_000
MAX_TIMEOUT_SECONDS = 30 * 24 * 3600.0

# The largest key that a database counts to.
MAX_ID = 2**63 - 1


def stored_status(status: PublicStatus) -> str:
    """Return the word under which a status is stored."""
    return next(stored for stored, public in PUBLIC_STATUSES.items() if public == status)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text cannot have a NUL character")
    return text


# PostgreSQL cannot keep a NUL, nor look for one.
StorableText = Annotated[str, AfterValidator(_storable)]

# With a limit, which stands before the check: only so does it read "at most ... characters".
Label = Annotated[str, Field(max_length=MAX_LABEL_CHARACTERS), AfterValidator(_storable)]
Description = Annotated[
    str, Field(max_length=MAX_DESCRIPTION_CHARACTERS), AfterValidator(_storable)
]
Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH), AfterValidator(_storable)]
Reason = Annotated[
    str, Field(min_length=1, max_length=MAX_REASON_CHARACTERS), AfterValidator(_storable)
]


class _SentFields(BaseModel):
    """A body of fields, in which `true` is no number and a misspelt name is not overlooked."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:  # pydantic takes true for 1
            wanted = cls.model_fields[info.field_name].annotation
            if wanted in (int, float, int | None, float | None):
                raise ValueError("a number is expected, not true or false")
        return value


class ServiceState(BaseModel):
    """That the store serves, and whether guests may read media."""

    status: Literal["healthy"] = "healthy"
    service: Literal["store"] = "store"
    version: str
    guestMode: Literal["on", "off"]


class NewEntityFields(_SentFields):
    """The fields of a new entity, beside its file."""

    is_collection: bool
    label: Label | None = None
    description: Description | None = None
    parent_id: int | None = Field(None, ge=1, le=MAX_ID, description="The collection to put it in.")


class EntityAnswer(BaseModel):
    """A media file or a collection."""

    id: int
    is_collection: bool
    label: str | None
    description: str | None
    parent_id: int | None
    added_date: int
    updated_date: int
    create_date: int | None = Field(description="When the picture was taken.")
    is_deleted: bool = Field(description="Whether it is in the trash.")
    is_indirectly_deleted: bool = Field(description="Whether a collection that it is in is.")
    children_count: int
    added_by: str | None
    updated_by: str | None
    file_size: int | None = Field(description="In bytes.")
    height: int | None = Field(description="In pixels, as the picture is shown.")
    width: int | None = Field(description="In pixels, as the picture is shown.")
    duration: float | None = Field(description="In seconds.")
    mime_type: str | None
    type: Literal["image", "video", "audio", "text", "other"] | None
    extension: str | None = Field(description="Without a dot.")
    md5: str | None
    sha256: str | None


class EntityPage(BaseModel):
    """Entities, newest first."""

    items: list[EntityAnswer]
    pagination: Pagination


class JobOptionFields(_SentFields):
    """How a job is run, whatever its task."""

    model_config = ConfigDict(extra="ignore")

    priority: int = Field(DEFAULT_PRIORITY, ge=0, le=MAX_PRIORITY, description="10 is most urgent.")
    max_retries: int = Field(
        DEFAULT_MAX_RETRIES, ge=0, le=MAX_RETRIES_LIMIT, description="Re-runs after a failure."
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT_SECONDS,
        allow_inf_nan=False,
        description="How long one attempt may take; by default as long as the worker allows.",
    )


class JobFile(BaseModel):
    """A file of a job's workspace."""

    name: str
    path: str = Field(description="Relative to the workspace: `output/a.jpg`.")
    size: int = Field(description="In bytes.")
    sha256: str | None = Field(
        description="In hex; null in a list for a large file whose job was not asked for yet."
    )


class JobAnswer(BaseModel):
    """A job: what was asked for, how far it is, what came of it."""

    job_id: str
    task_type: str
    status: PublicStatus
    progress: int = Field(description="0 to 100.")
    params: dict[str, Any]
    task_output: dict[str, Any] | None
    error_message: str | None
    priority: int
    created_at: int
    updated_at: int
    started_at: int | None
    completed_at: int | None
    input_files: list[JobFile]
    output_files: list[JobFile]
    retry_count: int
    max_retries: int
    created_by: str | None


class JobPage(BaseModel):
    """Jobs, newest first."""

    items: list[JobAnswer]
    next_cursor: str | None = Field(description="`?cursor=` of the next page; null: the last one.")


class Attempt(BaseModel):
    """One run of a job that did not simply succeed."""

    attempt: int = Field(description="From 1; a retried job begins again at 1.")
    worker: str | None = Field(description="What people call the worker that ran it.")
    started_at: int | None
    ended_at: int
    outcome: Literal["completed", "error", "timeout", "crash", "lost", "cancelled", "postponed"] = (
        Field(description="`lost`: its worker fell silent. `postponed`: it asked to run later.")
    )
    error: str | None
    traceback: str | None
    output: str | None = Field(description="The last of what the task printed and logged.")


class AttemptList(BaseModel):
    """What is kept of a job's attempts, oldest first; one that succeeded in silence is not."""

    items: list[Attempt]


class JobChangeFields(_SentFields):
    """What to do to which jobs: those for which all that is given holds."""

    action: Literal["cancel", "retry"]
    task_type: Name | None = None
    status: PublicStatus | None = Field(
        None, description="queued or processing to cancel, failed or cancelled to retry."
    )
    created_by: Name | None = Field(None, description="A user's `sub`.")
    mine: bool = Field(False, description="One's own; whoever is no admin has no others anyway.")
    added_after: int | None = Field(None, ge=0, le=MAX_ID, description="Then or later.")
    added_before: int | None = Field(None, ge=0, le=MAX_ID)
    everything: bool = Field(False, description="To be set where nothing else narrows it down.")
    dry_run: bool = Field(False, description="Only say which jobs these are.")
    cursor: int | None = Field(
        None, ge=1, le=MAX_ID, description="The last answer's `next_cursor`."
    )


class ChangedJobs(BaseModel):
    """The jobs that were changed by one request, a thousand at most, oldest first."""

    job_ids: list[str]
    next_cursor: str | None = Field(description="Ask again with it for more; null: that was all.")


class TaskSettingFields(_SentFields):
    """The pause and the limit of a task; what is not given stays."""

    paused: bool = Field(False, description="Whether no more jobs of it are begun.")
    reason: Reason | None = Field(None, description="Why it is paused.")
    max_running: int | None = Field(
        None,
        ge=1,
        le=MAX_RUNNING_LIMIT,
        description="How many of its jobs may run at once; null: as many as workers take.",
    )


class Task(BaseModel):
    """A task that this server knows, or for which an operator set something."""

    task_type: str
    parameters: dict[str, Any] = Field(description="The JSON Schema of its parameters.")
    served: bool = Field(description="Whether a worker that lives now runs it.")
    paused: bool = Field(description="Whether its jobs wait until an admin resumes it.")
    paused_at: int | None
    paused_by: str | None = Field(description="A user's `sub`.")
    pause_reason: str | None
    max_running: int | None = Field(
        description="How many of its jobs may run at once; null: as many as workers take."
    )


class TaskList(BaseModel):
    """Every task that this server knows, in the order of the alphabet."""

    items: list[Task]


class CleanupAnswer(BaseModel):
    """How many jobs were deleted, and how large their files were, in bytes."""

    deleted_count: int
    freed_space: int


class JobStorageSize(BaseModel):
    """How large the files of all jobs are together, in bytes, and how many jobs have some."""

    total_size: int
    job_count: int


class Capabilities(BaseModel):
    """How many workers live, and how many of them are free for each task type."""

    num_workers: int
    capabilities: dict[str, int]
