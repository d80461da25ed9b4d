"""What the parts of CL Server ask of each other.

`JobRepository` and `FileStorage` are the contract that services and compute modules share.
`WorkQueue` is what a worker needs beyond: claims with a lease. Implementations:
`cl_server_shared.SQLAlchemyJobRepository`, `cl_server_shared.FileStorageService`, and the
in-memory ones in `cl_ml_tools.testing`; one conformance suite holds them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Protocol, runtime_checkable

from .jobs import DEFAULT_MAX_RETRIES, Job

__all__ = [
    "AddedJob",
    "AsyncReadable",
    "AttemptLog",
    "Claim",
    "ClaimedJob",
    "Completion",
    "FailureOutcome",
    "FileStorage",
    "JobRepository",
    "JobToAdd",
    "WorkQueue",
]


@runtime_checkable
class JobRepository(Protocol):
    """Where jobs are kept."""

    def add_job(
        self, job: Job, created_by: Optional[str] = None, priority: Optional[int] = None
    ) -> str:
        """Store a job queued and return its id.

        Args:
            job: The job; its status must be `queued`.
            created_by: Who asked for it: a user's `sub`.
            priority: 0 to 10, higher is more urgent; `None` is 5.

        Raises:
            DuplicateJob: A job with that id exists.
            ValueError: A value is out of range; the message names it.
        """
        ...

    def get_job(self, job_id: str) -> Optional[Job]:
        """Return the job, or `None` where there is none with that id."""
        ...

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Set `status`, `progress`, `task_output`, `error_message`; publish what changed.

        Returns:
            False where there is no such job.

        Raises:
            TypeError: A field is not one of the four.
            ValueError: A value is out of range.
            IllegalTransition: The job's status does not lead to the one given.
            ClaimLost: Another live claim holds the job.
        """
        ...

    def fetch_next_job(self, task_types: Sequence[str]) -> Optional[Job]:
        """Claim the next queued job of these types; `None` where there is none."""
        ...

    def delete_job(self, job_id: str) -> bool:
        """Remove the job and every row that belongs to it; False where there is none."""
        ...


class AsyncReadable(Protocol):
    """An upload: anything with `async read(n)`, empty bytes at the end."""

    async def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        ...


@runtime_checkable
class FileStorage(Protocol):
    """Where the files of jobs are kept: a workspace `jobs/{job_id}/{input,output}` per job."""

    def create_job_directory(self, job_id: str) -> Path:
        """Make the job's workspace and return its absolute path."""
        ...

    def get_job_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's workspace."""
        ...

    def get_input_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's input folder."""
        ...

    def get_output_path(self, job_id: str) -> Path:
        """Return the absolute path of the job's output folder."""
        ...

    async def save_input_file(
        self, job_id: str, filename: str, file: AsyncReadable
    ) -> dict[str, Any]:
        """Stream an upload into the input folder.

        Returns:
            `filename` (as saved), `path` (absolute), `size` (bytes), `hash` (SHA-256, hex).
        """
        ...

    def cleanup_job(self, job_id: str) -> bool:
        """Delete the workspace; False where there was none."""
        ...

    def get_absolute_path(self, relative_path: str) -> Path:
        """Return the absolute path of a file below the storage's folder."""
        ...


@dataclass(frozen=True)
class JobToAdd:
    """A job for `add_jobs`, with what `add_job` takes beside it.

    Attributes:
        job: The job, `queued`.
        created_by: Who asked for it: a user's `sub`.
        priority: 0 to 10, higher is more urgent; `None` is 5.
        max_retries: How many re-runs it may have, 0 to 50.
        available_at: Not to run before, in milliseconds since the epoch; `None`: at once.
        timeout_seconds: How long one attempt may take; `None`: the worker's own limit.
        idempotency_key: A second request with this key is the first job again.
    """

    job: Job
    created_by: Optional[str] = None
    priority: Optional[int] = None
    max_retries: int = DEFAULT_MAX_RETRIES
    available_at: Optional[int] = None
    timeout_seconds: Optional[float] = None
    idempotency_key: Optional[str] = None


@dataclass(frozen=True)
class AddedJob:
    """What became of one item of `add_jobs`.

    Attributes:
        job_id: The job's id; of an `existing` one found by its idempotency key, the first one's.
        outcome: `added`, or `existing` where the id or the key was there with the same content.
    """

    job_id: str
    outcome: Literal["added", "existing"]


@dataclass(frozen=True)
class Claim:
    """A worker's hold on one job; every write of that worker carries it (a fencing token).

    Attributes:
        job_id: The job.
        entry_id: The key of its queue entry.
        instance_id: Who claimed it.
        claim_seq: Grows with each claim of the job, so that an earlier holder can be told apart.
    """

    job_id: str
    entry_id: int
    instance_id: int
    claim_seq: int


