"""A full disk, a clock that steps, a server that goes away: an error or a wait, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.database import Database
from cl_server_shared.engine import create_database_engine
from cl_server_shared.errors import DatabaseUnavailable
from job_backends import Backend, complete, engine_for, wait_until
from postgresql_server import PostgresqlServer, own_postgresql

HOUR_SECONDS = 3600

# As a disk does that fills up with the transaction's last page.
REFUSE_AT_COMMIT = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''no room'' USING ERRCODE = ''disk_full''; END';
    CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def test_on_a_full_disk_what_was_taken_stays_and_the_rest_is_refused(tmp_path: Path) -> None:
    """A real one: a small tmpfs in a mount namespace of the test's own."""
    program = str(Path(__file__).with_name("full_disk_process.py"))
    disk = tmp_path / "disk"
    disk.mkdir()
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = (
        f"mount -t tmpfs -o size=16m none '{disk}' && exec '{sys.executable}' '{program}' '{disk}'"
    )

    done = subprocess.run(
        ["unshare", *own_user, "--mount", "sh", "-c", mount],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads(done.stdout)
    assert "disk is full" in found["refused_add"]
    assert found["refused_completion"] is None or "disk is full" in found["refused_completion"]
    assert found["taken_while_full"] > 50
    assert found["jobs_after"] == found["taken"]
    assert found["completed"] == sorted(set(found["completed"])) == sorted(found["taken"])
    assert found["told_twice"] == []


@pytest.mark.parametrize("use", ["reading", "transaction"])
def test_what_a_transaction_leaves_behind_never_stops_who_has_its_connection_now(
    tmp_path: Path, use: str
) -> None:
    """A cursor that is collected late waits for the connection's lock, and with it all threads."""
    engine, other = (engine_for(f"sqlite:///{tmp_path}/jobs.db") for _ in range(2))
    with getattr(Database(sessionmaker(bind=engine)), use)() as transaction:
        transaction.cursor.execute("SELECT 1 UNION ALL SELECT 2").fetchone()
    kept = [transaction]
    del transaction
    begins = threading.Event()
    refused: list[Exception] = []

    def write() -> None:
        with engine.connect() as connection:  # the pool's only one: the one that was used
            driver: Any = connection.connection.driver_connection
            driver.set_trace_callback(lambda _statement: begins.set())
            try:
                connection.execute(text("CREATE TABLE later (n INTEGER)"))
            except OperationalError as error:
                refused.append(error)

    writer = threading.Thread(target=write)
    with other.connect() as holder:
        holder.execute(text("BEGIN IMMEDIATE"))
        writer.start()
        begins.wait()
        kept.clear()
    writer.join()

    assert not refused
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize("step_seconds", [HOUR_SECONDS, -HOUR_SECONDS])
def test_a_clock_that_steps_by_an_hour_loses_and_repeats_nothing(
    sql: Backend, step_seconds: int
) -> None:
    worker, other = sql.make(), sql.make()
    worker.register_instance("w", {}, 1)
    before = [sql.add(worker) for _ in range(3)]
    held = worker.fetch_next_jobs(["t"], 1)[0]
    other.rescue_expired_jobs()

    sql.clock.ms += step_seconds * 1000
    if sql.rescues_at_first_sight and sql.leases_end and step_seconds > 0:
        # The server's own clock: it stepped for all, and a renewal is what came first.
        assert worker.renew_lease(1) == [held.claim]
    assert other.rescue_expired_jobs() == 0
    after = sql.add(other)
    assert worker.renew_lease(1) == [held.claim]
    complete(worker, held.claim, {})
    done = [held.job.job_id]
    while claimed := worker.fetch_next_jobs(["t"], 1):
        complete(worker, claimed[0].claim, {})
        done.append(claimed[0].job.job_id)

    assert sorted(done) == sorted([*before, after])
    for job_id in done:
        assert sql.told(job_id) == ["queued", "started", "completed"]


def test_a_rerun_waits_until_a_clock_that_was_put_back_is_there_again(
    sql: Backend,
) -> None:
    repository = sql.make()
    repository.register_instance("w", {}, 1)
    sql.add(repository)
    assert repository.fail_job(repository.fetch_next_jobs(["t"], 1)[0].claim, "no") == "queued"

    sql.clock.ms -= HOUR_SECONDS * 1000
    assert repository.fetch_next_jobs(["t"], 1) == []  # a wait, until the clock is there again
    sql.clock.ms += (HOUR_SECONDS + 10) * 1000
    assert len(repository.fetch_next_jobs(["t"], 1)) == 1


LOSE = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'to be lost'
"""


@pytest.mark.parametrize("first", ["queued", "processing"])
def test_a_commit_that_fails_leaves_the_claim_as_it_was(postgresql_url: str, first: str) -> None:
    engine = create_engine(postgresql_url)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=600)
    repository.add_job(Job(job_id="j", task_type="t"))
    if first == "processing":
        assert repository.fetch_next_job(["t"]) is not None
    after = {"queued": "processing", "processing": "completed"}[first]

    with engine.begin() as connection:
        connection.execute(text(REFUSE_AT_COMMIT))
    try:
        with pytest.raises(DatabaseUnavailable, match="no room"):
            repository.update_job("j", status=after)
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP FUNCTION refuse CASCADE"))

    assert repository.update_job("j", status="completed")
    repository.release_instance()
    engine.dispose()


def test_a_claim_by_update_job_is_held_though_its_answer_was_lost(
    sql: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = sql.make()
    job_id = sql.add(repository)
    assert repository.fetch_next_job(["other"]) is None  # from now on it is an instance

    def cut(*_: object) -> None:
        raise DatabaseUnavailable("cut off behind the commit")

    with monkeypatch.context() as patch:
        patch.setattr("cl_server_shared.transaction.tell_committed", cut)
        with pytest.raises(DatabaseUnavailable):
            repository.update_job(job_id, status="processing")

    assert repository.update_job(job_id, status="processing")
    assert repository.update_job(job_id, progress=50)
    assert repository.update_job(job_id, status="completed")


def test_a_connection_that_is_lost_is_told_without_a_traceback(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = create_engine(postgresql_url)
    engine = create_engine(postgresql_url, connect_args={"application_name": "to be lost"})
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))

    for call in (
        lambda: repository.get_job("j"),
        lambda: repository.update_job("j", progress=1),
        lambda: repository.add_job(Job(job_id="j", task_type="t")),
    ):
        repository.get_job("j")  # there is a connection to lose
        with other.connect() as connection:
            connection.execute(text(LOSE))
        with pytest.raises(DatabaseUnavailable):
            call()
    assert "Traceback" not in caplog.text
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize(("query", "seconds"), [({}, 20), ({"tcp_user_timeout": "5000"}, 5)])
def test_a_server_that_is_gone_without_a_word_is_not_waited_for(
    postgresql_url: str, query: dict[str, str], seconds: int
) -> None:
    """By the system's defaults a statement would wait for two hours; seen on a cut network."""
    url = make_url(postgresql_url).update_query_dict(query)
    engine = create_database_engine(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        told = driver.info.get_parameters()
    engine.dispose()

    assert int(told["tcp_user_timeout"]) == seconds * 1000
    assert int(told["keepalives_idle"]) + int(told["keepalives_interval"]) * 3 < 30
    assert int(told["connect_timeout"]) <= 10


def test_a_server_that_goes_away_and_returns() -> None:
    with own_postgresql() as own, PostgresqlServer(own.get_uri()).database() as url:
        engine = create_engine(url)
        repository = SQLAlchemyJobRepository(sessionmaker(bind=engine), lease_seconds=600)
        repository.register_instance("w", {}, 1)
        for job_id in ("a", "b"):
            repository.add_job(Job(job_id=job_id, task_type="t"))
        (held,) = repository.fetch_next_jobs(["t"], 1)

        os.kill(own.get_pid(), signal.SIGINT)  # its quick end
        wait_until(lambda: not (own.pgdata / "postmaster.pid").exists(), "stopped")
        with pytest.raises(DatabaseUnavailable):
            complete(repository, held.claim, {})
        with pytest.raises(DatabaseUnavailable):
            repository.add_job(Job(job_id="c", task_type="t"))
        with pytest.raises(DatabaseUnavailable):
            repository.fetch_next_jobs(["t"], 1)
        with pytest.raises(DatabaseUnavailable):
            repository.renew_lease(1)
        own.ensure_postgres_running()

        wait_until(lambda: repository.renew_lease(1) == [held.claim], "renewed")
        complete(repository, held.claim, {})
        assert repository.get_job("c") is None
        assert repository.add_job(Job(job_id="c", task_type="t")) == "c"
        assert repository.wait_for_jobs(5)
        for job_id in ("b", "c"):
            (claimed,) = repository.fetch_next_jobs(["t"], 1)
            assert claimed.job.job_id == job_id
            complete(repository, claimed.claim, {})
        with engine.connect() as connection:
            told = connection.execute(
                text("SELECT event_type, count(*) FROM job_events GROUP BY 1 ORDER BY 1")
            ).all()
        assert [tuple(row) for row in told] == [("completed", 3), ("queued", 3), ("started", 3)]
        repository.release_instance()
        engine.dispose()
