"""Cancelling and retrying all jobs that match, a thousand per request."""

from __future__ import annotations

from dataclasses import replace

from cl_ml_tools.jobs import RETRYABLE_STATUSES
from cl_server.http.access import Identity
from cl_server_shared.control import CANCELLABLE_STATUSES, JobControl, JobFilter

from .problems import wrong_field
from .schemas import PUBLIC_STATUSES, ChangedJobs, JobChangeFields, stored_status

__all__ = ["change_jobs"]

# A request takes a few seconds at most; whoever has more asks again.
BATCHES_PER_REQUEST = 10


def change_jobs(control: JobControl, fields: JobChangeFields, identity: Identity) -> ChangedJobs:
    """Change the jobs that match and that this user may see.

    Args:
        control: What changes them.
        fields: What to do to which.
        identity: Who asks; whoever is no admin has their own jobs only.

    Raises:
        Unprocessable: Nothing narrows them down, or the status does not fit.
    """
    wanted = _filter(fields, identity)
    if wanted is None:
        return ChangedJobs(job_ids=[], next_cursor=None)
    change = control.cancel_batch if fields.action == "cancel" else control.retry_batch
    after: int | None = fields.cursor or 0
    job_ids: list[str] = []
    for _ in range(BATCHES_PER_REQUEST):
        assert after is not None
        batch = change(wanted, after=after, dry_run=fields.dry_run)
        job_ids += batch.job_ids
        after = batch.next_after
        if after is None:
            break
    return ChangedJobs(job_ids=job_ids, next_cursor=None if after is None else str(after))


def _filter(fields: JobChangeFields, identity: Identity) -> JobFilter | None:
    """Return which jobs are meant; `None`: others' only, which this user does not see."""
    status = None if fields.status is None else stored_status(fields.status)
    statuses = CANCELLABLE_STATUSES if fields.action == "cancel" else RETRYABLE_STATUSES
    if status is not None and status not in statuses:
        fitting = " or ".join(sorted(PUBLIC_STATUSES[each] for each in statuses))
        raise wrong_field("status", f"to {fields.action} jobs, expected {fitting}")
    wanted = JobFilter(
        task_type=fields.task_type,
        created_by=identity.sub if fields.mine else fields.created_by,
        status=status,
        added_after=fields.added_after,
        added_before=fields.added_before,
        everything=fields.everything,
    )
    if wanted.is_empty:
        raise wrong_field("everything", "nothing narrows the jobs down: set this to mean all")
    if fields.created_by not in (None, wanted.created_by):
        return None
    if identity.may_administer:
        return wanted
    if fields.created_by not in (None, identity.sub):
        return None
    return replace(wanted, created_by=identity.sub)
