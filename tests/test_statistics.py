"""What operators look at: what waits and runs, who works, what ended, and who waits in vain."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from broker_process import BrokerProcess
from cl_ml_tools import get_broadcaster
from cl_ml_tools.protocols import Completion
from cl_ml_tools.testing import RecordingBroadcaster
from cl_server_shared import Config, SQLAlchemyJobRepository
from cl_server_shared.counting import EVENTS_AT_ONCE, count_ended_jobs
from cl_server_shared.database import Database
from cl_server_shared.maintenance.unserved import UNSERVED_SECONDS, UnservedWatch
from cl_server_shared.models import Duty, JobCount, TaskSettings
from cl_server_shared.statistics import COUNTED_AT_MOST, JobStatistics, TaskTypeState
from job_backends import Backend, Clock, engine_for, wait_until

MINUTE_MS = 60_000


@pytest.fixture
def statistics(sql: Backend) -> JobStatistics:
    return JobStatistics(sessionmaker(bind=sql.engine), clock=sql.clock)


def database(backend: Backend) -> Database:
    return Database(sessionmaker(bind=backend.engine), backend.clock)


def states(statistics: JobStatistics) -> dict[str, TaskTypeState]:
    return {state.task_type: state for state in statistics.list_task_types()}


def totals(statistics: JobStatistics) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for each in statistics.count_ended(0):
        found[each.task_type, each.outcome] += each.count
    return found


# What waits and runs


def test_without_jobs_there_is_nothing_to_tell(statistics: JobStatistics) -> None:
    assert statistics.list_task_types() == []
    assert statistics.list_workers() == []
    assert statistics.list_unserved_types() == []
    assert statistics.count_ended(0) == []


def test_each_task_type_says_what_waits_and_what_runs(
    sql: Backend, statistics: JobStatistics
) -> None:
    repository = sql.make()
    repository.register_instance("w", {"a": {}, "idle": {}}, concurrency=4)
    for _ in range(5):
        sql.add(repository, "a")
    sql.clock.advance(3)
    sql.add(repository, "b")
    sql.add(repository, "b", available_at=sql.clock.ms + 60_000)
    sql.clock.advance(2)
    repository.fetch_next_jobs(["a"], 2)

    assert statistics.list_task_types() == [
        TaskTypeState("a", waiting=3, running=2, oldest_waiting_seconds=5.0, is_served=True),
        TaskTypeState("b", waiting=1, not_yet_due=1, oldest_waiting_seconds=2.0),
        TaskTypeState("idle", is_served=True),
    ]


def test_a_job_whose_time_has_come_waits_also_before_a_claim_has_looked(
    sql: Backend, statistics: JobStatistics
) -> None:
    sql.add(sql.make(), "a", available_at=sql.clock.ms + 10_000)
    assert states(statistics)["a"] == TaskTypeState("a", not_yet_due=1)
    assert statistics.list_unserved_types() == []

    sql.clock.advance(14)

    assert states(statistics)["a"] == TaskTypeState("a", waiting=1, oldest_waiting_seconds=4.0)
    assert [each.task_type for each in statistics.list_unserved_types()] == ["a"]


def test_the_oldest_is_found_behind_younger_ones_of_more_weight(
    sql: Backend, statistics: JobStatistics
) -> None:
    repository = sql.make()
    sql.add(repository, "a", priority=0)
    sql.clock.advance(100)
    for _ in range(3):
        sql.add(repository, "a", priority=10)

    assert states(statistics)["a"].oldest_waiting_seconds == 100.0


def test_a_failed_attempt_waits_for_its_re_run(sql: Backend, statistics: JobStatistics) -> None:
    repository = sql.make()
    sql.add(repository, "a")
    (claimed,) = repository.fetch_next_jobs(["a"], 1)
    repository.fail_job(claimed.claim, "no")

    assert states(statistics)["a"] == TaskTypeState("a", not_yet_due=1)
    assert totals(statistics) == {("a", "retrying"): 1}


def test_pauses_and_limits_are_told(sql: Backend, statistics: JobStatistics) -> None:
    with Session(sql.engine) as session:
        session.add(TaskSettings(task_type="a", paused_at=1, paused_by="ann"))
        session.add(TaskSettings(task_type="b", max_running=2))
        session.commit()

    assert statistics.list_task_types() == [
        TaskTypeState("a", is_paused=True),
        TaskTypeState("b", max_running=2),
    ]


def test_counts_end_where_they_would_cost_too_much(
    sql: Backend, statistics: JobStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_server_shared.statistics.COUNTED_AT_MOST", 3)
    repository = sql.make()
    for task_type in "aab":
        for _ in range(3):
            sql.add(repository, task_type)

    assert {name: state.waiting for name, state in states(statistics).items()} == {"a": 3, "b": 3}
    assert COUNTED_AT_MOST > 3


# Who works


def test_live_workers_are_listed_and_dead_ones_are_not(
    sql: Backend, statistics: JobStatistics
) -> None:
    dead, live, caller = sql.make(), sql.make(), sql.make()
    dead.register_instance("dead", {"a": {}}, concurrency=1)
    sql.clock.advance(45)
    started_at = sql.clock.ms
    instance_id = live.register_instance("live", {"b": {"type": "object"}, "a": {}}, concurrency=4)
    sql.clock.advance(30)
    live.renew_lease(2)
    sql.add(caller, "c")
    caller.fetch_next_job(["c"])  # an instance that serves nobody

    workers = statistics.list_workers()

    if not sql.leases_end:
        assert [worker.label for worker in workers] == ["dead", "live"]
        return
    (worker,) = workers
    assert (worker.instance_id, worker.label) == (instance_id, "live")
    assert (worker.concurrency, worker.running, worker.task_types) == (4, 2, ["a", "b"])
    assert (worker.started_at, worker.renewed_at) == (started_at, started_at + 30_000)
    assert worker.lease_expires_at == sql.clock.ms + 60_000


def test_types_that_wait_and_that_no_live_worker_runs(
    shared_sql: Backend,
) -> None:
    sql = shared_sql  # in memory, a worker does not die
    statistics = JobStatistics(sessionmaker(bind=sql.engine), clock=sql.clock)
    repository, worker = sql.make(), sql.make()
    worker.register_instance("w", {"a": {}}, concurrency=1)
    sql.add(repository, "a")
    sql.add(repository, "b")
    assert [each.task_type for each in statistics.list_unserved_types()] == ["b"]
    assert [each.task_type for each in statistics.list_task_types() if each.is_unserved] == ["b"]

    sql.clock.advance(70)  # the worker went silent

    unserved = statistics.list_unserved_types()
    assert [(each.task_type, each.oldest_waiting_seconds) for each in unserved] == [
        ("a", 70.0),
        ("b", 70.0),
    ]


# What ended


def test_ends_are_counted_per_minute_type_and_outcome(
    sql: Backend, statistics: JobStatistics
) -> None:
    repository = sql.make()
    first_minute = sql.clock.ms // MINUTE_MS * MINUTE_MS
    for task_type in "aaab":
        sql.add(repository, task_type, max_retries=0)
    sql.add(repository, "b", job_id="unwanted")
    one, two, three = repository.fetch_next_jobs(["a"], 3)
    repository.complete_jobs([Completion(one.claim)])
    repository.fail_job(two.claim, "no")
    repository.update_job("unwanted", status="cancelled")
    assert totals(statistics) == {("a", "completed"): 1, ("a", "failed"): 1, ("b", "cancelled"): 1}

    sql.clock.advance(60)
    repository.complete_jobs([Completion(three.claim)])

    ended = [(e.minute, e.task_type, e.outcome, e.count) for e in statistics.count_ended(0)]
    assert ended == [
        (first_minute, "a", "completed", 1),
        (first_minute, "a", "failed", 1),
        (first_minute, "b", "cancelled", 1),
        (first_minute + MINUTE_MS, "a", "completed", 1),
    ]
    since = first_minute + MINUTE_MS + 17
    assert [each.minute for each in statistics.count_ended(since)] == [first_minute + MINUTE_MS]


def test_a_second_count_finds_only_what_is_new(sql: Backend) -> None:
    repository, counted_in = sql.make(), database(sql)
    sql.add(repository, "a", job_id="one")
    repository.update_job("one", status="completed")
    assert count_ended_jobs(counted_in) == 1
    assert count_ended_jobs(counted_in) == 0

    sql.add(repository, "a", job_id="two")
    repository.update_job("two", status="completed")
    assert count_ended_jobs(counted_in) == 1


def test_a_job_that_was_deleted_meanwhile_is_passed_over(
    sql: Backend, statistics: JobStatistics
) -> None:
    repository = sql.make()
    for job_id in ("gone", "kept"):
        sql.add(repository, "a", job_id=job_id)
        repository.update_job(job_id, status="completed")
    with Session(sql.engine) as session:  # as retention does: the events outlive it
        session.execute(text("DELETE FROM jobs WHERE job_id = 'gone'"))
        session.commit()

    assert totals(statistics) == {("a", "completed"): 1}


def test_counting_leaves_the_holder_of_its_duty_alone(sql: Backend) -> None:
    with Session(sql.engine) as session:
        session.add(Duty(name="counting", holder=7, expires_at=9))
        session.commit()
    repository = sql.make()
    sql.add(repository, "a", job_id="one")
    repository.update_job("one", status="completed")

    assert count_ended_jobs(database(sql)) == 1

    with Session(sql.engine) as session:
        duty = session.get_one(Duty, "counting")
        assert (duty.holder, duty.expires_at) == (7, 9)
        assert duty.cursor > 0


def test_more_than_a_batch_is_counted_and_a_time_limit_leaves_the_rest(sql: Backend) -> None:
    repository, counted_in = sql.make(), database(sql)
    sql.add(repository, "a", job_id="one")
    with sql.engine.begin() as connection:  # type: ignore[union-attr]
        entry_id = connection.execute(text("SELECT id FROM jobs")).scalar_one()
        insert = text(
            "INSERT INTO job_events (entry_id, event_type, attempt, progress, created_at) "
            "VALUES (:entry_id, 'retrying', 1, 0, 60000)"
        )
        rows = [{"entry_id": entry_id}] * (2 * EVENTS_AT_ONCE + 10)
        connection.execute(insert, rows)

    first = count_ended_jobs(counted_in, limit_seconds=0)
    assert first == EVENTS_AT_ONCE - 1  # the batch began with the job's own `queued`
    assert first + count_ended_jobs(counted_in) == 2 * EVENTS_AT_ONCE + 10


def test_several_count_at_once_and_each_end_is_counted_once(shared_sql: Backend) -> None:
    errors: list[BaseException] = []
    ended = threading.Event()

    def count() -> None:
        counting = Database(sessionmaker(bind=shared_sql.engine), shared_sql.clock)
        try:
            while not ended.is_set():
                count_ended_jobs(counting)
        except BaseException as error:
            errors.append(error)

    counters = [threading.Thread(target=count) for _ in range(3)]
    for thread in counters:
        thread.start()
    repository = shared_sql.make()
    for number in range(60):
        sql_id = shared_sql.add(repository, f"t{number % 3}")
        repository.update_job(sql_id, status="completed")
    ended.set()
    for thread in counters:
        thread.join()

    statistics = JobStatistics(sessionmaker(bind=shared_sql.engine), clock=shared_sql.clock)
    assert errors == []
    assert totals(statistics) == {(f"t{n}", "completed"): 20 for n in range(3)}


def test_an_end_whose_transaction_commits_late_is_counted(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    factory = sessionmaker(bind=engine)
    repository, counting = SQLAlchemyJobRepository(factory), Database(factory)
    repository.broadcaster = RecordingBroadcaster()
    backend = Backend("postgresql", lambda: repository, Clock(), RecordingBroadcaster())
    one, two = backend.add(repository), backend.add(repository)
    late = engine.connect()
    late.begin()
    event = text(
        "INSERT INTO job_events (entry_id, event_type, attempt, progress, created_at) "
        "SELECT id, 'completed', 1, 100, 60000 FROM jobs WHERE job_id = :job_id"
    )
    late.execute(event, {"job_id": one})  # takes its number, and is overtaken
    repository.update_job(two, status="completed")
    assert count_ended_jobs(counting) == 1
    late.commit()
    late.close()

    assert count_ended_jobs(counting) == 1
    repository.flush_events(5)
    engine.dispose()


# Who waits in vain


@pytest.fixture
def told() -> RecordingBroadcaster:
    return RecordingBroadcaster()


@pytest.fixture
def watch(sql: Backend, statistics: JobStatistics, told: RecordingBroadcaster) -> UnservedWatch:
    return UnservedWatch(statistics, told, monotonic=sql.clock.monotonic)


def kinds(told: RecordingBroadcaster) -> list[tuple[str, str]]:
    return [(event["event_type"], event["task_type"]) for event in told.events]


def test_a_type_that_waits_in_vain_is_told_once_and_its_end_once(
    sql: Backend, watch: UnservedWatch, told: RecordingBroadcaster, caplog: pytest.LogCaptureFixture
) -> None:
    worker = sql.make()
    sql.add(sql.make(), "a")
    watch.look()
    sql.clock.advance(UNSERVED_SECONDS - 1)
    watch.look()
    assert told.events == []

    for _ in range(3):
        sql.clock.advance(1)
        watch.look()
    assert kinds(told) == [("unserved", "a")]
    assert told.events[0]["oldest_waiting_seconds"] == UNSERVED_SECONDS

    worker.register_instance("w", {"a": {}}, concurrency=1)
    for _ in range(2):
        watch.look()
    assert kinds(told) == [("unserved", "a"), ("served", "a")]
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "jobs of the task 'a' wait and no worker runs it",
        "no job of the task 'a' waits in vain any more",
    ]


def test_a_worker_that_restarts_is_no_news(
    sql: Backend, watch: UnservedWatch, told: RecordingBroadcaster
) -> None:
    worker = sql.make()
    sql.add(sql.make(), "a")
    watch.look()
    worker.register_instance("w", {"a": {}}, concurrency=1)
    watch.look()
    worker.release_instance()
    watch.look()
    sql.clock.advance(UNSERVED_SECONDS - 1)
    watch.look()

    assert told.events == []


def test_it_is_told_on_a_topic_of_its_own(
    sqlite_file: Backend, mqtt_environment: BrokerProcess
) -> None:
    broadcaster = get_broadcaster("mqtt", Config.MQTT_BROKER, Config.MQTT_PORT)
    heard: list[dict[str, Any]] = []
    broadcaster.subscribe(
        f"{Config.MQTT_TOPIC}/unserved", lambda _topic, payload: heard.append(json.loads(payload))
    )
    statistics = JobStatistics(sessionmaker(bind=sqlite_file.engine), clock=sqlite_file.clock)
    watch = UnservedWatch(statistics, broadcaster, monotonic=sqlite_file.clock.monotonic)
    sqlite_file.add(sqlite_file.make(), "a")
    watch.look()
    sqlite_file.clock.advance(UNSERVED_SECONDS)

    def is_heard() -> bool:
        watch.look()
        return bool(heard)

    wait_until(is_heard, "the message arrives")
    assert heard[0]["task_type"] == "a"
    assert heard[0].keys() == {
        "event_type",
        "task_type",
        "timestamp",
        "oldest_waiting_seconds",
    }


@pytest.fixture
def sqlite_file(request: pytest.FixtureRequest, sqlite_url: str) -> Any:
    from job_backends import sql_backend

    with sql_backend("sqlite-file", sqlite_url) as backend:
        yield backend


# PostgreSQL's vacuum


def test_sqlite_has_no_vacuum_to_watch(sqlite_file: Backend) -> None:
    assert JobStatistics(sessionmaker(bind=sqlite_file.engine)).vacuum_state() is None


def test_dead_rows_and_who_keeps_them_are_told(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    statistics = JobStatistics(sessionmaker(bind=engine))
    state = statistics.vacuum_state()
    assert state is not None
    assert state.dead_rows.keys() == {"jobs", "queue_entries", "job_events", "workers", "duties"}

    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(select(JobCount))  # its snapshot is older than what follows
        with engine.begin() as connection:
            connection.execute(update(JobCount).values(count=1))
            connection.execute(delete(JobCount))
            connection.execute(text("INSERT INTO duties VALUES ('x', 0, 0, 0)"))
        state = statistics.vacuum_state()
        assert state is not None
        (hold,) = [hold for hold in state.holds if hold.kind == "transaction"]
        assert hold.transactions >= 1
        assert hold.seconds is not None and hold.seconds > 0
    engine.dispose()


def test_a_writer_that_is_idle_keeps_vacuum_back_too(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    with engine.begin() as idle:
        idle.execute(text("INSERT INTO duties VALUES ('x', 0, 0, 0)"))
        state = JobStatistics(sessionmaker(bind=engine)).vacuum_state()
        assert state is not None
        assert [hold.kind for hold in state.holds] == ["transaction"]
    engine.dispose()