@dataclass(frozen=True)
class ClaimedJob:
    """A job to run now, and the claim under which its outcome is written.

    Attributes:
        job: The job, `processing`.
        claim: The fencing token.
        attempt: 1 for the first run, one more for each re-run.
        max_retries: How many re-runs it may have.
        timeout_seconds: How long one attempt may take; `None`: the worker's own limit.
        waited_ms: How long ago it first became due, in milliseconds.
    """

    job: Job
    claim: Claim
    attempt: int
    max_retries: int
    timeout_seconds: Optional[float]
    waited_ms: int


# Why an attempt did not complete, as `job_attempts` keeps it.
FailureOutcome = Literal["error", "timeout", "crash", "lost"]


@dataclass(frozen=True)
class AttemptLog:
    """What an attempt leaves behind beside its outcome.

    Attributes:
        started_at: When it began, in milliseconds since the epoch.
        traceback: Where its error was raised.
        output: The last of what the module printed and logged.
    """

    started_at: Optional[int] = None
    traceback: Optional[str] = None
    output: Optional[str] = None


@dataclass(frozen=True)
class Completion:
    """An attempt that completed its job.

    Attributes:
        claim: The hold under which it ran.
        task_output: What the module returned.
        log: What it printed, where it printed something.
    """

    claim: Claim
    task_output: Optional[dict[str, Any]] = None
    log: Optional[AttemptLog] = None


@runtime_checkable
class WorkQueue(Protocol):
    """What a worker needs: an instance with a lease, claims, and outcomes that are fenced by them.

    An instance is one start of one worker. It exists from `register_instance` to
    `release_instance`, and its claims are its own for as long as its lease is renewed.
    """

    def register_instance(
        self, label: str, capabilities: Mapping[str, dict[str, Any]], concurrency: int
    ) -> int:
        """Make this object an instance with a fresh lease and return its `instance_id`.

        Args:
            label: What people call the worker (`WORKER_ID`); need not be unique.
            capabilities: What it can run: the JSON Schema of the parameters per task type.
            concurrency: How many jobs it runs at once.

        Raises:
            ValueError: The label is not 1 to 255 characters of text.
        """
        ...

    def renew_lease(self, running: int = 0) -> Optional[list[Claim]]:
        """Renew the lease and return the claims that are known to be this instance's.

        Whoever renews compares: a job that it runs and that is not among them was taken away; one
        that is among them and that it does not run (its claim's answer was lost) is given back.

        Args:
            running: How many jobs it runs now.

        Returns:
            `None` where the instance is not known any more: all its claims are lost.
        """
        ...

    def release_instance(self) -> None:
        """Give back what is still claimed, at no cost, and end the instance."""
        ...

    def fetch_next_jobs(self, task_types: Sequence[str], limit: int) -> list[ClaimedJob]:
        """Claim up to `limit` jobs, most urgent first; empty only where nothing is there."""
        ...

    def report_progress(self, claim: Claim, progress: int) -> None:
        """Store and publish how far the job is, 0 to 100.

        Raises:
            ClaimLost: The claim is not held any more.
        """
        ...

    def complete_jobs(self, completions: Sequence[Completion]) -> list[Claim]:
        """End jobs as completed, all in one transaction.

        Returns:
            The refused ones: claims that are not held any more; nothing of theirs was changed.

        Raises:
            ValueError: A `task_output` cannot be written as JSON; nothing was changed at all.
        """
        ...

    def fail_job(
        self,
        claim: Claim,
        error: str,
        *,
        retryable: bool = True,
        outcome: FailureOutcome = "error",
        log: Optional[AttemptLog] = None,
    ) -> str:
        """End the attempt: queue the job for a re-run if it has one left, else end it as failed.

        A job that is to be cancelled ends as cancelled.

        Args:
            claim: The hold under which it ran.
            error: One sentence that says why.
            retryable: False where running it again cannot help.
            outcome: What kind of failure, for the attempt's row.
            log: What the attempt leaves behind.

        Returns:
            The job's new status: `queued`, `error` or `cancelled`.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
            ValueError: The error is not text.
        """
        ...

    def postpone_job(
        self, claim: Claim, delay_seconds: float, *, log: Optional[AttemptLog] = None
    ) -> None:
        """Queue the job again, not before some time from now; it costs no attempt.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
        """
        ...

    def give_back_jobs(self, claims: Sequence[Claim]) -> list[Claim]:
        """Queue jobs again in their old places, at no cost; those to be cancelled end so.

        Returns:
            The refused ones: claims that are not held any more; nothing of theirs was changed.
        """
        ...

    def cancel_requests(self) -> list[Claim]:
        """Return this instance's claims whose jobs somebody wants cancelled."""
        ...

    def end_cancelled_job(self, claim: Claim, *, log: Optional[AttemptLog] = None) -> None:
        """End a job as cancelled, once what ran it has ended.

        Raises:
            ClaimLost: The claim is not held any more; nothing was changed.
        """
        ...

    def rescue_expired_jobs(self) -> int:
        """Fail the attempts of instances whose lease ran out, and forget those instances.

        Returns:
            How many jobs were queued again or ended.
        """
        ...

    def wait_for_jobs(self, timeout_seconds: float) -> bool:
        """Sleep until something may have been added, or the time is over.

        Returns:
            True where a look is worth it, False where the time is over.
        """
        ...
