"""The calls of `Client` with which jobs are ended and run again, tasks paused and limited."""

from __future__ import annotations

from typing import Any, Literal

from cl_server.client.models import Attempt, AttemptList, ChangedJobs, Job, Task
from cl_server.client.paths import segment
from cl_server.client.transport import Transport

__all__ = ["ControlCalls"]


class ControlCalls:
    """What operators and makers do; part of `Client`."""

    compute_url: str
    _transport: Transport

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job and return it: `cancelled`, or still `processing` while its worker ends it.

        Raises:
            Conflict: It has completed or failed.
        """
        return self._transport.json("POST", f"{self._job_url(job_id)}/cancel", Job)

    def retry_job(self, job_id: str) -> Job:
        """Queue a failed or cancelled job as if it were new, and return it.

        Raises:
            Conflict: It runs, or has completed.
        """
        return self._transport.json("POST", f"{self._job_url(job_id)}/retry", Job)

    def job_attempts(self, job_id: str) -> list[Attempt]:
        """Return what is kept of a job's attempts, oldest first."""
        url = f"{self._job_url(job_id)}/attempts"
        return self._transport.json("GET", url, AttemptList)["items"]

    def change_jobs(
        self,
        action: Literal["cancel", "retry"],
        *,
        task_type: str | None = None,
        status: str | None = None,
        created_by: str | None = None,
        mine: bool = False,
        added_after: int | None = None,
        added_before: int | None = None,
        everything: bool = False,
        dry_run: bool = False,
    ) -> list[str]:
        """Cancel or retry all jobs for which all that is given holds, and return their ids.

        Args:
            action: What to do.
            task_type: Only those of this task.
            status: Only those in this status.
            created_by: Only those of this user, a `sub`; whoever is no admin has their own only.
            mine: Only one's own.
            added_after: Only those added then or later, in milliseconds since the epoch.
            added_before: Only those added earlier.
            everything: To be set where nothing else is given.
            dry_run: Only say which they are.

        Raises:
            InvalidRequest: Nothing is given, or the status does not fit.
        """
        fields: dict[str, Any] = {
            "action": action,
            "task_type": task_type,
            "status": status,
            "created_by": created_by,
            "mine": mine,
            "added_after": added_after,
            "added_before": added_before,
            "everything": everything,
            "dry_run": dry_run,
        }
        job_ids: list[str] = []
        while True:
            page = self._transport.json(
                "POST", f"{self.compute_url}/bulk", ChangedJobs, json=fields
            )
            job_ids += page["job_ids"]
            if page["next_cursor"] is None:
                return job_ids
            fields["cursor"] = page["next_cursor"]

    def pause_task(self, task_type: str, reason: str | None = None) -> Task:
        """Have no more jobs of a task begun; they wait. Needs an admin."""
        return self._change_task(task_type, {"paused": True, "reason": reason})

    def resume_task(self, task_type: str) -> Task:
        """Have jobs of a task begun again. Needs an admin."""
        return self._change_task(task_type, {"paused": False})

    def limit_task(self, task_type: str, max_running: int | None) -> Task:
        """Let so many jobs of a task run at once; `None`: as many as workers take. Needs an admin."""
        return self._change_task(task_type, {"max_running": max_running})

    def _change_task(self, task_type: str, fields: dict[str, Any]) -> Task:
        url = f"{self.compute_url}/tasks/{segment(task_type)}"
        return self._transport.json("PUT", url, Task, json=fields)

    def _job_url(self, job_id: str) -> str:
        return f"{self.compute_url}/jobs/{segment(job_id)}"
