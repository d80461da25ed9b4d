"""What the author of a compute module writes: its parameters and its `process`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from pathlib import PurePosixPath
from typing import Any, Callable, Optional

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .names import unique_paths

__all__ = ["BaseJobParams", "ComputeModule", "ProgressCallback"]

ProgressCallback = Callable[[int], None]


class BaseJobParams(BaseModel):
    """The parameters that every task has: which files it reads and which it writes.

    Attributes:
        input_paths: Files to read, relative to the job's workspace (`input/a.jpg`), or absolute
            for a job added through the library.
        output_paths: Files to write, as many as inputs where both are given. Empty: filled from
            `default_output_path` when the job is added.
    """

    input_paths: list[str] = Field(default_factory=list)
    output_paths: list[str] = Field(default_factory=list)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:  # pydantic takes true for 1
            wanted = cls.model_fields[info.field_name].annotation
            if wanted in (int, float, Optional[int], Optional[float]):
                raise ValueError("a number is expected, not true or false")
        return value

    @field_validator("input_paths", "output_paths")
    @classmethod
    def _unique(cls, paths: list[str]) -> list[str]:
        repeated = sorted(path for path, times in Counter(paths).items() if times > 1)
        if repeated:
            raise ValueError(f"the same path is given more than once: {', '.join(repeated)}")
        return paths

    @field_validator("output_paths")
    @classmethod
    def _side_by_side(cls, paths: list[str]) -> list[str]:
        # A file of one path cannot be the folder of another, however the two are spelled.
        spelled: dict[tuple[str, ...], str] = {}
        for path in paths:
            same = spelled.setdefault(PurePosixPath(path.replace("\\", "/")).parts, path)
            if same != path:
                raise ValueError(f"{same!r} and {path!r} are the same file")
        for parts, path in spelled.items():
            for length in range(1, len(parts)):
                above = spelled.get(parts[:length])
                if above is not None:
                    raise ValueError(f"{path!r} lies below {above!r}, which is a file")
        return paths

    @model_validator(mode="after")
    def _as_many_outputs_as_inputs(self) -> BaseJobParams:
        inputs, outputs = len(self.input_paths), len(self.output_paths)
        if inputs and outputs and inputs != outputs:
            raise ValueError(f"{outputs} output_paths are given for {inputs} input_paths")
        return self

    def default_output_path(self, input_path: str) -> Optional[str]:
        """Return where the result for one input goes, relative to the workspace.

        `None`, the default, is for a task that writes no file per input.
        """
        return None


class OpenJobParams(BaseJobParams):
    """The parameters of a module that declares none: every extra field is kept."""

    model_config = ConfigDict(extra="allow")


class ComputeModule(ABC):
    """One or more tasks. A worker makes it once, without arguments, and runs many jobs with it."""

    @property
    @abstractmethod
    def supported_task_types(self) -> list[str]:
        """The task types that this module runs."""

    @abstractmethod
    async def process(
        self,
        job_id: str,
        task_type: str,
        params: dict[str, Any],
        progress_callback: Optional[ProgressCallback] = None,
    ) -> dict[str, Any]:
        """Run one job.

        Args:
            job_id: The job.
            task_type: One of `supported_task_types`.
            params: Validated, with `input_paths` and `output_paths` made absolute.
            progress_callback: Takes 0 to 100.

        Returns:
            `{"status": "ok", "task_output": {...}}`, or `{"status": "error", "error": "..."}`
            with, where running it again cannot help, `"retryable": False`.

        Raises:
            FinalError: Running it again cannot help.
            Later: It cannot run now; it is queued again at no cost.
            Exception: Any other costs one attempt.
        """

    def params_model(self, task_type: str) -> type[BaseJobParams]:
        """Return the model of a task's parameters; the default keeps whatever is given."""
        return OpenJobParams


def with_output_paths(params: BaseJobParams) -> list[str]:
    """Return the job's output paths: those given, else the defaults, a taken name made unique.

    Args:
        params: The task's parameters.

    Returns:
        As many paths as inputs, or none where the task names no default.
    """
    if params.output_paths:
        return list(params.output_paths)
    wanted = []
    for input_path in params.input_paths:
        path = params.default_output_path(input_path)
        if path is None:
            return []
        wanted.append(path)
    return unique_paths(wanted)
