"""`JobControl` and `TaskControl`: ending jobs, running them again, pauses and limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from cl_ml_tools.errors import ClaimLost, IllegalTransition
from cl_ml_tools.protocols import ClaimedJob
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.control import JobControl, JobFilter
from cl_server_shared.errors import UnknownJob
from cl_server_shared.task_control import TaskControl, TaskSetting
from job_backends import Backend

ALL = JobFilter(everything=True)


@pytest.fixture
def control(sql: Backend) -> Iterator[JobControl]:
    yield from control_of(sql)


@pytest.fixture
def shared_control(shared_sql: Backend) -> Iterator[JobControl]:
    yield from control_of(shared_sql)


def control_of(backend: Backend) -> Iterator[JobControl]:
    made = JobControl(sessionmaker(bind=backend.engine), clock=backend.clock)
    made.broadcaster = backend.broadcaster
    yield made
    made.flush_events(5)


@pytest.fixture
def tasks(sql: Backend) -> TaskControl:
    return TaskControl(sessionmaker(bind=sql.engine), clock=sql.clock)


def status_of(repository: SQLAlchemyJobRepository, job_id: str) -> str:
    job = repository.get_job(job_id)
    assert job is not None
    return job.status


def row_of(backend: Backend, table: str, job_id: str) -> Any:
    assert backend.engine is not None
    with backend.engine.connect() as connection:
        query = text(f"SELECT * FROM {table} WHERE job_id = :job_id")
        return connection.execute(query, {"job_id": job_id}).first()


def claim(repository: SQLAlchemyJobRepository) -> ClaimedJob:
    (claimed,) = repository.fetch_next_jobs(["t"], 1)
    return claimed


def fail(repository: SQLAlchemyJobRepository, error: str = "broken") -> ClaimedJob:
    claimed = claim(repository)
    repository.fail_job(claimed.claim, error, retryable=False)
    return claimed


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run all at the same moment; return what each returned, or raised."""
    start = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        start.wait(20)
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=[index]) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


# Cancel


