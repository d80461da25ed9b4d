"""Every error that the toolkit raises on purpose.

ToolError
├── DuplicateJob (ValueError)        a job with that id, or other content under that key, is there
├── IllegalTransition (ValueError)   the job's state does not lead to the one asked for
├── ClaimLost (RuntimeError)         this caller's claim was taken away, or another holds the job
├── InvalidParams (ValueError)       parameters that the task's model refuses; lists each problem
├── UnknownTask (LookupError)        no installed module serves that task type
├── DuplicateTask                    two installed modules serve one task type
├── TaskLoadError                    an entry point that cannot be loaded; names it and its package
├── MissingExtra (ImportError)       an optional package is not installed; names the extra
├── FinalError                       raised by a compute module: running the job again cannot help
└── Later                            raised by a compute module: not now; costs no attempt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

__all__ = [
    "ClaimLost",
    "DuplicateJob",
    "DuplicateTask",
    "FinalError",
    "IllegalTransition",
    "InvalidParams",
    "Later",
    "MissingExtra",
    "TaskLoadError",
    "ToolError",
    "UnknownTask",
]


# A month: what cannot run for longer has failed, and somebody should be told.
MAX_DELAY_SECONDS = 30 * 24 * 60 * 60


class ToolError(Exception):
    """The base of all errors of the toolkit."""


class DuplicateJob(ToolError, ValueError):
    """A job with this id exists already; nothing was changed.

    Args:
        job_id: The id that is taken.
        reason: What is wrong, where it is not the id itself.
    """

    def __init__(self, job_id: str, reason: Optional[str] = None) -> None:
        super().__init__(reason or f"a job with the id {job_id!r} exists already")
        self.job_id = job_id


class IllegalTransition(ToolError, ValueError):
    """A job's status does not lead to the one asked for; nothing was changed."""

    def __init__(self, job_id: str, current: str, wanted: str) -> None:
        super().__init__(f"job {job_id!r} is {current!r} and cannot become {wanted!r}")
        self.job_id = job_id
        self.current = current
        self.wanted = wanted


class ClaimLost(ToolError, RuntimeError):
    """The caller's claim was taken away, or another live claim holds the job; nothing was changed."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id!r} is not, or no longer, claimed by this caller")
        self.job_id = job_id


class InvalidParams(ToolError, ValueError):
    """Parameters that a task's model refuses.

    Args:
        task_type: The task that was asked for.
        problems: One mapping per problem with `loc` (a list: the path to the value), `msg`, `type`.
    """

    def __init__(self, task_type: str, problems: Sequence[Mapping[str, Any]]) -> None:
        self.task_type = task_type
        self.problems = [dict(problem) for problem in problems]
        listed = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'params'}: {problem['msg']}"
            for problem in self.problems
        )
        super().__init__(f"{task_type}: {listed}")


class UnknownTask(ToolError, LookupError):
    """No installed module serves the task type."""

    def __init__(self, task_type: str, known: Sequence[str]) -> None:
        super().__init__(
            f"no installed module serves the task type {task_type!r}; "
            f"known: {', '.join(sorted(known)) or 'none'}"
        )
        self.task_type = task_type
        self.known = sorted(known)


class DuplicateTask(ToolError):
    """Two installed modules serve one task type: uninstall one of the two distributions named."""


class TaskLoadError(ToolError):
    """An entry point of the group `cl_ml_tools.tasks` cannot be loaded."""


class MissingExtra(ToolError, ImportError):
    """An optional package is not installed.

    Args:
        extra: The extra of this distribution that brings it.
        purpose: What it is needed for.
    """

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs: pip install 'cl-server-shared[{extra}]'")
        self.extra = extra


class FinalError(ToolError):
    """Raised by a compute module when running the job again cannot help (unreadable input, say)."""


class Later(ToolError):
    """Raised by a compute module when the job cannot run now: it is queued again, at no cost.

    Args:
        delay_seconds: How long it waits at least, up to 30 days.

    Raises:
        ValueError: The delay is out of range.
    """

    def __init__(self, delay_seconds: float) -> None:
        if not 0 <= delay_seconds <= MAX_DELAY_SECONDS:
            raise ValueError(
                f"delay_seconds {delay_seconds!r} is not a number from 0 to {MAX_DELAY_SECONDS}"
            )
        super().__init__(f"to be run again in {delay_seconds:g} seconds, at no cost")
        self.delay_seconds = delay_seconds
