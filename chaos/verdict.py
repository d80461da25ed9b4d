"""What must hold when the chaos is over, counted from the database and from `/events`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Engine, text

__all__ = ["Verdict", "judge"]

# From one event of a job to the next.
NEXT = {
    None: {"queued"},
    "queued": {"started", "cancelled"},
    "started": {"completed", "failed", "cancelled", "retrying", "queued"},
    "retrying": {"started", "cancelled"},
    "completed": set(),
    "failed": set(),
    "cancelled": set(),
}
ENDS = ("completed", "failed", "cancelled")


@dataclass
class Verdict:
    """The counts, and every promise that was broken.

    Attributes:
        jobs: How many were added.
        by_status: How they ended.
        events: How many state changes there were.
        retried: How many attempts were run again.
        broken: A sentence for each broken promise; the first twenty.
    """

    jobs: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    events: int = 0
    retried: int = 0
    broken: list[str] = field(default_factory=list)

    def found(self, sentence: str) -> None:
        """Note a broken promise."""
        if len(self.broken) < 20:
            self.broken.append(sentence)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def judge(
    engine: Engine, acknowledged: Iterable[str], streamed: Sequence[Mapping[str, Any]]
) -> Verdict:
    """Return what became of all jobs.

    Args:
        engine: The database.
        acknowledged: The ids of jobs whose addition was acknowledged.
        streamed: What came over `/events`, in its order, progress left out.
    """
    verdict = Verdict()
    with engine.connect() as connection:
        jobs = {
            row.job_id: row.status
            for row in connection.execute(text("SELECT job_id, status FROM jobs"))
        }
        live = connection.execute(text("SELECT COUNT(*) FROM queue_entries")).scalar_one()
        rows = connection.execute(
            text(
                "SELECT event.id, jobs.job_id, event.event_type, event.acknowledged_at "
                "FROM job_events AS event JOIN jobs ON jobs.id = event.entry_id ORDER BY event.id"
            )
        ).all()
    verdict.jobs, verdict.events = len(jobs), len(rows)
    verdict.by_status = dict(Counter(jobs.values()))
    verdict.retried = sum(row.event_type == "retrying" for row in rows)
    _judge_jobs(verdict, jobs, set(acknowledged), live)
    _judge_events(verdict, jobs, rows)
    _judge_stream(verdict, rows, streamed)
    return verdict


def _judge_jobs(verdict: Verdict, jobs: dict[str, str], acknowledged: set[str], live: int) -> None:
    if not jobs:
        verdict.found("no job was added at all")
    for job_id in acknowledged - jobs.keys():
        verdict.found(f"job {job_id} was acknowledged, and is lost")
    for job_id, status in jobs.items():
        if status not in ("completed", "error", "cancelled"):
            verdict.found(f"job {job_id} is still {status}")
    if live:
        verdict.found(f"{live} queue entries are left")


def _judge_events(verdict: Verdict, jobs: dict[str, str], rows: Sequence[Any]) -> None:
    told: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        told[row.job_id].append(row.event_type)
        if row.acknowledged_at is None:
            verdict.found(f"event {row.id} of job {row.job_id} was never acknowledged")
    for job_id in jobs:
        story = told[job_id]
        steps = zip([None, *story], story, strict=False)
        if any(after not in NEXT[before] for before, after in steps):
            verdict.found(f"job {job_id} has an impossible story: {story}")
        if sum(event_type in ENDS for event_type in story) != 1:
            verdict.found(f"job {job_id} did not end exactly once: {story}")


def _judge_stream(
    verdict: Verdict, rows: Sequence[Any], streamed: Sequence[Mapping[str, Any]]
) -> None:
    expected: dict[str, list[int]] = defaultdict(list)
    seen: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        expected[row.job_id].append(row.id)
    for event in streamed:
        seen[event["job_id"]].append(event["event_id"])
    for job_id, event_ids in expected.items():
        if seen[job_id] != event_ids:
            verdict.found(f"/events told {seen[job_id]} of job {job_id}, not {event_ids}")
