"""What the store takes and answers, as JSON. Times are integer milliseconds since the epoch, UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cl_ml_tools.jobs import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_PRIORITY,
    MAX_PRIORITY,
    MAX_RETRIES_LIMIT,
)
from cl_server.http.paging import Pagination

__all__ = [
    "PUBLIC_STATUSES",
    "Capabilities",
    "EntityAnswer",
    "EntityPage",
    "JobAnswer",
    "JobFile",
    "JobOptionFields",
    "JobPage",
    "NewEntityFields",
    "PublicStatus",
    "ServiceState",
    "StorableText",
    "Task",
    "TaskList",
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


class ServiceState(BaseModel):
    """That the store serves, and whether guests may read media."""

    status: Literal["healthy"] = "healthy"
    service: Literal["store"] = "store"
    version: str
    guestMode: Literal["on", "off"]


class NewEntityFields(BaseModel):
    """The fields of a new entity, beside its file."""

    is_collection: bool = False
    label: StorableText | None = Field(None, max_length=MAX_LABEL_CHARACTERS)
    description: StorableText | None = Field(None, max_length=MAX_DESCRIPTION_CHARACTERS)
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


class JobOptionFields(BaseModel):
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
    sha256: str | None = Field(description="In hex; null in a list, where it was not read yet.")


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


class Task(BaseModel):
    """A task that this server knows."""

    task_type: str
    parameters: dict[str, Any] = Field(description="The JSON Schema of its parameters.")
    served: bool = Field(description="Whether a worker that lives now runs it.")


class TaskList(BaseModel):
    """Every task that this server knows, in the order of the alphabet."""

    items: list[Task]


class Capabilities(BaseModel):
    """How many workers live, and how many of them are free for each task type."""

    num_workers: int
    capabilities: dict[str, int]
