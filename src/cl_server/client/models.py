"""What the server answers, typed: the JSON documents of the HTTP surface as they come.

Times are integer milliseconds since the epoch, UTC, but for a user's `created_at` (ISO 8601).
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

__all__ = [
    "FINISHED",
    "Attempt",
    "AttemptList",
    "Capabilities",
    "ChangedJobs",
    "EndedJobs",
    "Entity",
    "EntityPage",
    "Event",
    "Job",
    "JobFile",
    "JobPage",
    "JobStatistics",
    "Pagination",
    "Task",
    "TaskList",
    "TaskTypeState",
    "Token",
    "User",
    "Worker",
    "WorkerList",
]

# A client's wait ends on one of these.
FINISHED = frozenset({"completed", "failed", "cancelled"})


class Token(TypedDict):
    """An access token, which says itself how long it is good."""

    access_token: str
    token_type: str


class User(TypedDict):
    """An account."""

    id: int
    username: str
    is_admin: bool
    is_active: bool
    created_at: str
    permissions: list[str]


class JobFile(TypedDict):
    """A file of a job's workspace; `path` is relative to it, `size` in bytes, `sha256` in hex."""

    name: str
    path: str
    size: int
    sha256: str | None


class Job(TypedDict):
    """A job: what was asked for, how far it is, what came of it."""

    job_id: str
    task_type: str
    status: Literal["queued", "processing", "completed", "failed", "cancelled"]
    progress: int
    params: dict[str, Any]
    task_output: dict[str, Any] | None
    error_message: str | None
    priority: int
    created_at: int
    updated_at: int | None
    started_at: int | None
    completed_at: int | None
    input_files: list[JobFile]
    output_files: list[JobFile]
    retry_count: int
    max_retries: int
    created_by: str | None


class JobPage(TypedDict):
    """Jobs, newest first."""

    items: list[Job]
    next_cursor: NotRequired[str | None]


class Attempt(TypedDict):
    """One run of a job that did not simply succeed; `output` is the last of what it printed."""

    attempt: int
    worker: str | None
    started_at: int | None
    ended_at: int
    outcome: Literal["completed", "error", "timeout", "crash", "lost", "cancelled", "postponed"]
    error: str | None
    traceback: str | None
    output: str | None


class AttemptList(TypedDict):
    """What is kept of a job's attempts, oldest first."""

    items: list[Attempt]


class ChangedJobs(TypedDict):
    """The jobs that one request changed; with `next_cursor` there are more."""

    job_ids: list[str]
    next_cursor: str | None


class Event(TypedDict):
    """One step of one job. `status` is the stored word: `error` where a job reads `failed`."""

    event_id: int | None
    job_id: str
    event_type: Literal[
        "queued", "started", "progress", "retrying", "completed", "failed", "cancelled"
    ]
    status: str
    task_type: str
    timestamp: int
    progress: float
    attempt: int
    task_output: NotRequired[dict[str, Any] | None]
    error: NotRequired[str | None]


class Entity(TypedDict):
    """A media file or a collection."""

    id: int
    is_collection: bool
    label: str | None
    description: str | None
    parent_id: int | None
    added_date: int | None
    updated_date: int | None
    create_date: int | None
    is_deleted: bool
    file_size: int | None
    height: int | None
    width: int | None
    duration: float | None
    mime_type: str | None
    type: str | None
    extension: str | None
    md5: str | None
    sha256: NotRequired[str | None]


class Pagination(TypedDict):
    """Where a page stands among all."""

    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next: bool
    has_prev: bool


class EntityPage(TypedDict):
    """Entities, newest first."""

    items: list[Entity]
    pagination: Pagination


class Capabilities(TypedDict):
    """Who works: how many workers, and how many idle ones per task type."""

    num_workers: int
    capabilities: dict[str, int]


class Task(TypedDict):
    """A task that the server knows, whether a worker serves it now, its pause and its limit."""

    task_type: str
    parameters: dict[str, Any]
    served: bool
    paused: bool
    paused_at: int | None
    paused_by: str | None
    pause_reason: str | None
    max_running: int | None


class TaskList(TypedDict):
    """Every task that the server knows."""

    items: list[Task]


class TaskTypeState(TypedDict):
    """What waits and runs of one task type; `served`: whether a worker that lives now runs it."""

    task_type: str
    waiting: int
    not_yet_due: int
    running: int
    oldest_waiting_seconds: float | None
    served: bool
    paused: bool
    max_running: int | None


class EndedJobs(TypedDict):
    """The jobs of one task type that ended in one minute with one outcome."""

    minute: int
    task_type: str
    outcome: Literal["completed", "failed", "cancelled", "retrying"]
    count: int


class JobStatistics(TypedDict):
    """What waits and runs, and what ended; a number that is `counted_at_most` may be larger."""

    task_types: list[TaskTypeState]
    unserved: list[str]
    ended: list[EndedJobs]
    minutes: int
    counted_at_most: int


class Worker(TypedDict):
    """A worker that lives; `running` is as of `renewed_at`."""

    instance_id: int
    worker_id: str
    host: str
    pid: int
    task_types: list[str]
    concurrency: int
    running: int
    started_at: int
    renewed_at: int
    lease_expires_at: int


class WorkerList(TypedDict):
    """The workers that live."""

    items: list[Worker]
