"""What the store answers about its jobs and workers as a whole, as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

__all__ = ["EndedJobs", "JobStatisticsAnswer", "TaskTypeAnswer", "WorkerAnswer", "WorkerList"]


class TaskTypeAnswer(BaseModel):
    """What waits and runs of one task type."""

    task_type: str
    waiting: int = Field(description="Due and unclaimed.")
    not_yet_due: int = Field(description="Waiting for their time, or for their re-run.")
    running: int
    oldest_waiting_seconds: float | None = Field(description="How long the oldest has been due.")
    served: bool = Field(description="Whether a worker that lives now runs it.")
    paused: bool
    max_running: int | None = Field(description="How many may run at once; null: no limit.")


class EndedJobs(BaseModel):
    """The jobs of one task type that ended in one minute with one outcome."""

    minute: int = Field(description="When it began.")
    task_type: str
    outcome: Literal["completed", "failed", "cancelled", "retrying"] = Field(
        description="`retrying`: attempts that run again."
    )
    count: int


class JobStatisticsAnswer(BaseModel):
    """What waits and runs, and what ended in the last minutes."""

    task_types: list[TaskTypeAnswer]
    unserved: list[str] = Field(description="Task types that wait and that no live worker runs.")
    ended: list[EndedJobs] = Field(description="Oldest first; minutes without an end are left out.")
    minutes: int = Field(description="How many minutes `ended` goes back, this one included.")
    counted_at_most: int = Field(description="A number that reads so may be larger.")


class WorkerAnswer(BaseModel):
    """A worker that lives."""

    instance_id: int = Field(description="Made at random at its start.")
    worker_id: str = Field(description="What people call it; several may share one.")
    host: str
    pid: int
    task_types: list[str]
    concurrency: int = Field(description="How many jobs it runs at once.")
    running: int = Field(description="How many it ran when it last renewed its lease.")
    started_at: int
    renewed_at: int
    lease_expires_at: int


class WorkerList(BaseModel):
    """Every worker that lives, by its name."""

    items: list[WorkerAnswer]
