"""What a caller may give: every value is checked before anything is written."""

from __future__ import annotations

import json
from typing import Any, Optional

from cl_ml_tools.jobs import (
    DEFAULT_PRIORITY,
    Job,
    check_max_retries,
    check_priority,
    check_progress,
    check_status,
)
from cl_ml_tools.workspace import check_name

from .sql.adding import NewJob

__all__ = ["checked_changes", "checked_job"]

MAX_NAME_LENGTH = 255


def checked_job(
    job: Job,
    created_by: Optional[str],
    priority: Optional[int],
    max_retries: int,
    available_at: Optional[int],
    timeout_seconds: Optional[float],
    idempotency_key: Optional[str],
) -> NewJob:
    """Return a new job whose every value can be stored; defaults are filled in.

    Raises:
        ValueError: A value is out of range; the message names it.
    """
    try:
        check_name(job.job_id)
    except ValueError as error:
        raise ValueError(f"job_id: {error}") from error
    if job.status != "queued":
        raise ValueError(f"status: a new job is queued, not {job.status!r}")
    for name, text in (
        ("task_type", job.task_type),
        ("created_by", created_by),
        ("idempotency_key", idempotency_key),
    ):
        _check_text(name, text)
    priority = DEFAULT_PRIORITY if priority is None else priority
    check_priority(priority)
    check_max_retries(max_retries)
    if timeout_seconds is not None and not 0 < timeout_seconds < float("inf"):
        raise ValueError(f"timeout_seconds {timeout_seconds!r} is not a number above 0")
    if available_at is not None and not 0 <= available_at < 2**53:
        raise ValueError(f"available_at {available_at!r} is not milliseconds since the epoch")
    return NewJob(
        job_id=job.job_id,
        task_type=job.task_type,
        params=_json_text("params", job.params),
        created_by=created_by,
        priority=priority,
        max_retries=max_retries,
        available_at=available_at,
        timeout_seconds=timeout_seconds,
        idempotency_key=idempotency_key,
    )


def checked_changes(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what `update_job` sets: `status`, `progress`, `task_output`, `error`, each or `None`.

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
    if fields.get("status") is not None:
        check_status(fields["status"])
    if fields.get("progress") is not None:
        check_progress(fields["progress"])
    task_output, error_message = fields.get("task_output"), fields.get("error_message")
    if task_output is not None:
        if not isinstance(task_output, dict):
            raise ValueError(f"task_output {task_output!r:.100} is not a dict")
        _json_text("task_output", task_output)
    if error_message is not None and not isinstance(error_message, str):
        raise ValueError(f"error_message {error_message!r:.100} is not text")
    return {
        "status": fields.get("status"),
        "progress": fields.get("progress"),
        "task_output": task_output,
        "error": error_message,
    }


def _check_text(name: str, text: Optional[str]) -> None:
    if text is None:
        return
    if not 0 < len(text) <= MAX_NAME_LENGTH or "\0" in text:
        raise ValueError(f"{name} {text[:40]!r} is not 1 to {MAX_NAME_LENGTH} characters of text")


def _json_text(name: str, value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be written as JSON: {error}") from error
