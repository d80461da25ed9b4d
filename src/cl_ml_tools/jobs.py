"""A job as every package sees it: its seven fields, its states and the ways between them.

queued ──► processing ──► completed
  │ ▲          │  │
  │ └──────────┘  ├─────► error      (given back, or put back for a re-run: processing ──► queued)
  └───────────────┴─────► cancelled

error, cancelled ──► queued           (an operator's or its maker's `retry_job`)
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Literal, Optional, get_args

from pydantic import BaseModel, ConfigDict, Field

from .errors import IllegalTransition

JobStatus = Literal["queued", "processing", "completed", "error", "cancelled"]

STATUSES: tuple[str, ...] = get_args(JobStatus)
TERMINAL_STATUSES = frozenset({"completed", "error", "cancelled"})

# From a status to those that `update_job` may set. `retry_job` alone leads out of a terminal one.
TRANSITIONS: dict[str, frozenset[str]] = {
    "queued": frozenset({"processing", "completed", "error", "cancelled"}),
    "processing": frozenset({"queued", "completed", "error", "cancelled"}),
    "completed": frozenset(),
    "error": frozenset(),
    "cancelled": frozenset(),
}

# From these `retry_job` leads back to `queued`.
RETRYABLE_STATUSES = frozenset({"error", "cancelled"})

DEFAULT_PRIORITY = 5
MAX_PRIORITY = 10
DEFAULT_MAX_RETRIES = 3
MAX_RETRIES_LIMIT = 50
MAX_TEXT_LENGTH = 255  # of the columns for names
MAX_JSON_DEPTH = 100  # Python reads no more than some 900, less where it is called from deep inside

# Ten minutes of waiting are worth one step of priority, so that nothing starves.
PRIORITY_STEP_MS = 600_000

# No re-run waits longer than this: five minutes outlast a restart, and are not yet a lost day.
MAX_BACKOFF_SECONDS = 300.0


class Job(BaseModel):
    """One piece of work: which task, on what, and how far it is.

    Attributes:
        job_id: Unique; made by the caller.
        task_type: The name under which a compute module is found.
        params: The task's parameters, JSON values only.
        status: One of `STATUSES`.
        progress: 0 to 100.
        task_output: What the module returned, once it has completed.
        error_message: Why it failed, or why its last attempt did.
    """

    model_config = ConfigDict(validate_assignment=True)

    job_id: str = Field(min_length=1, max_length=MAX_TEXT_LENGTH)
    task_type: str = Field(min_length=1, max_length=MAX_TEXT_LENGTH)
    params: dict[str, Any] = Field(default_factory=dict)
    status: JobStatus = "queued"
    progress: int = Field(default=0, ge=0, le=100)
    task_output: Optional[dict[str, Any]] = None
    error_message: Optional[str] = None


def check_status(status: str) -> None:
    """Raise `ValueError` unless `status` is one of `STATUSES`."""
    if status not in STATUSES:
        raise ValueError(f"status {status!r} is not one of {', '.join(STATUSES)}")


def check_progress(progress: int) -> None:
    """Raise `ValueError` unless `progress` is a whole number from 0 to 100."""
    if isinstance(progress, bool) or not isinstance(progress, int) or not 0 <= progress <= 100:
        raise ValueError(f"progress {progress!r} is not a whole number from 0 to 100")


def check_priority(priority: int) -> None:
    """Raise `ValueError` unless `priority` is a whole number from 0 to 10."""
    if (
        isinstance(priority, bool)
        or not isinstance(priority, int)
        or not 0 <= priority <= MAX_PRIORITY
    ):
        raise ValueError(f"priority {priority!r} is not a whole number from 0 to {MAX_PRIORITY}")


def check_max_retries(max_retries: int) -> None:
    """Raise `ValueError` unless `max_retries` is a whole number from 0 to 50."""
    if (
        isinstance(max_retries, bool)
        or not isinstance(max_retries, int)
        or not 0 <= max_retries <= MAX_RETRIES_LIMIT
    ):
        raise ValueError(
            f"max_retries {max_retries!r} is not a whole number from 0 to {MAX_RETRIES_LIMIT}"
        )


def check_available_at(available_at: Optional[int]) -> None:
    """Raise `ValueError` unless `available_at` is whole milliseconds since the epoch, or `None`."""
    if available_at is not None and (
        isinstance(available_at, bool)
        or not isinstance(available_at, int)
        or not 0 <= available_at < 2**53
    ):
        raise ValueError(f"available_at {available_at!r} is not milliseconds since the epoch")


def check_timeout_seconds(timeout_seconds: Optional[float]) -> None:
    """Raise `ValueError` unless `timeout_seconds` is a number between 0 and 2**53, or `None`."""
    if timeout_seconds is not None and (
        isinstance(timeout_seconds, bool)
        or not isinstance(timeout_seconds, (int, float))
        or not 0 < timeout_seconds < 2**53
    ):
        raise ValueError(
            f"timeout_seconds {timeout_seconds!r:.40} is not a number between 0 and 2**53"
        )


def check_text(name: str, text: Optional[str]) -> None:
    """Raise `ValueError`, naming the value, unless a database can hold it; `None` it can."""
    if text is None:
        return
    if not isinstance(text, str):
        raise ValueError(f"{name} {text!r:.40} is not text")
    if not 0 < len(text) <= MAX_TEXT_LENGTH or "\0" in text or not _is_unicode(text):
        raise ValueError(f"{name} {text[:40]!r} is not 1 to {MAX_TEXT_LENGTH} characters of text")


def can_be_stored(text: object) -> bool:
    """Return whether this is text that every database can hold; nothing is found under any other."""
    return isinstance(text, str) and "\0" not in text and _is_unicode(text)


def check_is_new(job: Job) -> None:
    """Raise `ValueError` unless a job is as one is added: queued, and nothing came of it yet."""
    if job.status != "queued":
        raise ValueError(f"status: a new job is queued, not {job.status!r}")
    if job.progress != 0:
        raise ValueError(f"progress: that of a new job is 0, not {job.progress!r}")
    for name in ("task_output", "error_message"):
        if getattr(job, name) is not None:
            raise ValueError(f"{name}: a new job has none, not {getattr(job, name)!r:.100}")


def check_task_output(task_output: Optional[dict[str, Any]]) -> None:
    """Raise `ValueError` unless `task_output` is a dict that JSON can hold, or `None`."""
    task_output_text(task_output)


def task_output_text(task_output: Optional[dict[str, Any]]) -> Optional[str]:
    """Return a task's output as JSON text; `ValueError` unless it is a dict that JSON can hold."""
    if task_output is None:
        return None
    if not isinstance(task_output, dict):
        raise ValueError(f"task_output {task_output!r:.100} is not a dict")
    return json_text("task_output", task_output)


