"""The events that are published about a job, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

__all__ = ["job_event", "to_json"]


def job_event(
    event_id: Optional[int],
    job_id: str,
    event_type: str,
    status: str,
    task_type: str,
    timestamp: int,
    progress: float,
    attempt: int,
    task_output: Optional[Mapping[str, Any]] = None,
    error: Optional[str] = None,
) -> dict[str, Any]:
    """Return one event about a job, as it is published.

    Args:
        event_id: Grows per job, so that a consumer can drop what it has seen; `None` for `progress`.
        job_id: The job.
        event_type: `queued`, `started`, `progress`, `retrying`, `completed`, `failed`, `cancelled`.
        status: The job's status after it; of a failed job the stored word, `error`.
        task_type: The job's.
        timestamp: When it happened, in milliseconds since the epoch.
        progress: 0 to 100.
        attempt: The attempt that it is about: 1 for the first.
        task_output: What a completed job returned.
        error: Why an attempt failed.
    """
    event: dict[str, Any] = {
        "event_id": event_id,
        "job_id": job_id,
        "event_type": event_type,
        "status": status,
        "task_type": task_type,
        "timestamp": timestamp,
        "progress": progress,
        "attempt": attempt,
    }
    if task_output is not None:
        event["task_output"] = dict(task_output)
    if error is not None:
        event["error"] = error
    return event


def to_json(event: Mapping[str, Any]) -> str:
    """Return an event as compact JSON text, always valid UTF-8: half of a surrogate pair is a `?`."""
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode("utf-8")
