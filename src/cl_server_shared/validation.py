"""What a caller may give: every value is checked before anything is written."""

from __future__ import annotations

from typing import Any

from cl_ml_tools.jobs import (
    DEFAULT_PRIORITY,
    check_available_at,
    check_changes,
    check_is_new,
    check_max_retries,
    check_priority,
    check_text,
    check_timeout_seconds,
    json_text,
    task_output_text,
)
from cl_ml_tools.protocols import JobToAdd
from cl_ml_tools.workspace import check_name

from .sql.adding import NewJob

__all__ = ["checked_changes", "checked_job"]


def checked_job(wanted: JobToAdd) -> NewJob:
    """Return a new job whose every value can be stored; defaults are filled in.

    Raises:
        ValueError: A value is out of range; the message names it.
    """
    job = wanted.job
    try:  # not `naming`, whose generator would take a twentieth of an addition
        check_name(job.job_id)
    except ValueError as error:
        raise ValueError(f"job_id: {error}") from error
    check_is_new(job)
    check_text("task_type", job.task_type)
    check_text("created_by", wanted.created_by)
    check_text("idempotency_key", wanted.idempotency_key)
    priority = DEFAULT_PRIORITY if wanted.priority is None else wanted.priority
    check_priority(priority)
    check_max_retries(wanted.max_retries)
    check_timeout_seconds(wanted.timeout_seconds)
    check_available_at(wanted.available_at)
    return {
        "job_id": job.job_id,
        "task_type": job.task_type,
        "params": json_text("params", job.params),
        "created_by": wanted.created_by,
        "priority": priority,
        "max_retries": wanted.max_retries,
        "available_at": wanted.available_at,
        "timeout_seconds": wanted.timeout_seconds,
        "idempotency_key": wanted.idempotency_key,
    }


def checked_changes(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what `update_job` sets, each or `None`.

    `status`, `progress`, `task_output` (as JSON text) and `error`.

    Raises:
        TypeError: A field is not one of the four.
        ValueError: A value is out of range; the message names it.
    """
    check_changes(fields)
    return {
        "status": fields.get("status"),
        "progress": fields.get("progress"),
        "task_output": task_output_text(fields.get("task_output")),
        "error": fields.get("error_message"),
    }
