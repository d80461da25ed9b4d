"""Completions go together while one is written, and each attempt still gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from worker_harness import PATIENCE_SECONDS

from cl_ml_tools import Job
from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.protocols import Claim, Completion
from cl_ml_tools.testing import InMemoryJobRepository
from cl_server.worker.completions import Completions
from cl_server.worker.lane import Lane
from cl_server_shared.errors import DatabaseUnavailable


class HeldQueue(InMemoryJobRepository):
    """Writes completions once the test lets it, and keeps which went together."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.away = False

    def complete_jobs(self, completions: Sequence[Completion]) -> list[Claim]:
        assert self.may_write.acquire(timeout=PATIENCE_SECONDS)
        self.batches.append([item.claim.job_id for item in completions])
        if self.away:
            raise DatabaseUnavailable("the database is away")
        return super().complete_jobs(completions)

    def claim(self, *job_ids: str) -> list[Completion]:
        for job_id in job_ids:
            self.add_job(Job(job_id=job_id, task_type="t", params={}))
        claimed = self.fetch_next_jobs(["t"], len(job_ids))
        return [Completion(item.claim, {"of": item.job.job_id}) for item in claimed]

    def statuses(self) -> dict[str, str]:
        return {job_id: row.job.status for job_id, row in self.jobs.rows.items()}


@pytest.fixture
def queue() -> HeldQueue:
    return HeldQueue()


async def start(
    queue: HeldQueue, items: Sequence[Completion]
) -> tuple[Completions, list[asyncio.Task[None]]]:
    """Complete all; the first of them is being written when the others come."""
    completions = Completions(queue, Lane("writes"))
    tasks = [asyncio.create_task(completions.complete(items[0]))]
    await asyncio.sleep(0)  # it has asked
    await asyncio.sleep(0)  # and its batch is with the thread
    tasks += [asyncio.create_task(completions.complete(item)) for item in items[1:]]
    await asyncio.sleep(0)
    return completions, tasks


async def settled(tasks: Sequence[asyncio.Task[None]]) -> list[BaseException | None]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_completes_while_one_is_written_goes_as_one(queue: HeldQueue) -> None:
    _, tasks = await start(queue, queue.claim("a", "b", "c"))
    queue.may_write.release()
    await settled(tasks[:1])
    assert queue.statuses() == {"a": "completed", "b": "processing", "c": "processing"}
    assert [task.done() for task in tasks] == [True, False, False]
    queue.may_write.release()
    assert await settled(tasks) == [None, None, None]
    assert queue.batches == [["a"], ["b", "c"]]
    assert set(queue.statuses().values()) == {"completed"}


async def test_a_refused_one_is_lost_and_the_others_are_not(queue: HeldQueue) -> None:
    items = queue.claim("a", "b", "c")
    queue.give_back_jobs([items[1].claim])
    queue.may_write.release(2)
    _, tasks = await start(queue, items)
    first, second, third = await settled(tasks)
    assert (first, third) == (None, None)
    assert isinstance(second, ClaimLost)
    assert queue.statuses() == {"a": "completed", "b": "queued", "c": "completed"}


async def test_what_could_not_be_written_is_told_to_each_and_can_be_tried_again(
    queue: HeldQueue,
) -> None:
    items = queue.claim("a", "b", "c")
    queue.away = True
    completions, tasks = await start(queue, items)
    queue.may_write.release(2)
    for error in await settled(tasks):
        assert isinstance(error, DatabaseUnavailable)
    queue.away = False
    queue.may_write.release(3)
    again = [asyncio.create_task(completions.complete(item)) for item in items]
    assert await settled(again) == [None, None, None]
    assert set(queue.statuses().values()) == {"completed"}


async def test_one_that_cannot_be_written_costs_only_itself(queue: HeldQueue) -> None:
    first, second, third = queue.claim("a", "b", "c")
    queue.may_write.release(4)
    _, tasks = await start(queue, [first, Completion(second.claim, {"x": object()}), third])
    answers = await settled(tasks)
    assert isinstance(answers[1], ValueError)
    assert [answers[0], answers[2]] == [None, None]
    assert queue.statuses() == {"a": "completed", "b": "processing", "c": "completed"}


async def test_what_is_not_waited_for_any_more_is_not_written(queue: HeldQueue) -> None:
    """The worker ends, and gives the job back."""
    _, tasks = await start(queue, queue.claim("a", "b", "c"))
    tasks[1].cancel()
    queue.may_write.release(2)
    await settled(tasks)
    assert queue.batches == [["a"], ["c"]]
    assert queue.statuses()["b"] == "processing"
