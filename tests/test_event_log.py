"""`EventLog`: reading on from a position misses nothing and gets nothing twice."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from cl_ml_tools import Job
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.event_log import EventLog
from cl_server_shared.models import JobEvent
from job_backends import Backend, complete, engine_for, wait_until


def job(job_id: str) -> Job:
    return Job(job_id=job_id, task_type="t")


def told(read: list[tuple[int, dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(event["job_id"], event["event_type"]) for _, event in read]


@pytest.fixture
def log(sql: Backend) -> EventLog:
    return EventLog(sessionmaker(bind=sql.engine))


def test_an_empty_log_reads_empty(sql: Backend, log: EventLog) -> None:
    assert log.read(0, 10) == []
    assert log.read(log.latest(), 10) == []


def test_what_is_read_is_what_was_published(sql: Backend, log: EventLog) -> None:
    repository = sql.make()
    position = log.latest()
    done, _, cancelled = (sql.add(repository) for _ in range(3))
    for claimed in repository.fetch_next_jobs(["t"], 2):
        if claimed.job.job_id == done:
            repository.report_progress(claimed.claim, 30)
            complete(repository, claimed.claim, {"a": [1]})
        else:
            repository.fail_job(claimed.claim, "no", retryable=False)
    repository.update_job(cancelled, status="cancelled")

    published = [event for event in sql.broadcaster.events if event["event_type"] != "progress"]
    read = log.read(position, 100)
    assert [event for _, event in read] == published
    positions = [place for place, _ in read]
    assert positions == sorted(set(positions)) and positions[-1] == log.latest()


def test_reading_in_pieces_gives_each_once(sql: Backend, log: EventLog) -> None:
    repository = sql.make()
    position = log.latest()
    for number in range(10):
        repository.add_job(job(str(number)))

    seen: list[str] = []
    while True:
        piece = log.read(position, 3)
        if not piece:
            break
        assert len(piece) <= 3
        seen += [event["job_id"] for _, event in piece]
        position = piece[-1][0]
    assert seen == [str(number) for number in range(10)]


def test_only_what_was_asked_for_is_read(sql: Backend, log: EventLog) -> None:
    repository = sql.make()
    repository.add_job(job("mine"), created_by="me")
    repository.add_job(job("yours"), created_by="you")
    repository.add_job(job("nobodys"))
    repository.update_job("mine", status="cancelled")

    assert told(log.read(0, 10, job_id="mine")) == [("mine", "queued"), ("mine", "cancelled")]
    assert told(log.read(0, 10, created_by="you")) == [("yours", "queued")]
    assert log.read(0, 10, job_id="mine", created_by="you") == []


def test_a_deleted_job_leaves_no_events(sql: Backend, log: EventLog) -> None:
    repository = sql.make()
    repository.add_job(job("a"))
    repository.add_job(job("b"))
    log.read(0, 10)
    repository.delete_job("a")

    assert told(log.read(0, 10)) == [("b", "queued")]


def test_a_transaction_that_commits_late_is_not_missed(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    factory = sessionmaker(bind=engine)
    repository, log = SQLAlchemyJobRepository(factory), EventLog(factory)
    with Session(engine) as early:
        repository.add_job(job("first"), session=early)  # takes its number ...
        repository.add_job(job("second"))  # ... and is overtaken
        seen = log.read(log.latest() - 1, 10)
        assert told(seen) == [("second", "queued")]
        early.commit()
    repository.add_job(job("third"))

    rest = log.read(seen[-1][0], 10)
    assert told(rest) == [("first", "queued"), ("third", "queued")]
    assert told(log.read(rest[-1][0], 10)) == []
    ids = [event["event_id"] for _, event in [*seen, *rest]]
    assert ids[1] < ids[0] < ids[2]  # the numbers that were given within the transactions
    engine.dispose()


def test_readers_and_writers_at_once_miss_nothing(postgresql_url: str) -> None:
    """Numbering, marking as acknowledged and deleting change the same rows: nobody deadlocks."""
    engine = engine_for(postgresql_url)
    factory = sessionmaker(bind=engine)
    errors: list[BaseException] = []
    seen: list[list[str]] = [[], []]
    ended = threading.Event()

    class Acknowledging:
        def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
            return True

    def write(number: int) -> None:
        repository = SQLAlchemyJobRepository(factory)
        repository.broadcaster = Acknowledging()
        try:
            for n in range(40):
                repository.add_job(job(f"{number}-{n}"))
                repository.flush_events(0.05)
                if n % 4 == 3:
                    repository.add_job(job(f"short-{number}-{n}"))
                    repository.delete_job(f"short-{number}-{n}")
            assert repository.flush_events(20)
        except BaseException as error:
            errors.append(error)

    def read(kept: list[str]) -> None:
        log, position = EventLog(factory), 0
        try:
            while True:
                last_round = ended.is_set()
                read = log.read(position, 7)
                if not read and last_round:
                    return
                kept += [event["job_id"] for _, event in read]
                position = read[-1][0] if read else position
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read, args=[kept]) for kept in seen]
    writers = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in readers:
        thread.join()

    assert errors == []
    expected = sorted(f"{number}-{n}" for number in range(4) for n in range(40))
    for kept in seen:
        assert sorted(one for one in kept if not one.startswith("short")) == expected
    with Session(engine) as session:
        unmarked = select(JobEvent).where(JobEvent.acknowledged_at.is_(None))
        wait_until(lambda: not session.scalars(unmarked).all(), "all are marked")
    engine.dispose()
