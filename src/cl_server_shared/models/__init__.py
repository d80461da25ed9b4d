"""The repository's tables. Importing this package registers every one of them on `Base`."""

from .attempt import JobAttempt
from .base import Base
from .duty import Duty
from .event import JobEvent
from .job import Job
from .job_count import JobCount
from .queue import JobOptions, QueueEntry
from .task_settings import TaskSettings
from .worker import WorkerInstance

__all__ = [
    "Base",
    "Duty",
    "Job",
    "JobAttempt",
    "JobCount",
    "JobEvent",
    "JobOptions",
    "QueueEntry",
    "TaskSettings",
    "WorkerInstance",
]
