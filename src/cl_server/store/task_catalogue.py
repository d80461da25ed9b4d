"""Which tasks there are: those installed here, and those that live workers announce."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cl_ml_tools.compute import ComputeModule
from cl_ml_tools.registry import InstalledTasks
from cl_server.http.access import Identity
from cl_server.http.errors import NotFound
from cl_server_shared.task_control import TaskControl, TaskSetting

from .problems import wrong_field
from .repository import JobReader, WorkerRecord
from .schemas import Capabilities, Task, TaskList, TaskSettingFields

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
        control: Where pauses and limits are.
        cache_seconds: How long a list of workers is believed.
        monotonic: Seconds that never step, for tests.
    """

    def __init__(
        self,
        installed: InstalledTasks,
        jobs: JobReader,
        control: TaskControl,
        *,
        cache_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installed = installed
        self._jobs = jobs
        self._control = control
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
        names = ", ".join(sorted({*self._announced(), *self._installed.by_type}))
        raise NotFound(f"there is no task {task_type!r}; there are: {names or 'none'}")

    def list_tasks(self) -> TaskList:
        """Return every task, in the order of the alphabet.

        One that is paused or limited is among them even where nobody knows its parameters.
        """
        announced = self._announced()
        schemas = announced | self._installed_schemas()
        settings = {each.task_type: each for each in self._control.list_task_settings()}
        return TaskList(
            items=[
                _answer(
                    settings.get(name) or TaskSetting(name),
                    parameters=schemas.get(name, {}),
                    served=name in announced,
                )
                for name in sorted(schemas.keys() | settings.keys())
            ]
        )

    def change_task(self, task_type: str, fields: TaskSettingFields, identity: Identity) -> Task:
        """Pause, resume or limit a task, and return it.

        Args:
            task_type: The task; it need not be known here, since its workers may be down.
            fields: What to change.
            identity: Who does it.

        Raises:
            Unprocessable: A reason without a pause.
        """
        given = fields.model_fields_set
        if fields.reason is not None and not fields.paused:
            raise wrong_field("reason", "only a pause has a reason: give paused=true with it")
        if "max_running" in given:
            self._control.limit_task_type(task_type, fields.max_running)
        if fields.paused:
            self._control.pause_task_type(task_type, fields.reason, identity.sub)
        elif "paused" in given:
            self._control.resume_task_type(task_type)
        known = {task.task_type: task for task in self.list_tasks().items}
        return known.get(task_type) or _answer(TaskSetting(task_type), parameters={}, served=False)

    def count_idle_workers(self) -> Capabilities:
        """Return how many workers live, and how many of them are free for each task type."""
        workers = self._live_workers()
        idle: dict[str, int] = {}
        for worker in workers:
            for task_type in worker.capabilities:
                idle[task_type] = idle.get(task_type, 0) + int(worker.free_places > 0)
        return Capabilities(num_workers=len(workers), capabilities=dict(sorted(idle.items())))

    def _announced(self) -> dict[str, Any]:
        """Return the JSON Schema of each task that a live worker runs."""
        announced: dict[str, Any] = {}
        for worker in self._live_workers():
            announced.update(worker.capabilities)
        return announced

    def _installed_schemas(self) -> dict[str, Any]:
        return {
            task_type: task.module.params_model(task_type).model_json_schema()
            for task_type, task in self._installed.by_type.items()
        }

    def _live_workers(self) -> list[WorkerRecord]:
        with self._lock:
            now = self._monotonic()
            if self._read_at is None or now - self._read_at >= self._cache_seconds:
                self._workers = self._jobs.list_workers(time.time_ns() // 1_000_000)
                self._read_at = now
            return self._workers


def _answer(setting: TaskSetting, *, parameters: dict[str, Any], served: bool) -> Task:
    return Task(
        **asdict(setting),
        parameters=parameters,
        served=served,
        paused=setting.paused_at is not None,
    )