def test_a_waiting_job_is_cancelled_at_once(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    due = sql.add(repository)
    later = sql.add(repository, available_at=sql.clock() + 60_000)

    assert [control.cancel_job(job_id) for job_id in (due, later)] == ["cancelled", "cancelled"]

    for job_id in (due, later):
        assert status_of(repository, job_id) == "cancelled"
        assert sql.told(job_id) == ["queued", "cancelled"]
        assert row_of(sql, "jobs", job_id).completed_at == sql.clock()
        assert row_of(sql, "queue_entries", job_id) is None
    assert repository.fetch_next_job(["t"]) is None


def test_whoever_runs_a_job_is_asked_to_end_it(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    job_id = sql.add(repository)
    claim(repository)

    assert [control.cancel_job(job_id), control.cancel_job(job_id)] == ["processing"] * 2

    assert row_of(sql, "queue_entries", job_id).cancel_requested == 1
    assert status_of(repository, job_id) == "processing"
    assert sql.told(job_id) == ["queued", "started"]
    repository.update_job(job_id, status="completed")  # it was quicker
    with pytest.raises(IllegalTransition, match="completed"):
        control.cancel_job(job_id)


def test_a_job_whose_worker_fell_silent_is_cancelled_at_once(
    sql: Backend, control: JobControl
) -> None:
    if not sql.leases_end:
        pytest.skip("a lease does not end there")
    worker = sql.make()
    job_id = sql.add(worker)
    worker.register_instance("w", {}, 1)
    claimed = claim(worker)
    sql.clock.advance(61)

    assert control.cancel_job(job_id) == "cancelled"

    with pytest.raises(ClaimLost):
        worker.fail_job(claimed.claim, "late")
    assert sql.told(job_id) == ["queued", "started", "cancelled"]


def test_an_ended_job_is_not_cancelled(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    job_id = sql.add(repository)
    fail(repository)
    with pytest.raises(IllegalTransition):
        control.cancel_job(job_id)
    with pytest.raises(UnknownJob):
        control.cancel_job("none")
    cancelled = sql.add(repository)
    control.cancel_job(cancelled)
    assert control.cancel_job(cancelled) == "cancelled"  # it is already: nothing is told again
    assert sql.told(cancelled) == ["queued", "cancelled"]


def test_of_a_claim_and_a_cancel_at_once_each_job_knows_one(
    shared_sql: Backend, shared_control: JobControl
) -> None:
    """Sixteen threads: what a claim won runs and is asked to end, what a cancel won never starts."""
    repository, control = shared_sql.make(), shared_control
    job_ids = [shared_sql.add(repository) for _ in range(40)]
    workers = [shared_sql.make() for _ in range(8)]

    def take(worker: SQLAlchemyJobRepository) -> list[str]:
        return [claimed.job.job_id for claimed in worker.fetch_next_jobs(["t"], 5)]

    def cancel(part: list[str]) -> list[str]:
        return [job_id for job_id in part if control.cancel_job(job_id) == "cancelled"]

    results = at_once(
        *[lambda worker=worker: take(worker) for worker in workers],  # type: ignore[misc]
        *[lambda part=job_ids[i::8]: cancel(part) for i in range(8)],  # type: ignore[misc]
    )

    assert [result for result in results if isinstance(result, Exception)] == []
    claimed = {job_id for result in results[:8] for job_id in result}
    cancelled = {job_id for result in results[8:] for job_id in result}
    assert not claimed & cancelled and claimed | cancelled == set(job_ids)
    for job_id in job_ids:
        expected = "processing" if job_id in claimed else "cancelled"
        assert status_of(repository, job_id) == expected
        last = "started" if job_id in claimed else "cancelled"
        assert shared_sql.told(job_id) == ["queued", last]


# Retry


def test_a_failed_job_is_queued_as_if_it_were_new(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    job_id = sql.add(repository, priority=8, timeout_seconds=7.5, max_retries=1)
    first = claim(repository)
    repository.report_progress(first.claim, 40)
    assert repository.fail_job(first.claim, "once") == "queued"
    sql.clock.advance(10)
    fail(repository, "twice")
    sql.clock.advance(60)

    control.retry_job(job_id)

    row, entry = row_of(sql, "jobs", job_id), row_of(sql, "queue_entries", job_id)
    assert (row.status, row.retry_count, row.progress) == ("queued", 0, 0)
    assert (row.completed_at, row.error_message) == (None, "twice")
    assert (entry.priority, entry.timeout_seconds) == (8, 7.5)
    assert entry.enqueued_at == sql.clock()
    event = sql.events_of(job_id)[-1]
    assert (event["event_type"], event["attempt"], event["progress"]) == ("queued", 1, 0)
    again = claim(repository)
    assert (again.attempt, again.timeout_seconds) == (1, 7.5)
    assert repository.fail_job(again.claim, "thrice") == "queued"  # all its re-runs are back
    control.retry_job(job_id)  # it is queued: nothing happens
    assert sql.told(job_id)[-1] == "retrying"


def test_a_retried_job_takes_its_place_by_its_priority(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    urgent = sql.add(repository, priority=10)
    control.cancel_job(urgent)
    plain = sql.add(repository)

    control.retry_job(urgent)

    claimed = repository.fetch_next_jobs(["t"], 2)
    assert [each.job.job_id for each in claimed] == [urgent, plain]


def test_a_job_that_runs_or_has_completed_is_not_retried(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    job_id = sql.add(repository)
    claim(repository)
    with pytest.raises(IllegalTransition, match="processing"):
        control.retry_job(job_id)
    repository.update_job(job_id, status="completed")
    with pytest.raises(IllegalTransition, match="completed"):
        control.retry_job(job_id)
    with pytest.raises(UnknownJob):
        control.retry_job("none")


def test_what_an_earlier_claim_writes_late_is_refused(sql: Backend, control: JobControl) -> None:
    """The same instance holds the job again: only `claim_seq` tells its claims apart."""
    repository = sql.make()
    job_id = sql.add(repository)
    claims = []
    for _ in range(5):
        claims.append(fail(repository).claim)
        control.retry_job(job_id)
    held = claim(repository).claim

    assert len({each.instance_id for each in claims}) == 1
    assert [each.claim_seq for each in (*claims, held)] == sorted(
        {each.claim_seq for each in (*claims, held)}
    )
    for late in claims:
        with pytest.raises(ClaimLost):
            repository.report_progress(late, 90)
    repository.report_progress(held, 90)


def test_of_many_that_retry_a_job_at_once_one_does(
    shared_sql: Backend, shared_control: JobControl
) -> None:
    repository, control = shared_sql.make(), shared_control
    job_id = shared_sql.add(repository)
    fail(repository)

    results = at_once(*[lambda: control.retry_job(job_id)] * 16)

    assert results == [None] * 16
    assert shared_sql.told(job_id).count("queued") == 2
    assert status_of(repository, job_id) == "queued"


def test_a_cancel_and_a_retry_at_once_leave_a_whole_job(
    shared_sql: Backend, shared_control: JobControl
) -> None:
    repository, control = shared_sql.make(), shared_control
    for _ in range(10):
        job_id = shared_sql.add(repository)
        control.cancel_job(job_id)
        results = at_once(
            *[lambda job_id=job_id: control.retry_job(job_id)] * 8,  # type: ignore[misc]
            *[lambda job_id=job_id: control.cancel_job(job_id)] * 8,  # type: ignore[misc]
        )
        assert results == [None] * 8 + ["cancelled"] * 8
        is_queued = status_of(repository, job_id) == "queued"
        assert (row_of(shared_sql, "queue_entries", job_id) is not None) == is_queued
        told = shared_sql.events_of(job_id)
        assert len({event["event_id"] for event in told}) == len(told)


# All that match


def test_all_that_match_are_cancelled_in_batches(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    claimed_id = sql.add(repository, created_by="ann")
    claim(repository)
    mine = [sql.add(repository, created_by="ann") for _ in range(230)]
    others = [sql.add(repository, created_by="bob") for _ in range(3)]

    assert control.cancel_jobs(JobFilter(created_by="ann")) == [claimed_id, *mine]

    assert {status_of(repository, job_id) for job_id in mine} == {"cancelled"}
    assert {status_of(repository, job_id) for job_id in others} == {"queued"}
    assert row_of(sql, "queue_entries", claimed_id).cancel_requested == 1
    assert all(sql.told(job_id) == ["queued", "cancelled"] for job_id in mine)
    assert control.cancel_jobs(JobFilter(created_by="ann")) == []  # who runs one was asked already


def test_each_criterion_narrows_the_filter(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    early = sql.add(repository)
    sql.clock.advance(10)
    border = sql.clock()
    late = sql.add(repository)
    other = sql.add(repository, "other")
    claimed_id = sql.add(repository, "claimed")
    repository.fetch_next_job(["claimed"])

    def found(**criteria: Any) -> list[str]:
        return list(control.cancel_batch(JobFilter(**criteria), dry_run=True).job_ids)

    assert found(task_type="t") == [early, late]
    assert found(added_before=border) == [early]
    assert found(added_after=border) == [late, other, claimed_id]
    assert found(status="processing") == [claimed_id]
    assert found(status="queued", task_type="t", added_after=border) == [late]
    assert found(created_by="nobody") == []
    assert found(everything=True) == [early, late, other, claimed_id]


def test_all_that_failed_are_retried_once_each(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    failed = [sql.add(repository) for _ in range(120)]
    for claimed in repository.fetch_next_jobs(["t"], 120):
        repository.fail_job(claimed.claim, "broken", retryable=False)
    cancelled = sql.add(repository)
    control.cancel_job(cancelled)
    done = sql.add(repository)
    claim(repository)
    repository.update_job(done, status="completed")

    assert control.retry_jobs(JobFilter(status="cancelled")) == [cancelled]
    assert control.retry_jobs(ALL) == failed

    assert len(repository.fetch_next_jobs(["t"], 200)) == 121
    assert status_of(repository, done) == "completed"


def test_batches_go_on_where_the_last_ended(sql: Backend, control: JobControl) -> None:
    repository = sql.make()
    job_ids = [sql.add(repository) for _ in range(5)]
    first = control.cancel_batch(ALL, limit=2, dry_run=True)
    assert first.next_after is not None
    second = control.cancel_batch(ALL, limit=5, after=first.next_after, dry_run=True)
    assert (list(first.job_ids), list(second.job_ids)) == (job_ids[:2], job_ids[2:])
    assert second.next_after is None
    assert status_of(repository, job_ids[0]) == "queued"


@pytest.mark.parametrize("time_ms", ["1700000000000", "yesterday", 1.5, True, -1, 2**63])
@pytest.mark.parametrize("name", ["added_after", "added_before"])
def test_a_time_that_is_none_finds_nothing(
    sql: Backend, control: JobControl, name: str, time_ms: Any
) -> None:
    job_id = sql.add(sql.make())

    with pytest.raises(ValueError, match=name):
        control.cancel_jobs(JobFilter(task_type="t", **{name: time_ms}))
    assert sql.told(job_id) == ["queued"]


def test_a_batch_is_of_one_job_at_least(sql: Backend, control: JobControl) -> None:
    with pytest.raises(ValueError, match="limit 0"):
        control.cancel_batch(ALL, limit=0)


@pytest.mark.parametrize("wanted", [JobFilter(), JobFilter(status="completed", everything=True)])
def test_a_filter_that_says_nothing_or_nonsense_is_refused(wanted: JobFilter) -> None:
    control = JobControl(sessionmaker())
    for change in (control.cancel_jobs, control.retry_jobs):
        with pytest.raises(ValueError):
            change(wanted)


# Pauses and limits


def test_pauses_and_limits_are_kept_until_they_are_taken_back(
    sql: Backend, tasks: TaskControl
) -> None:
    paused_at = sql.clock()
    tasks.pause_task_type("t", "broken camera", "1")
    tasks.limit_task_type("u", 3)
    sql.clock.advance(5)
    tasks.pause_task_type("t", "still broken", "2")
    tasks.limit_task_type("t", 2)

    assert tasks.list_task_settings() == [
        TaskSetting("t", 2, paused_at, "2", "still broken"),
        TaskSetting("u", 3),
    ]
    tasks.resume_task_type("t")
    tasks.resume_task_type("never paused")
    assert tasks.list_task_settings() == [TaskSetting("t", 2), TaskSetting("u", 3)]
    tasks.limit_task_type("t", None)
    tasks.limit_task_type("u", None)
    assert tasks.list_task_settings() == []


@pytest.mark.parametrize("max_running", [0, -1, True, 1.5, 2**31])
def test_a_limit_is_a_whole_number_of_at_least_one(max_running: Any) -> None:
    with pytest.raises(ValueError, match="max_running"):
        TaskControl(sessionmaker()).limit_task_type("t", max_running)


def test_what_cannot_be_stored_is_refused() -> None:
    tasks = TaskControl(sessionmaker())
    for call in (
        lambda: tasks.pause_task_type("t\0"),
        lambda: tasks.pause_task_type("t", ""),
        lambda: tasks.pause_task_type("t", "x" * 1001),
        lambda: tasks.resume_task_type(""),
    ):
        with pytest.raises(ValueError):
            call()
