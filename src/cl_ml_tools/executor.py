"""Running one job: a pipeline of small steps over one record, whose every outcome is named.

resolve ──► validate ──► process ──► classify ──► Outcome (ok | failed | failed for good | later)
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from .compute import ComputeModule, ProgressCallback, with_output_paths
from .errors import FinalError, InvalidParams, Later
from .jobs import Job, check_task_output
from .registry import parse_params
from .workspace import check_relative_path, resolve_inside

__all__ = ["Outcome", "execute"]

_NO_REASON = "the module gave no reason"


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended.

    Attributes:
        ok: Whether it completed.
        task_output: What the module returned.
        error: One sentence that says why it failed.
        retryable: Whether running it again may help.
        traceback: Where it was raised, for the log.
        delay_seconds: Where the module asked to be run later: in how many seconds, at no cost.
    """

    ok: bool
    task_output: dict[str, Any] = field(default_factory=dict)
    error: Optional[str] = None
    retryable: bool = True
    traceback: Optional[str] = None
    delay_seconds: Optional[float] = None


async def execute(
    module: ComputeModule,
    job: Job,
    *,
    job_path: Path,
    output_path: Path,
    progress_callback: Optional[ProgressCallback] = None,
) -> Outcome:
    """Run one attempt of a job. An exception of the module becomes the outcome.

    What ends a process or a coroutine, such as `SystemExit`, does so here as well.

    Args:
        module: What runs it.
        job: The job; its paths may be relative to the workspace.
        job_path: The workspace, to which relative paths refer.
        output_path: The folder that stands for the workspace's `output` in this attempt.
        progress_callback: Takes 0 to 100.
    """
    try:
        params = resolve(module, job, job_path=job_path, output_path=output_path)
        result = await module.process(job.job_id, job.task_type, params, progress_callback)
    except Later as later:
        return Outcome(ok=False, error=str(later), delay_seconds=later.delay_seconds)
    except (FinalError, InvalidParams) as error:
        return Outcome(ok=False, error=str(error) or _NO_REASON, retryable=False)
    except Exception as error:  # noqa: BLE001 - a module may raise anything; it becomes the outcome
        return Outcome(ok=False, error=describe(error), traceback=traceback.format_exc())
    return classify(result)


def resolve(
    module: ComputeModule, job: Job, *, job_path: Path, output_path: Path
) -> dict[str, Any]:
    """Return the job's parameters, validated, with absolute paths whose folders exist.

    Raises:
        InvalidParams: The task's model refuses them.
        FinalError: A path leads outside of the workspace, or is none.
    """
    model = parse_params(module, job.task_type, job.params)
    outputs = with_output_paths(model)
    try:
        inputs = [_absolute(path, job_path, output_path) for path in model.input_paths]
        targets = [_absolute(path, job_path, output_path) for path in outputs]
    except ValueError as error:
        raise FinalError(str(error)) from error
    for target in targets:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    return {**model.model_dump(mode="json"), "input_paths": inputs, "output_paths": targets}


def classify(result: Any) -> Outcome:
    """Return the outcome that a module's result stands for."""
    if not isinstance(result, dict) or result.get("status") not in ("ok", "error"):
        return Outcome(
            ok=False,
            error=f"the module returned {result!r:.200}, not a dict whose status is ok or error",
        )
    if result["status"] == "ok":
        output = result.get("task_output")
        try:
            check_task_output(output)
        except ValueError as error:
            return Outcome(ok=False, error=f"the module's {error}")
        return Outcome(ok=True, task_output=output or {})
    return Outcome(
        ok=False,
        error=str(result.get("error") or _NO_REASON),
        retryable=bool(result.get("retryable", True)),
    )


def describe(error: BaseException) -> str:
    """Return an exception as one line: its message behind its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _absolute(path: str, job_path: Path, output_path: Path) -> str:
    if Path(path).is_absolute():
        if "\0" in path:
            raise ValueError(f"the path {path!r} has a NUL")
        return path
    first, *rest = check_relative_path(path).parts
    if first == "output" and rest:
        return str(resolve_inside(output_path, "/".join(rest)))
    return str(resolve_inside(job_path, path))
