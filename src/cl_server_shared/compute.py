"""`run_compute_job`: the `__main__` of a compute module, one attempt of one job a call."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

from sqlalchemy.orm import sessionmaker

from cl_ml_tools import ComputeModule, MQTTBroadcaster, shutdown_broadcaster
from cl_ml_tools.errors import ClaimLost, IllegalTransition
from cl_ml_tools.executor import Outcome, execute
from cl_ml_tools.protocols import ClaimedJob
from cl_ml_tools.workspace import discard_attempt, publish_attempt, start_attempt

from .config import Config
from .engine import create_database_engine
from .errors import SharedError
from .file_storage import FileStorageService
from .shared_db import SQLAlchemyJobRepository

__all__ = ["run_compute_job"]

COMPLETED, NOT_COMPLETED = 0, 1

# How often progress is written at most; the last one always is.
PROGRESS_INTERVAL_SECONDS = 0.25

# How long the broker may keep the process: to connect before it starts, to acknowledge at its end.
CONNECT_SECONDS = 0.5
FLUSH_SECONDS = 2.0


class _NotRun(Exception):
    """Nothing was changed; says why."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, or Ctrl-C: no event loop and no module takes it for an error of the job."""


def run_compute_job(module: ComputeModule, argv: Optional[Sequence[str]] = None) -> NoReturn:
    """Run the job that `--job-id` names, and end the process.

    Exit code 0: the job is completed; 1: it is not, and one line says why; 2: wrong usage.

    Args:
        module: What runs it.
        argv: The arguments; `None`: the process's.
    """
    parser = argparse.ArgumentParser(description=f"Run one job of {type(module).__name__}.")
    parser.add_argument("--job-id", required=True, help="the job to run")
    arguments = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):  # asyncio's own wait for a module that blocks
        signal.signal(number, _exit_on_signal)
    try:
        problem = _run(module, arguments.job_id)
    except (_NotRun, SharedError, ValueError, OSError) as error:
        problem = " ".join(str(error).split())
    except _Terminated:
        problem = "ended by a signal; the job was given back"
    finally:
        shutdown_broadcaster()
    if problem is not None:
        print(f"job {arguments.job_id}: {problem}", file=sys.stderr)
    sys.exit(COMPLETED if problem is None else NOT_COMPLETED)


def _exit_on_signal(number: int, _frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once: giving the job back is not interrupted
    raise _Terminated


def _run(module: ComputeModule, job_id: str) -> Optional[str]:
    """Run the job; return `None` once it is completed, else why it is not."""
    # The standard library's SQLite, as in the module's own code (`engine`).
    engine = create_database_engine(Config.WORKER_DATABASE_URL)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    broadcaster = repository.broadcaster
    if isinstance(broadcaster, MQTTBroadcaster):
        broadcaster.wait_connected(CONNECT_SECONDS)
    try:
        claimed = _claim(repository, module, job_id)
        return _run_claimed(repository, module, claimed)
    finally:
        repository.release_instance()
        repository.flush_events(FLUSH_SECONDS)
        engine.dispose()


def _claim(repository: SQLAlchemyJobRepository, module: ComputeModule, job_id: str) -> ClaimedJob:
    job = repository.get_job(job_id)
    if job is None:
        raise _NotRun("there is no such job")
    if job.task_type not in module.supported_task_types:
        raise _NotRun(
            f"it is of the type {job.task_type!r}; this module runs "
            f"{', '.join(module.supported_task_types)}"
        )
    try:
        claimed = repository.claim_job(job_id)
    except IllegalTransition as error:
        raise _NotRun(f"it has ended, {error.current}") from error
    except ClaimLost as error:
        raise _NotRun("another worker runs it") from error
    if claimed is None:
        raise _NotRun("there is no such job")
    return claimed


def _run_claimed(
    repository: SQLAlchemyJobRepository, module: ComputeModule, claimed: ClaimedJob
) -> Optional[str]:
    job_path = FileStorageService(Config.COMPUTE_STORAGE_DIR).create_job_directory(
        claimed.job.job_id
    )
    output_path = start_attempt(job_path, claimed.attempt)
    try:
        outcome = _execute(repository, module, claimed, job_path, output_path)
        problem = _record(repository, claimed, outcome)
    except ClaimLost:
        problem = "it was taken away: the lease ran out, or it was deleted"
    except BaseException:
        discard_attempt(job_path, claimed.attempt)
        raise
    if problem is None:
        publish_attempt(job_path, claimed.attempt)
    else:
        discard_attempt(job_path, claimed.attempt)
    return problem


def _execute(
    repository: SQLAlchemyJobRepository,
    module: ComputeModule,
    claimed: ClaimedJob,
    job_path: Path,
    output_path: Path,
) -> Outcome:
    """Run the attempt; a module that ends its process, or cancels itself, has failed."""
    attempt = execute(
        module,
        claimed.job,
        job_path=job_path,
        output_path=output_path,
        progress_callback=_Progress(repository, claimed),
    )
    try:
        return asyncio.run(attempt)
    except SystemExit as error:
        return Outcome(ok=False, error=f"the module ended its process, with {error.code!r}")
    except asyncio.CancelledError:
        return Outcome(ok=False, error="the module cancelled itself")


def _record(
    repository: SQLAlchemyJobRepository, claimed: ClaimedJob, outcome: Outcome
) -> Optional[str]:
    if outcome.ok:
        repository.complete_job(claimed.claim, outcome.task_output)
        return None
    error = outcome.error or "the module gave no reason"
    status = repository.fail_job(claimed.claim, error, retryable=outcome.retryable)
    left = claimed.max_retries - claimed.attempt + 1
    return f"{error} (to be run again: {left} left)" if status == "queued" else error


class _Progress:
    """Writes a job's progress, a few times a second at most, and the last of them always."""

    def __init__(self, repository: SQLAlchemyJobRepository, claimed: ClaimedJob) -> None:
        self._repository = repository
        self._claimed = claimed
        self._written_at = float("-inf")

    def __call__(self, progress: int) -> None:
        now = time.monotonic()
        if progress < 100 and now - self._written_at < PROGRESS_INTERVAL_SECONDS:
            return
        self._written_at = now
        self._repository.report_progress(self._claimed.claim, progress)