def check_error_message(error_message: Optional[str]) -> None:
    """Raise `ValueError` unless `error_message` is text, or `None`."""
    if error_message is not None and not isinstance(error_message, str):
        raise ValueError(f"error_message {error_message!r:.100} is not text")


def check_error(error: str) -> None:
    """Raise `ValueError` unless a failed attempt's `error` is text."""
    if not isinstance(error, str):
        raise ValueError(f"error {error!r:.100} is not text")


def check_changes(fields: Mapping[str, Any]) -> None:
    """Check what `update_job` was given; no output and no message, `None`, change nothing.

    Raises:
        TypeError: A field is not one of the four.
        ValueError: A value is out of range; the message names it.
    """
    unknown = fields.keys() - {"status", "progress", "task_output", "error_message"}
    if unknown:
        raise TypeError(
            f"update_job() knows no {', '.join(sorted(unknown))}: it sets status, progress, "
            "task_output and error_message"
        )
    if "status" in fields:
        check_status(fields["status"])
    if "progress" in fields:
        check_progress(fields["progress"])
    check_task_output(fields.get("task_output"))
    check_error_message(fields.get("error_message"))


# Made once: `json.dumps` would make one for each job.
_JSON = json.JSONEncoder(allow_nan=False)


def json_text(name: str, value: Mapping[str, Any]) -> str:
    """Return a value as JSON text; `ValueError`, naming it, where JSON cannot hold it."""
    try:
        text = _JSON.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be written as JSON: {error}") from error
    if text.count("{") + text.count("[") > MAX_JSON_DEPTH:  # else it cannot be that deep
        check_json_depth(name, value)
    return text


def check_json_depth(name: str, value: Any) -> None:
    """Raise `ValueError`, naming it, where a JSON value is nested deeper than `MAX_JSON_DEPTH`."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [container for container in level if isinstance(container, (dict, list, tuple))]
        if not level:
            return
        level = [
            inner
            for container in level
            for inner in (container.values() if isinstance(container, dict) else container)
        ]
    raise ValueError(f"{name} is nested deeper than {MAX_JSON_DEPTH} levels")


def _is_unicode(text: str) -> bool:
    if text.isascii():  # as nearly all is, and known without a look
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def check_transition(job_id: str, current: str, wanted: str) -> None:
    """Raise `IllegalTransition` unless a job may go from `current` to `wanted`, another status."""
    if wanted not in TRANSITIONS[current]:
        raise IllegalTransition(job_id, current, wanted)


def check_progress_change(status: str, progress: int, wanted: Optional[int]) -> None:
    """Raise `ValueError` where a job that has ended would get another progress.

    Args:
        status: The job's, before and after.
        progress: What is stored.
        wanted: What `update_job` was given; `None`: nothing.
    """
    if status in TERMINAL_STATUSES and wanted is not None and wanted != progress:
        raise ValueError(
            f"progress {wanted}: the job has ended, {status}, its progress stays at {progress}"
        )


def rank_of(enqueued_at: int, priority: int) -> int:
    """Return the place in the queue, lowest first: the time it is due, less its priority's worth.

    Args:
        enqueued_at: When the job first became due, in milliseconds since the epoch.
        priority: 0 to 10, higher is more urgent.
    """
    return enqueued_at - priority * PRIORITY_STEP_MS


def backoff_ms(retry_count: int) -> int:
    """Return how long the `retry_count`-th re-run waits, in milliseconds.

    A random time between half and all of `min(2^n, 300)` seconds: jobs that failed together do
    not come back together ("equal jitter", AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    longest = min(2.0 ** min(retry_count, 10), MAX_BACKOFF_SECONDS)
    return int(1000 * longest * random.uniform(0.5, 1.0))
