"""The repository's tables. Importing this package registers every one of them on `Base`."""

from .base import Base
from .event import JobEvent
from .job import Job
from .queue import JobOptions, QueueEntry
from .worker import WorkerInstance

__all__ = ["Base", "Job", "JobEvent", "JobOptions", "QueueEntry", "WorkerInstance"]
