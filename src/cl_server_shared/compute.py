"""`run_compute_job`: the `__main__` of a compute module, one attempt of one job a call.

This process claims the job, renews the lease and writes what comes of it; the module runs in a
child (`module_process`), so that nothing it does can keep this from being done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Optional

from sqlalchemy.orm import sessionmaker

from cl_ml_tools import ComputeModule, MQTTBroadcaster, shutdown_broadcaster
from cl_ml_tools.errors import ClaimLost, IllegalTransition
from cl_ml_tools.executor import Outcome, describe
from cl_ml_tools.protocols import AttemptLog, ClaimedJob, Completion, FailureOutcome
from cl_ml_tools.workspace import discard_attempt, publish_attempt, start_attempt

from .config import Config
from .engine import create_database_engine
from .errors import DatabaseBusy, DatabaseUnavailable, SharedError
from .file_storage import FileStorageService
from .module_process import ModuleProcess, Terminated, raise_on_signals
from .shared_db import SQLAlchemyJobRepository

__all__ = ["run_compute_job"]

COMPLETED, NOT_COMPLETED = 0, 1

# How often progress is written at most, the last one always; and the job looked at.
PROGRESS_INTERVAL_SECONDS = 0.25

# How long, and how often, to ask for a completion that the database does not answer. The work is
# done: it is worth half a lease.
ASKING_SECONDS = 30.0
ASK_AGAIN_SECONDS = 0.5

# How long the broker may keep the process: to connect before it starts, to acknowledge at its end.
CONNECT_SECONDS = 0.5
FLUSH_SECONDS = 2.0

# Whether what was asked for was done is not known.
_NO_ANSWER = (DatabaseBusy, DatabaseUnavailable)

_TAKEN_AWAY = "it was taken away: the lease ran out, or it was deleted"


class _NotRun(Exception):
    """Nothing was changed; says why."""


class _Cancelled(Exception):
    """Somebody wants the job cancelled."""


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
    raise_on_signals()
    try:
        with ModuleProcess(module) as process:
            problem = _run(process, module, arguments.job_id)
    except (_NotRun, SharedError, ValueError, OSError) as error:
        problem = str(error)
    except Terminated:
        problem = "ended by a signal before the job ran"
    finally:
        shutdown_broadcaster()
    if problem is not None:
        print(" ".join(f"job {arguments.job_id}: {problem}".split()), file=sys.stderr)
    sys.exit(COMPLETED if problem is None else NOT_COMPLETED)


def _run(process: ModuleProcess, module: ComputeModule, job_id: str) -> Optional[str]:
    """Run the job; return `None` once it is completed, else why it is not."""
    # The standard library's SQLite, as in the module's own code (`engine`).
    try:
        engine = create_database_engine(Config.WORKER_DATABASE_URL)
    except DatabaseUnavailable as error:  # the URL is wrong, and may hold a password
        raise _NotRun(f"WORKER_DATABASE_URL: {error}") from error
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    broadcaster = repository.broadcaster
    if isinstance(broadcaster, MQTTBroadcaster):
        broadcaster.wait_connected(CONNECT_SECONDS)
    try:
        claimed = _claim(repository, module, job_id)
        return _run_claimed(repository, process, claimed)
    finally:
        repository.release_instance()
        repository.flush_events(FLUSH_SECONDS)
        engine.dispose()


def _claim(repository: SQLAlchemyJobRepository, module: ComputeModule, job_id: str) -> ClaimedJob:
    job = repository.get_job(job_id)
    if job is None:
        raise _NotRun("there is no such job")
    try:
        task_types = list(module.supported_task_types)
    except Exception as error:  # a module may raise anything
        raise _NotRun(f"the module does not say what it runs: {describe(error)}") from error
    if job.task_type not in task_types:
        raise _NotRun(
            f"it is of the type {job.task_type!r}; this module runs {', '.join(task_types)}"
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
    repository: SQLAlchemyJobRepository, process: ModuleProcess, claimed: ClaimedJob
) -> Optional[str]:
    job_path = FileStorageService(Config.COMPUTE_STORAGE_DIR).create_job_directory(
        claimed.job.job_id
    )
    output_path = start_attempt(job_path, claimed.attempt)
    try:
        problem = _attempt(repository, process, claimed, job_path, output_path)
    except ClaimLost:
        problem = _TAKEN_AWAY
    except Terminated:
        taken_away = repository.give_back_jobs([claimed.claim])
        ended = _TAKEN_AWAY if taken_away else "the job was given back"
        problem = f"ended by a signal; {ended}"
    except _NO_ANSWER:  # it may be completed: then whoever reads its output next publishes it
        raise
    except BaseException:  # raised again: whatever happens, no half-written output stays
        discard_attempt(job_path, claimed.attempt)
        raise
    if problem is None:
        publish_attempt(job_path, claimed.attempt)
    else:
        discard_attempt(job_path, claimed.attempt)
    return problem


def _attempt(
    repository: SQLAlchemyJobRepository,
    process: ModuleProcess,
    claimed: ClaimedJob,
    job_path: Path,
    output_path: Path,
) -> Optional[str]:
    started_at = time.time_ns() // 1_000_000
    try:
        outcome = process.run(
            claimed.job,
            job_path=job_path,
            output_path=output_path,
            timeout_seconds=claimed.timeout_seconds or Config.WORKER_JOB_TIMEOUT_SECONDS,
            on_look=_Overseer(repository, claimed),
        )
    except _Cancelled:
        repository.end_cancelled_job(claimed.claim, log=AttemptLog(started_at=started_at))
        return "it was cancelled"
    log = AttemptLog(started_at=started_at, traceback=outcome.traceback)
    return _record(repository, claimed, outcome, process.failure, log)


def _record(
    repository: SQLAlchemyJobRepository,
    claimed: ClaimedJob,
    outcome: Outcome,
    failure: FailureOutcome,
    log: AttemptLog,
) -> Optional[str]:
    if outcome.ok:
        _complete(repository, Completion(claimed.claim, outcome.task_output))
        return None
    error = outcome.error or "the module gave no reason"
    if outcome.delay_seconds is not None:
        repository.postpone_job(claimed.claim, outcome.delay_seconds, log=log)
        return error
    status = repository.fail_job(
        claimed.claim, error, retryable=outcome.retryable, outcome=failure, log=log
    )
    left = claimed.max_retries - claimed.attempt + 1
    return f"{error} (to be run again: {left} left)" if status == "queued" else error


def _complete(repository: SQLAlchemyJobRepository, completion: Completion) -> None:
    """End the job as completed; asked again where the database did not answer, or the answer was lost."""
    give_up = time.monotonic() + ASKING_SECONDS
    while True:
        try:
            refused = repository.complete_jobs([completion])
        except _NO_ANSWER:
            if time.monotonic() > give_up:
                raise
            time.sleep(ASK_AGAIN_SECONDS)
        else:
            break
    if refused:
        raise ClaimLost(completion.claim.job_id)


class _Overseer:
    """Writes a job's progress, a few times a second at most, and sees whether it is cancelled."""

    def __init__(self, repository: SQLAlchemyJobRepository, claimed: ClaimedJob) -> None:
        self._repository = repository
        self._claimed = claimed
        self._written: Optional[int] = None
        self._written_at = self._looked_at = float("-inf")

    def __call__(self, progress: Optional[int]) -> None:
        with suppress(SharedError):  # the database is away, or locked: both are tried again soon
            now = time.monotonic()
            self._look(now)
            self._write(progress, now)

    def _look(self, now: float) -> None:
        if now - self._looked_at >= PROGRESS_INTERVAL_SECONDS:
            self._looked_at = now
            if self._claimed.claim in self._repository.cancel_requests():
                raise _Cancelled

    def _write(self, progress: Optional[int], now: float) -> None:
        too_soon = progress != 100 and now - self._written_at < PROGRESS_INTERVAL_SECONDS
        if progress is None or progress == self._written or too_soon:
            return
        self._written_at = now
        self._repository.report_progress(self._claimed.claim, progress)
        self._written = progress
