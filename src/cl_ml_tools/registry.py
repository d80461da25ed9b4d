"""Finding the compute modules that are installed, and checking a task's parameters.

A module is found through the entry-point group `cl_ml_tools.tasks` of any installed distribution.
The entry point names its class, which is made without arguments and says itself which task types
it serves. A module does its heavy imports when it first runs, so finding all of them is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from typing import Any

from pydantic import ValidationError

from .compute import BaseJobParams, ComputeModule, with_output_paths
from .errors import DuplicateTask, InvalidParams, TaskLoadError, UnknownTask
from .jobs import check_text
from .workspace import check_relative_path

__all__ = [
    "ENTRY_POINT_GROUP",
    "InstalledTask",
    "InstalledTasks",
    "find_tasks",
    "load_task",
    "parse_params",
    "validate_params",
]

ENTRY_POINT_GROUP = "cl_ml_tools.tasks"


@dataclass(frozen=True)
class InstalledTask:
    """A task type and what serves it.

    Attributes:
        task_type: Its name.
        module: What runs it.
        distribution: The package that brings it.
    """

    task_type: str
    module: ComputeModule
    distribution: str


@dataclass(frozen=True)
class InstalledTasks:
    """What is installed.

    Attributes:
        by_type: Each task under its type, in the order of the alphabet.
        broken: What could not be read or loaded; the rest works all the same.
    """

    by_type: dict[str, InstalledTask]
    broken: list[TaskLoadError]

    def __getitem__(self, task_type: str) -> InstalledTask:
        try:
            return self.by_type[task_type]
        except KeyError:
            raise UnknownTask(task_type, list(self.by_type)) from None


def find_tasks() -> InstalledTasks:
    """Load every installed module and return the tasks that they serve.

    Raises:
        DuplicateTask: Two distributions serve one task type.
    """
    found: dict[str, InstalledTask] = {}
    broken: list[TaskLoadError] = []
    for distribution, entry_point in _entry_points(broken):
        try:
            module, task_types = _load(distribution, entry_point)
        except TaskLoadError as error:
            broken.append(error)
            continue
        for task_type in task_types:
            task = InstalledTask(task_type, module, distribution)
            other = found.setdefault(task_type, task)
            if type(other.module) is not type(module):
                raise DuplicateTask(
                    f"the task type {task_type!r} is served by two modules, {_name(other)} and "
                    f"{_name(task)}: uninstall one of them"
                )
    return InstalledTasks(dict(sorted(found.items())), broken)


def load_task(task_type: str) -> ComputeModule:
    """Return the module that serves a task type.

    Raises:
        UnknownTask: None is installed.
        DuplicateTask: Two distributions serve one task type.
    """
    return find_tasks()[task_type].module


def validate_params(
    module: ComputeModule, task_type: str, params: dict[str, Any]
) -> dict[str, Any]:
    """Check a new job's parameters and fill in its output paths.

    Args:
        module: The module that will run it.
        task_type: One of the module's.
        params: What was asked for; paths relative to the workspace.

    Returns:
        The parameters to store: defaults filled in, and `output_paths` named.

    Raises:
        InvalidParams: With every problem, and for a path that leads outside of the workspace.
    """
    model = parse_params(module, task_type, params)
    problems = []
    for field in ("input_paths", "output_paths"):
        for index, path in enumerate(getattr(model, field)):
            try:
                check_relative_path(path)
            except ValueError as error:
                problems.append({"loc": [field, index], "msg": str(error), "type": "unsafe_path"})
    if problems:
        raise InvalidParams(task_type, problems)
    return {**model.model_dump(mode="json"), "output_paths": with_output_paths(model)}


def parse_params(module: ComputeModule, task_type: str, params: dict[str, Any]) -> BaseJobParams:
    """Return the parameters as the task's model.

    Raises:
        InvalidParams: With every problem that the model finds.
    """
    try:
        return module.params_model(task_type).model_validate(params)
    except ValidationError as error:
        problems = [
            {
                "loc": list(each["loc"]),
                "msg": each["msg"].removeprefix("Value error, "),  # what pydantic puts before ours
                "type": each["type"],
            }
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidParams(task_type, problems) from error


def _load(distribution: str, entry_point: EntryPoint) -> tuple[ComputeModule, list[str]]:
    """Make the module that an entry point names, and ask for its task types."""
    where = f"the entry point {entry_point.value!r} of {distribution!r}"
    try:
        module = entry_point.load()()
        if not isinstance(module, ComputeModule):
            raise TypeError(f"{type(module).__name__} is no subclass of ComputeModule")
        task_types = module.supported_task_types
        _check_task_types(task_types)
        for task_type in task_types:
            module.params_model(task_type).model_json_schema()  # services announce it
        return module, list(task_types)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything while it loads
        raise TaskLoadError(f"{where} cannot be loaded: {error!r}") from error


def _check_task_types(task_types: object) -> None:
    """Raise `ValueError` unless these are names that jobs, topics and addresses can have."""
    if not isinstance(task_types, (list, tuple)) or not task_types:
        raise ValueError(f"supported_task_types {task_types!r:.100} is not a list of names")
    for task_type in task_types:
        if task_type is None:
            raise ValueError("supported_task_types: None is not text")
        check_text("supported_task_types:", task_type)
        if "/" in task_type:
            raise ValueError(f"supported_task_types: {task_type!r} has a '/'")


def _name(task: InstalledTask) -> str:
    """Return a task's class and distribution, for messages."""
    kind = type(task.module)
    return f"{kind.__module__}.{kind.__qualname__} of {task.distribution!r}"


def _entry_points(broken: list[TaskLoadError]) -> Iterator[tuple[str, EntryPoint]]:
    """Yield each entry point of the group under its distribution's name, which 3.9's do not say.

    Of two distributions with one name the first on the path is the one that is imported.

    Args:
        broken: Takes an error for each distribution whose entry points make no sense.
    """
    seen: set[str] = set()
    for distribution in distributions():
        try:
            points = list(distribution.entry_points)
        except Exception as error:  # noqa: BLE001 - each Python raises another
            name = distribution.metadata["Name"]
            broken.append(TaskLoadError(f"the entry points of {name!r} cannot be read: {error!r}"))
            continue
        mine = [point for point in points if point.group == ENTRY_POINT_GROUP]
        name = distribution.metadata["Name"] if mine else ""
        if mine and name not in seen:
            seen.add(name)
            yield from ((name, point) for point in mine)
