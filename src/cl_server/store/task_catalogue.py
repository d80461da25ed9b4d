"""Which tasks there are: those installed here, and those that live workers announce."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cl_ml_tools.compute import ComputeModule
from cl_ml_tools.registry import InstalledTasks
from cl_server.http.errors import NotFound

from .repository import JobReader, WorkerRecord
from .schemas import Capabilities, Task, TaskList

__all__ = ["KnownTask", "TaskCatalogue"]


@dataclass(frozen=True)
class KnownTask:
    """A task that a job can be made for.

    Attributes:
        task_type: Its name.
        schema: The JSON Schema of its parameters.
        module: What checks them; `None` for a task that only workers elsewhere have.
    """

    task_type: str
    schema: dict[str, Any]
    module: ComputeModule | None


class TaskCatalogue:
    """The tasks, and who serves them.

    Args:
        installed: What is installed here.
        jobs: Where workers are listed.
        cache_seconds: How long a list of workers is believed.
        monotonic: Seconds that never step, for tests.
    """

    def __init__(
        self,
        installed: InstalledTasks,
        jobs: JobReader,
        *,
        cache_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installed = installed
        self._jobs = jobs
        self._cache_seconds = cache_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._workers: list[WorkerRecord] = []
        self._read_at: float | None = None

    def find_task(self, task_type: str) -> KnownTask:
        """Return a task.

        Raises:
            NotFound: Neither is it installed here, nor does a live worker announce it.
        """
        installed = self._installed.by_type.get(task_type)
        if installed is not None:
            schema = installed.module.params_model(task_type).model_json_schema()
            return KnownTask(task_type, schema, installed.module)
        for worker in self._live_workers():
            if task_type in worker.capabilities:
                return KnownTask(task_type, worker.capabilities[task_type], None)
        names = ", ".join(task.task_type for task in self.list_tasks().items)
        raise NotFound(f"there is no task {task_type!r}; there are: {names or 'none'}")

    def list_tasks(self) -> TaskList:
        """Return every task, in the order of the alphabet."""
        announced: dict[str, Any] = {}
        for worker in self._live_workers():
            announced.update(worker.capabilities)
        schemas = announced | {
            task_type: task.module.params_model(task_type).model_json_schema()
            for task_type, task in self._installed.by_type.items()
        }
        return TaskList(
            items=[
                Task(task_type=name, parameters=schemas[name], served=name in announced)
                for name in sorted(schemas)
            ]
        )

    def count_idle_workers(self) -> Capabilities:
        """Return how many workers live, and how many of them are free for each task type."""
        workers = self._live_workers()
        idle: dict[str, int] = {}
        for worker in workers:
            for task_type in worker.capabilities:
                idle[task_type] = idle.get(task_type, 0) + int(worker.free_places > 0)
        return Capabilities(num_workers=len(workers), capabilities=dict(sorted(idle.items())))

    def _live_workers(self) -> list[WorkerRecord]:
        with self._lock:
            now = self._monotonic()
            if self._read_at is None or now - self._read_at >= self._cache_seconds:
                self._workers = self._jobs.list_workers(time.time_ns() // 1_000_000)
                self._read_at = now
            return self._workers
