"""What the worker runs beside what the database knows: neither is left without the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from worker_harness import PATIENCE_SECONDS, add_plugin, search_path

from cl_ml_tools import Job, NoOpBroadcaster
from cl_ml_tools.protocols import Claim, ClaimedJob
from cl_ml_tools.testing import InMemoryJobRepository, ScratchStorage
from cl_server.worker.loop import Worker
from cl_server.worker.presence import PresenceSettings
from cl_server.worker.reconciliation import Comparison, compare_claims
from cl_server.worker.settings import WorkerSettings
from cl_server_shared.errors import DatabaseUnavailable

A, B, C = (Claim(name, number, 7, 1) for number, name in enumerate("abc"))
NONE: frozenset[Claim] = frozenset()


def test_what_both_know_is_left_alone() -> None:
    assert compare_claims([A, B], ran={A, B}, run={A, B}, before=Comparison()) == Comparison()


def test_what_the_database_does_not_know_was_taken_away() -> None:
    comparison = compare_claims([A], ran={A, B}, run={A, B}, before=Comparison())
    assert (comparison.taken_away, comparison.never_came) == ({B}, NONE)


@pytest.mark.parametrize(
    ("known", "ran", "run"),
    [
        pytest.param([], NONE, {A}, id="claimed after the renewal"),
        pytest.param([A], NONE, {A}, id="claimed before the renewal, answered during it"),
        pytest.param([A], {A}, NONE, id="completed after the renewal"),
        pytest.param([], {A}, NONE, id="completed before the renewal, answered during it"),
    ],
)
def test_what_comes_or_goes_during_the_renewal_is_left_alone(
    known: list[Claim], ran: set[Claim], run: set[Claim]
) -> None:
    assert compare_claims(known, ran=ran, run=run, before=Comparison()) == Comparison()


def test_what_is_not_run_at_two_renewals_in_a_row_never_came() -> None:
    first = compare_claims([A, B, C], ran={A}, run={A}, before=Comparison())
    assert (first.not_run, first.never_came) == ({B, C}, NONE)
    second = compare_claims([A, B, C], ran={A, C}, run={A, C}, before=first)
    assert (second.not_run, second.never_came) == ({B}, {B})


def test_what_is_not_run_now_and_again_much_later_is_left_alone() -> None:
    first = compare_claims([A], ran=NONE, run=NONE, before=Comparison())
    second = compare_claims([A], ran={A}, run={A}, before=first)
    third = compare_claims([A], ran=NONE, run=NONE, before=second)
    assert third.never_came == NONE


Answer = Callable[["UnreliableQueue", list[ClaimedJob]], list[ClaimedJob]]


class UnreliableQueue(InMemoryJobRepository):
    """The first claim is made, and then its answer goes the way that the test says."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer: Answer | None = answer
        self.given_back: list[Claim] = []
        self.gave_back = threading.Event()

    def fetch_next_jobs(self, task_types: Sequence[str], limit: int) -> list[ClaimedJob]:
        claimed = super().fetch_next_jobs(task_types, limit)
        if claimed and self._answer is not None:
            answer, self._answer = self._answer, None
            return answer(self, claimed)
        return claimed

    def give_back_jobs(self, claims: Sequence[Claim]) -> list[Claim]:
        self.given_back += claims
        refused = super().give_back_jobs(claims)
        self.gave_back.set()
        return refused


def lost(queue: UnreliableQueue, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    raise DatabaseUnavailable("the connection broke after the commit")


def late(queue: UnreliableQueue, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    """It comes when the job has been given back."""
    assert queue.gave_back.wait(PATIENCE_SECONDS)
    return claimed


@pytest.mark.parametrize("answer", [lost, late])
async def test_a_job_whose_claim_was_not_answered_is_given_back_and_run_once(
    answer: Answer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_plugin(tmp_path, "acting", "acting:Acting")
    monkeypatch.setenv("PYTHONPATH", search_path(tmp_path))
    queue = UnreliableQueue(answer)
    queue.add_job(Job(job_id="j", task_type="act", params={"do": "nothing"}), max_retries=0)
    worker = Worker(
        WorkerSettings(
            worker_id="w",
            concurrency=1,
            task_types=("act",),
            until="stopped",
            lease_seconds=3.0,
            job_timeout_seconds=60.0,
            job_memory_bytes=1024**3,
            poll_interval_seconds=0.2,
            grace_seconds=5.0,
            log_level="INFO",
        ),
        queue=queue,
        storage=ScratchStorage(tmp_path),
        broadcaster=NoOpBroadcaster(),
        presence=PresenceSettings("workers", "w", 30.0),
    )
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while queue.jobs.rows["j"].job.status != "completed":
            await asyncio.sleep(0.02)
            assert not running.done()
        worker.stop()
        await running
    assert [claim.job_id for claim in queue.given_back] == ["j"]
    told = [event["event_type"] for event in queue.broadcaster.events]
    assert told == ["queued", "started", "queued", "started", "completed"]
    assert "discarded" not in caplog.text
