"""Leases: who is taken for dead, and when, by a clock that may step."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.errors import ClaimLost
from cl_ml_tools.testing import RecordingBroadcaster
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.leases import LeaseWatch
from cl_server_shared.models import Base, JobAttempt, WorkerInstance
from cl_server_shared.sql.leases import Lease
from job_backends import LEASE_SECONDS, Backend, complete, engine_for, wait_until

RENEWAL = LEASE_SECONDS / 3


def lease(renewed_at: int = 0, *, is_over: bool = True, instance_id: int = 1) -> Lease:
    return Lease(instance_id, renewed_at, renewed_at + int(LEASE_SECONDS * 1000), is_over)


def test_a_lease_must_be_seen_over_twice_a_renewal_apart() -> None:
    watch = LeaseWatch()

    assert watch.expired([lease()], 0.0, RENEWAL) == []
    assert watch.expired([lease()], RENEWAL - 0.1, RENEWAL) == []
    assert watch.expired([lease()], RENEWAL, RENEWAL) == [lease()]


def test_seen_before_it_was_over_does_not_count() -> None:
    watch = LeaseWatch()

    assert watch.expired([lease(is_over=False)], 0.0, RENEWAL) == []
    assert watch.expired([lease()], RENEWAL, RENEWAL) == []  # the clock was put forward
    assert watch.expired([lease()], 2 * RENEWAL, RENEWAL) == [lease()]


def test_over_and_not_over_again_begins_anew() -> None:
    watch = LeaseWatch()

    for seconds, is_over in ((0, True), (5, False), (RENEWAL, True)):
        assert watch.expired([lease(is_over=is_over)], seconds, RENEWAL) == []


def test_a_whole_lease_without_renewal_is_enough() -> None:
    watch = LeaseWatch()

    assert watch.expired([lease(is_over=False)], 0.0, RENEWAL) == []
    assert watch.expired([lease()], LEASE_SECONDS, RENEWAL) == [lease()]


def test_a_renewal_in_between_saves_it() -> None:
    watch = LeaseWatch()

    assert watch.expired([lease(0)], 0.0, RENEWAL) == []
    assert watch.expired([lease(5)], RENEWAL, RENEWAL) == []
    assert watch.expired([lease(5)], 2 * RENEWAL - 0.1, RENEWAL) == []
    assert watch.expired([lease(5)], 2 * RENEWAL, RENEWAL) == [lease(5)]


def test_a_clock_that_was_put_back_only_costs_a_whole_lease() -> None:
    watch = LeaseWatch()
    ahead = lease(10**12, is_over=False)

    assert watch.expired([ahead], 0.0, RENEWAL) == []
    assert watch.expired([ahead], LEASE_SECONDS - 0.1, RENEWAL) == []
    assert watch.expired([ahead], LEASE_SECONDS, RENEWAL) == [ahead]


def test_one_instance_is_not_taken_for_another() -> None:
    watch = LeaseWatch()
    watch.expired([lease(instance_id=1)], 0.0, RENEWAL)

    assert watch.expired([lease(instance_id=2)], RENEWAL, RENEWAL) == []
    assert watch.expired([lease(instance_id=1)], RENEWAL, RENEWAL) == []  # it was gone


@pytest.mark.parametrize("step_seconds", [3600, 8 * 3600])
def test_a_sleeping_laptop_loses_no_job(shared_sql: Backend, step_seconds: int) -> None:
    if shared_sql.rescues_at_first_sight:
        pytest.skip("the server's clock decides there")
    worker, rescuer = shared_sql.make(), shared_sql.make()
    shared_sql.add(worker)
    worker.register_instance("w", {}, 1)
    claimed = worker.fetch_next_jobs(["t"], 1)
    rescuer.rescue_expired_jobs()

    shared_sql.clock.ms += step_seconds * 1000  # the wall's clock alone: both slept
    assert rescuer.rescue_expired_jobs() == 0
    assert worker.renew_lease() is not None
    shared_sql.clock.advance(RENEWAL)
    assert rescuer.rescue_expired_jobs() == 0
    complete(worker, claimed[0].claim, {})


def test_a_clock_put_forward_takes_no_job_from_who_is_about_to_renew(shared_sql: Backend) -> None:
    if shared_sql.rescues_at_first_sight:
        pytest.skip("the server's clock decides there")
    worker, rescuer = shared_sql.make(), shared_sql.make()
    shared_sql.add(worker)
    worker.register_instance("w", {}, 1)
    claimed = worker.fetch_next_jobs(["t"], 1)
    rescuer.rescue_expired_jobs()

    shared_sql.clock.advance(RENEWAL)
    shared_sql.clock.ms += 3600 * 1000
    assert rescuer.rescue_expired_jobs() == 0
    assert worker.renew_lease() is not None
    complete(worker, claimed[0].claim, {})


def test_whoever_renews_less_often_is_given_the_time_for_it(shared_sql: Backend) -> None:
    if shared_sql.rescues_at_first_sight:
        pytest.skip("the server's clock decides there")
    rescuer = shared_sql.make()
    patient = SQLAlchemyJobRepository(
        sessionmaker(bind=shared_sql.engine),
        lease_seconds=10 * LEASE_SECONDS,
        clock=shared_sql.clock,
    )
    patient.broadcaster = shared_sql.broadcaster
    shared_sql.add(rescuer)
    patient.register_instance("w", {}, 1)
    assert len(patient.fetch_next_jobs(["t"], 1)) == 1

    shared_sql.clock.ms += 3600 * 1000
    for _ in range(5):
        assert rescuer.rescue_expired_jobs() == 0
        shared_sql.clock.advance(RENEWAL)
    assert patient.renew_lease() is not None
    patient.release_instance()
    assert patient.flush_events(5)


def test_a_rescued_instance_is_forgotten_and_may_come_back(shared_sql: Backend) -> None:
    worker, rescuer = shared_sql.make(), shared_sql.make()
    job_id = shared_sql.add(worker)
    first = worker.register_instance("w", {"t": {"type": "object"}}, 1)
    worker.fetch_next_jobs(["t"], 1)
    for _ in range(3):
        rescuer.rescue_expired_jobs()
        shared_sql.clock.advance(LEASE_SECONDS)
    rescuer.rescue_expired_jobs()

    assert worker.renew_lease() is None
    with Session(shared_sql.engine) as session:
        assert session.get(WorkerInstance, first) is None
    assert worker.register_instance("w", {}, 1) != first
    shared_sql.clock.advance(300)
    assert worker.fetch_next_jobs(["t"], 1)[0].job.job_id == job_id


def test_an_attempt_that_was_lost_names_the_worker(shared_sql: Backend) -> None:
    worker, rescuer = shared_sql.make(), shared_sql.make()
    shared_sql.add(worker)
    worker.register_instance("kitchen", {}, 1)
    worker.fetch_next_jobs(["t"], 1)
    for _ in range(3):
        shared_sql.clock.advance(LEASE_SECONDS)
        rescuer.rescue_expired_jobs()

    with Session(shared_sql.engine) as session:
        attempt = session.scalars(select(JobAttempt)).one()
    assert (attempt.outcome, attempt.worker) == ("lost", "kitchen")


def test_a_dead_worker_with_many_jobs_loses_all(shared_sql: Backend) -> None:
    worker, rescuer = shared_sql.make(), shared_sql.make()
    for _ in range(120):
        shared_sql.add(worker)
    worker.register_instance("w", {}, 1)
    assert len(worker.fetch_next_jobs(["t"], 120)) == 120
    rescued = 0
    for _ in range(6):
        shared_sql.clock.advance(LEASE_SECONDS)
        rescued += rescuer.rescue_expired_jobs()

    assert rescued == 120


def test_two_rescuers_rescue_once(shared_sql: Backend) -> None:
    worker, *rescuers = (shared_sql.make() for _ in range(3))
    job_id = shared_sql.add(worker)
    worker.register_instance("w", {}, 1)
    worker.fetch_next_jobs(["t"], 1)
    counts = []
    for _ in range(3):
        shared_sql.clock.advance(LEASE_SECONDS)
        counts += [rescuer.rescue_expired_jobs() for rescuer in rescuers]

    assert sum(counts) == 1
    assert shared_sql.told(job_id).count("retrying") == 1


def test_the_row_says_what_the_worker_is(shared_sql: Backend) -> None:
    worker = shared_sql.make()
    instance_id = worker.register_instance("kitchen", {"t": {"type": "object"}}, 4)
    shared_sql.clock.advance(5)
    assert worker.renew_lease(running=3) is not None

    with Session(shared_sql.engine) as session:
        row = session.scalars(select(WorkerInstance)).one()
        assert (row.instance_id, row.label, row.concurrency, row.running) == (
            instance_id,
            "kitchen",
            4,
            3,
        )
        assert row.capabilities == '{"t": {"type": "object"}}'
        assert row.renewed_at == shared_sql.clock.ms == row.started_at + 5000
        assert row.lease_expires_at == row.renewed_at + LEASE_SECONDS * 1000
    assert 0 < instance_id < 2**53  # exact in JSON


def test_postgresqls_own_clock_decides(postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    worker, rescuer = (
        SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=LEASE_SECONDS)
        for _ in range(2)
    )
    worker.add_job(Job(job_id="j", task_type="t"))
    worker.register_instance("w", {}, 1)
    worker.fetch_next_jobs(["t"], 1)

    assert rescuer.rescue_expired_jobs() == 0
    with Session(engine) as session:
        session.execute(update(WorkerInstance).values(lease_expires_at=1))
        session.commit()
    assert rescuer.rescue_expired_jobs() == 1
    engine.dispose()


def test_a_plain_caller_whose_lease_ran_out_cannot_end_what_it_had_claimed(
    database_url: str,
) -> None:
    engine = engine_for(database_url)
    Base.metadata.create_all(engine)
    factory = sessionmaker(bind=engine)
    frozen, other = (
        SQLAlchemyJobRepository(factory, lease_seconds=0.3),
        SQLAlchemyJobRepository(factory),
    )
    frozen.broadcaster = other.broadcaster = RecordingBroadcaster()
    for job_id in ("lost", "next"):
        frozen.add_job(Job(job_id=job_id, task_type="t"))
    assert frozen.fetch_next_job(["t"]) is not None

    with engine.begin() as connection:
        connection.execute(delete(WorkerInstance))
    assert other.rescue_expired_jobs() == 1
    wait_until(lambda: frozen._held.instance() is None, "its thread has noticed")

    with pytest.raises(ClaimLost):
        frozen.update_job("lost", status="completed")
    assert frozen.update_job("next", status="processing")  # as a new instance
    with pytest.raises(ClaimLost):
        frozen.update_job("lost", status="completed")
    assert frozen.update_job("lost", status="processing")
    assert frozen.update_job("lost", status="completed")
    frozen.release_instance()
    assert frozen.flush_events(5)
    assert other.flush_events(5)
    engine.dispose()


def test_in_memory_a_lease_does_not_end(sql: Backend) -> None:
    if sql.leases_end:
        pytest.skip("in memory alone")
    worker, rescuer = sql.make(), sql.make()
    sql.add(worker)
    claimed = worker.fetch_next_jobs(["t"], 1)
    for _ in range(5):
        sql.clock.advance(30 * 86400)
        assert rescuer.rescue_expired_jobs() == 0

    complete(worker, claimed[0].claim, {})
