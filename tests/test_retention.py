"""Retention: what was kept for long enough goes, with all that belongs to it; nothing live does."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from cl_ml_tools.workspace import start_attempt
from cl_server_shared import FileStorageService
from cl_server_shared.database import Database
from cl_server_shared.event_log import EventLog
from cl_server_shared.maintenance import RetentionLimits, run_maintenance_once
from cl_server_shared.maintenance.passes import Pass
from cl_server_shared.maintenance.retention import apply_retention, delete_ended_jobs
from cl_server_shared.maintenance.workspaces import sweep_workspaces
from cl_server_shared.models import Job, JobAttempt, JobCount, JobEvent, JobOptions
from cl_server_shared.sql import retention
from job_backends import Backend

DAY_SECONDS = 24 * 3600.0
DAY_MS = 24 * 3600 * 1000
LIMITS = RetentionLimits(event_hours=24, job_days=7)


def database_of(sql: Backend) -> Database:
    return Database(sessionmaker(bind=sql.engine), sql.clock)


def retain(
    sql: Backend, limits: RetentionLimits = LIMITS, storage: FileStorageService | None = None
) -> Pass:
    return apply_retention(database_of(sql), limits, storage)


def ended_job(sql: Backend, **options: object) -> str:
    repository = sql.make()
    job_id = sql.add(repository, **options)
    repository.update_job(job_id, status="cancelled")
    assert repository.flush_events(20)  # type: ignore[union-attr]
    return job_id


def job_ids(sql: Backend) -> Sequence[str]:
    with Session(sql.engine) as session:
        return session.scalars(select(Job.job_id).order_by(Job.id)).all()


def count(sql: Backend, model: type) -> int:
    with Session(sql.engine) as session:
        return session.scalars(select(func.count()).select_from(model)).one()


def unmark_events(sql: Backend) -> None:
    with Session(sql.engine) as session:
        session.execute(update(JobEvent).values(acknowledged_at=None))
        session.commit()


def test_an_ended_job_goes_with_every_row_of_its_own(sql: Backend) -> None:
    old = ended_job(sql, priority=9, idempotency_key="key")
    with Session(sql.engine) as session:
        entry_id = session.scalars(select(Job.id)).one()
        session.add(JobAttempt(entry_id=entry_id, attempt=1, ended_at=sql.clock(), outcome="error"))
        session.commit()
    sql.clock.advance(6 * DAY_SECONDS)
    young = ended_job(sql)
    assert retain(sql).counts["jobs_deleted"] == 0
    assert set(job_ids(sql)) == {old, young}
    sql.clock.advance(2 * DAY_SECONDS)

    assert retain(sql).counts["jobs_deleted"] == 1

    assert job_ids(sql) == [young]
    assert (count(sql, JobOptions), count(sql, JobAttempt)) == (0, 0)


def test_what_waits_or_runs_stays_however_old(sql: Backend) -> None:
    repository = sql.make()
    running, waiting = sql.add(repository), sql.add(repository)
    later = sql.add(repository, available_at=sql.clock() + 400 * DAY_MS)
    assert repository.fetch_next_jobs(["t"], 1)[0].job.job_id == running
    repository.flush_events(20)  # type: ignore[union-attr]
    sql.clock.advance(365 * DAY_SECONDS)

    assert retain(sql).counts["jobs_deleted"] == 0
    deleted = delete_ended_jobs(database_of(sql), 0, None, unacknowledged_age_ms=0)
    assert deleted.count == 0
    assert job_ids(sql) == [running, waiting, later]


def test_jobs_are_kept_for_ever_unless_it_is_said(sql: Backend) -> None:
    job_id = ended_job(sql)
    sql.clock.advance(1000 * DAY_SECONDS)
    retain(sql, RetentionLimits(event_hours=24, job_days=0))

    assert job_ids(sql) == [job_id]
    assert count(sql, JobEvent) == 0


def test_more_than_one_page_goes_and_live_ones_between_them_stay(sql: Backend) -> None:
    repository = sql.make()
    live = []
    for number in range(250):
        job_id = sql.add(repository)
        if number % 100 == 50:
            live.append(job_id)
        else:
            repository.update_job(job_id, status="cancelled")
    assert repository.flush_events(20)  # type: ignore[union-attr]
    sql.clock.advance(8 * DAY_SECONDS)

    done, deleted = retain(sql), 0
    while done.more:  # a pass has its time
        deleted += done.counts["jobs_deleted"]
        done = retain(sql)
    assert deleted + done.counts["jobs_deleted"] == 248
    assert job_ids(sql) == live


def test_a_retried_job_is_seen_again_under_the_lock(sql: Backend) -> None:
    """Its page was read when it had ended."""
    job_id = ended_job(sql)
    sql.clock.advance(8 * DAY_SECONDS)
    database = database_of(sql)
    with database.reading() as transaction:
        (seen,) = retention.oldest_jobs(transaction, (-1, -1), 10, 7 * DAY_MS)
    assert seen.is_over
    with Session(sql.engine) as session:
        session.execute(update(Job).values(status="queued", completed_at=None))
        session.commit()
    with database.transaction() as transaction:
        assert retention.delete_ended_jobs(transaction, [seen.id], 7 * DAY_MS, 0) == []
    assert job_ids(sql) == [job_id]


def test_old_events_go_and_young_ones_stay(sql: Backend) -> None:
    ended_job(sql)
    sql.clock.advance(23 * 3600)
    ended_job(sql)
    assert retain(sql).counts["events_deleted"] == 0
    sql.clock.advance(2 * 3600)

    assert retain(sql).counts["events_deleted"] == 2
    assert count(sql, JobEvent) == 2


def test_more_than_one_page_of_events_goes(sql: Backend) -> None:
    repository = sql.make()
    for _ in range(600):
        sql.add(repository)
    assert repository.flush_events(20)  # type: ignore[union-attr]
    sql.clock.advance(2 * DAY_SECONDS)

    assert retain(sql).counts["events_deleted"] == 600


def test_what_the_broker_never_got_is_kept_for_a_week(sql: Backend) -> None:
    job_id = ended_job(sql)
    unmark_events(sql)
    sql.clock.advance(3 * DAY_SECONDS)

    limits = RetentionLimits(event_hours=24, job_days=1)
    assert dict(retain(sql, limits).counts) == {
        "events_deleted": 0,
        "jobs_deleted": 0,
        "counts_deleted": 0,
    }
    assert (job_ids(sql), count(sql, JobEvent)) == ([job_id], 2)
    sql.clock.advance(5 * DAY_SECONDS)
    assert retain(sql, limits).counts["events_deleted"] == 2
    assert job_ids(sql) == []


def test_old_counts_go(sql: Backend) -> None:
    with Session(sql.engine) as session:
        for days in (1, 31):
            minute = sql.clock() - days * DAY_MS
            session.add(JobCount(minute=minute, task_type="t", outcome="completed", count=1))
        session.commit()

    assert retain(sql).counts["counts_deleted"] == 1
    assert count(sql, JobCount) == 1


def test_a_reader_goes_on_with_what_is_left(sql: Backend) -> None:
    """Its place is from before the events that were deleted."""
    log = EventLog(sessionmaker(bind=sql.engine))
    first = ended_job(sql)
    place = log.read(0, 10, job_id=first)[0][0]
    everything = log.latest()
    sql.clock.advance(2 * DAY_SECONDS)
    second = ended_job(sql)
    assert retain(sql).counts["events_deleted"] == 2

    assert [event["job_id"] for _, event in log.read(place, 10)] == [second, second]
    sql.clock.advance(2 * DAY_SECONDS)
    assert retain(sql).counts["events_deleted"] == 2
    assert log.read(place, 10) == []
    third = ended_job(sql)
    read = log.read(place, 10)
    assert [event["job_id"] for _, event in read] == [third, third]
    assert read[0][0] > everything  # no place is given twice
    assert log.latest() == read[-1][0]


@pytest.fixture
def storage(tmp_path: Path) -> FileStorageService:
    return FileStorageService(tmp_path / "compute")


def make_workspace(storage: FileStorageService, job_id: str, *, age_days: float = 0) -> Path:
    folder = storage.create_job_directory(job_id)
    (folder / "input" / "a.txt").write_text("12345")
    then = time.time() - age_days * DAY_SECONDS
    for path in (folder / "input" / "a.txt", folder / "input", folder / "output", folder):
        os.utime(path, (then, then))
    return folder


def test_the_workspaces_of_deleted_jobs_go(sql: Backend, storage: FileStorageService) -> None:
    old, live = ended_job(sql), sql.add(sql.make())
    gone, stays = make_workspace(storage, old), make_workspace(storage, live)
    sql.clock.advance(8 * DAY_SECONDS)

    deleted = delete_ended_jobs(database_of(sql), 7 * DAY_MS, storage)

    assert (deleted.count, deleted.freed_bytes, deleted.more) == (1, 5, False)
    assert not gone.exists() and stays.exists()


def test_orphaned_workspaces_go_after_a_day(sql: Backend, storage: FileStorageService) -> None:
    known = make_workspace(storage, sql.add(sql.make()), age_days=9)
    new = make_workspace(storage, "new", age_days=0.9)
    growing = make_workspace(storage, "growing", age_days=2)
    (growing / "input" / "more.part").write_text("an upload that takes long")
    orphan = make_workspace(storage, "orphan", age_days=2)
    cut_off = make_workspace(storage, ".deleted-0123", age_days=2)
    other = storage.base_dir / "jobs" / "not a workspace"
    other.mkdir()
    os.utime(other, (0, 0))
    (storage.base_dir / "jobs" / "linked").symlink_to(orphan)

    done = sweep_workspaces(database_of(sql), storage)

    assert done.counts == {"workspaces_deleted": 2, "outputs_published": 0}
    assert not orphan.exists() and not cut_off.exists()
    assert all(folder.exists() for folder in (known, new, growing, other))


def test_no_storage_has_no_orphans(sql: Backend, storage: FileStorageService) -> None:
    done = sweep_workspaces(database_of(sql), storage)

    assert done.counts == {"workspaces_deleted": 0, "outputs_published": 0}


def test_the_output_of_a_worker_that_died_before_it_showed_it_is_shown(
    sql: Backend, storage: FileStorageService
) -> None:
    repository = sql.make()
    completed, cancelled, live = (sql.add(repository) for _ in range(3))
    repository.update_job(completed, status="completed")
    repository.update_job(cancelled, status="cancelled")
    for job_id in (completed, cancelled, live):
        folder = start_attempt(make_workspace(storage, job_id), 1)
        (folder / "result.txt").write_text(job_id)

    done = sweep_workspaces(database_of(sql), storage)

    assert done.counts == {"workspaces_deleted": 0, "outputs_published": 1}
    assert (storage.get_output_path(completed) / "result.txt").read_text() == completed
    assert not (storage.get_job_path(completed) / "attempts").exists()
    for job_id in (cancelled, live):
        assert not list(storage.get_output_path(job_id).iterdir())
    assert sweep_workspaces(database_of(sql), storage).counts["outputs_published"] == 0


def test_a_wrong_folder_is_left_alone(sql: Backend, storage: FileStorageService) -> None:
    orphan = make_workspace(storage, "orphan", age_days=2)

    def check() -> None:
        raise RuntimeError("the disk is not there")

    with pytest.raises(RuntimeError):
        sweep_workspaces(database_of(sql), storage, check_storage=check)
    assert orphan.exists()


def test_a_library_user_sets_how_long(
    sql: Backend, storage: FileStorageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_RETENTION_DAYS", "2")
    sql.clock.ms = time.time_ns() // 1_000_000 - 3 * DAY_MS
    folder = make_workspace(storage, ended_job(sql))

    report = run_maintenance_once(sessionmaker(bind=sql.engine), storage=storage)

    assert report.counts["jobs_deleted"] == 1
    assert job_ids(sql) == [] and not folder.exists()
