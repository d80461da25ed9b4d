"""Waking idle workers: nobody waits out the poll, nobody is woken for nothing, no job is missed."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_server_shared import SQLAlchemyJobRepository
from cl_server_shared.models import Base
from cl_server_shared.task_control import TaskControl
from cl_server_shared.wakeup.notifications import LISTENER
from job_backends import complete, engine_for, wait_until

# No wait ends by itself in a test's time: whoever wakes was woken.
LONG_SECONDS = 100.0
PATIENCE_SECONDS = 20.0

needs_inotify = pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info < (3, 11), reason="inotify-simple is not installed"
)


class Place:
    """A database, and repositories on engines of their own, as if each were another process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.at_end = ExitStack()
        self.engine = engine_for(url)
        self.at_end.callback(self.engine.dispose)
        if url.startswith("sqlite"):
            Base.metadata.create_all(self.engine)
        self.adder = self.repository()
        self.threads = ThreadPoolExecutor()

    def close(self) -> None:
        """Wake who still waits, and let go of the database once nobody does."""
        self.add("the-end")
        self.threads.shutdown()
        self.at_end.close()

    def repository(self) -> SQLAlchemyJobRepository:
        engine = engine_for(self.url)
        repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
        self.at_end.callback(engine.dispose)
        self.at_end.callback(repository.release_instance)
        return repository

    def idle_repository(self) -> SQLAlchemyJobRepository:
        repository = self.repository()
        assert repository.fetch_next_job(["t"]) is None
        return repository

    def wait(
        self, repository: SQLAlchemyJobRepository, timeout_seconds: float = LONG_SECONDS
    ) -> Future[bool]:
        return self.threads.submit(repository.wait_for_jobs, timeout_seconds)

    def add(self, job_id: str = "j", **options: Any) -> None:
        self.adder.add_job(Job(job_id=job_id, task_type=options.pop("task_type", "t")), **options)

    def start_waiter(self, timeout_seconds: float = LONG_SECONDS) -> subprocess.Popen[str]:
        """Start another process that waits, and return once it is about to."""
        script = Path(__file__).with_name("waiting_process.py")
        process = subprocess.Popen(
            [sys.executable, str(script), self.url, str(timeout_seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.at_end.callback(_end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def backends(self, name: str) -> list[int]:
        """The server's process ids of the connections that are for this."""
        with self.engine.connect() as connection:
            query = text(
                "SELECT pid FROM pg_stat_activity WHERE application_name = :name "
                "AND datname = current_database()"
            )
            return list(connection.execute(query, {"name": name}).scalars())

    def terminate(self, pid: int) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    place = Place(database_url)
    yield place
    place.close()


@pytest.fixture
def sqlite_place(sqlite_url: str) -> Iterator[Place]:
    place = Place(sqlite_url)
    yield place
    place.close()


@pytest.fixture
def postgresql_place(postgresql_url: str) -> Iterator[Place]:
    place = Place(postgresql_url)
    yield place
    place.close()


def lock_files(place: Place) -> list[Path]:
    database = make_url(place.url).database
    assert database is not None
    return list(Path(database).parent.glob("*-idle-*"))


def somebody_watches(place: Place) -> bool:
    """Whether the turn is taken, which is so from just before the watch begins."""
    for path in lock_files(place):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def seconds_until(waiting: Future[bool], act: Callable[[], Any]) -> float:
    """Do something and return how long it took to wake who waits."""
    before = time.monotonic()
    act()
    assert waiting.result(PATIENCE_SECONDS) is True
    return time.monotonic() - before


def test_another_process_is_woken_for_a_job(place: Place) -> None:
    waiter = place.start_waiter()
    place.add("for-it")
    output, _ = waiter.communicate(timeout=PATIENCE_SECONDS)
    assert output.split() == ["True", "for-it"]


def test_who_waits_is_woken_for_each_job_that_another_process_adds(place: Place) -> None:
    repository = place.idle_repository()
    for number in range(20):
        waiting = place.wait(repository)
        place.add(str(number))
        assert waiting.result(PATIENCE_SECONDS) is True
        assert repository.fetch_next_job(["t"]) is not None


def test_commits_that_add_no_job_for_it_do_not_end_the_wait(place: Place) -> None:
    repository = place.idle_repository()
    waiting = place.wait(repository, timeout_seconds=1.0)
    while not waiting.done():
        place.add(f"other-{time.monotonic_ns()}", task_type="other")
    assert waiting.result() is False


def test_a_job_added_before_the_wait_ends_it_at_once(place: Place) -> None:
    repository = place.idle_repository()
    place.add()
    assert place.wait(repository).result(PATIENCE_SECONDS) is True


def test_a_job_that_becomes_due_ends_the_wait(place: Place) -> None:
    repository = place.idle_repository()
    waiting = place.wait(repository)
    due_at = time.time() + 1.0
    place.add(available_at=int(due_at * 1000))
    assert waiting.result(PATIENCE_SECONDS) is True
    assert time.time() >= due_at - 0.05
    assert repository.fetch_next_job(["t"]) is not None


def test_a_job_given_back_ends_the_wait(place: Place) -> None:
    holder, repository = place.repository(), place.idle_repository()
    place.add()
    (held,) = holder.fetch_next_jobs(["t"], 1)
    waiting = place.wait(repository)
    assert seconds_until(waiting, lambda: holder.give_back_jobs([held.claim])) < PATIENCE_SECONDS


def test_a_job_to_be_run_again_ends_the_wait_when_it_is_due(place: Place) -> None:
    holder, repository = place.repository(), place.idle_repository()
    place.add()
    (held,) = holder.fetch_next_jobs(["t"], 1)
    waiting = place.wait(repository)
    assert holder.fail_job(held.claim, "no") == "queued"
    assert waiting.result(PATIENCE_SECONDS) is True
    assert repository.fetch_next_job(["t"]) is not None


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "updated", "deleted"])
def test_the_end_of_a_job_of_a_limited_type_ends_the_wait(place: Place, end: str) -> None:
    TaskControl(sessionmaker(bind=place.engine)).limit_task_type("t", 1)
    holder = place.repository()
    for job_id in ("held", "next"):
        place.add(job_id)
    (held,) = holder.fetch_next_jobs(["t"], 2)
    repository = place.idle_repository()
    waiting = place.wait(repository)
    assert not wait([waiting], timeout=0.2).done

    if end == "completed":
        complete(holder, held.claim, {})
    elif end == "failed":
        holder.fail_job(held.claim, "no", retryable=False)
    elif end == "cancelled":
        holder.end_cancelled_job(held.claim)
    elif end == "updated":
        holder.update_job("held", status="completed")
    else:
        holder.delete_job("held")
    assert waiting.result(PATIENCE_SECONDS) is True
    assert repository.fetch_next_job(["t"]) is not None


def test_the_time_is_kept_also_while_another_watches(place: Place) -> None:
    first, second = place.idle_repository(), place.idle_repository()
    place.wait(first, timeout_seconds=5.0)
    for _ in range(3):
        before = time.monotonic()
        assert second.wait_for_jobs(0.1) is False
        assert 0.09 < time.monotonic() - before < 4


def test_as_many_wake_as_there_are_jobs(place: Place) -> None:
    repositories = [place.idle_repository() for _ in range(4)]

    def work(repository: SQLAlchemyJobRepository) -> str:
        give_up = time.monotonic() + LONG_SECONDS
        while repository.wait_for_jobs(give_up - time.monotonic()):
            job = repository.fetch_next_job(["t"])
            if job is not None:
                return job.job_id
        return "nothing"

    working = [place.threads.submit(work, repository) for repository in repositories]
    for number in range(4):
        place.add(str(number))
    found = sorted(future.result(PATIENCE_SECONDS) for future in working)
    assert found == ["0", "1", "2", "3"]


def test_threads_may_wait_on_one_repository(place: Place) -> None:
    repository = place.idle_repository()
    waiting = [place.wait(repository) for _ in range(3)]
    place.add()  # nobody claims it, so each of them finds it
    assert [future.result(PATIENCE_SECONDS) for future in waiting] == [True, True, True]


def test_each_thread_waits_for_what_it_looked_for_itself(place: Place) -> None:
    repository = place.repository()
    has_looked = threading.Barrier(3)

    def wait_for(task_type: str) -> bool:
        assert repository.fetch_next_job([task_type]) is None
        has_looked.wait(PATIENCE_SECONDS)
        return repository.wait_for_jobs(LONG_SECONDS)

    waiting = {name: place.threads.submit(wait_for, name) for name in ("t", "u")}
    has_looked.wait(PATIENCE_SECONDS)
    for name, future in waiting.items():
        place.add(name, task_type=name)
        assert future.result(PATIENCE_SECONDS) is True


def test_who_has_not_looked_yet_is_woken_by_any_job(place: Place) -> None:
    waiting = place.wait(place.repository())
    assert not wait([waiting], timeout=0.2).done
    place.add()
    assert waiting.result(PATIENCE_SECONDS) is True


def test_the_callers_transaction_wakes_once_it_is_committed(place: Place) -> None:
    repository = place.idle_repository()
    with sessionmaker(bind=place.engine)() as session:
        place.add(session=session)
        assert repository.wait_for_jobs(0.3) is False
        waiting = place.wait(repository)
        seconds_until(waiting, session.commit)


def test_releasing_the_instance_ends_the_wait(place: Place) -> None:
    watching, queued = place.idle_repository(), place.idle_repository()
    for repository in (watching, queued):
        waiting = place.wait(repository)
        repository.wait_for_jobs(0.2)  # by now the other waits, too
        repository.release_instance()
        assert waiting.result(PATIENCE_SECONDS) is False


def test_a_forked_child_waits_by_itself(place: Place) -> None:
    repository = place.idle_repository()
    assert repository.wait_for_jobs(0.05) is False
    child = os.fork()
    if child == 0:
        found = False
        try:
            found = repository.wait_for_jobs(LONG_SECONDS)
        finally:
            os._exit(0 if found else 1)
    waiting = place.wait(repository)
    place.add()
    assert waiting.result(PATIENCE_SECONDS) is True
    wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0), "the child was woken")


def test_the_way_is_told_at_the_first_wait(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    repository = place.idle_repository()
    with caplog.at_level(logging.INFO):
        repository.wait_for_jobs(0.01)
        repository.wait_for_jobs(0.01)
    told = [record.message for record in caplog.records if "woken by" in record.message]
    assert told == [f"waiting for jobs, woken by {repository.wake_up}"]


@needs_inotify
def test_a_file_in_wal_mode_is_watched(sqlite_place: Place) -> None:
    assert sqlite_place.idle_repository().wake_up == "inotify"


@needs_inotify
def test_a_watcher_that_is_killed_is_followed_by_the_next(sqlite_place: Place) -> None:
    watcher = sqlite_place.start_waiter()
    wait_until(lambda: somebody_watches(sqlite_place), "the process watches")
    repository = sqlite_place.idle_repository()
    waiting = sqlite_place.wait(repository)
    watcher.send_signal(signal.SIGKILL)
    watcher.wait(PATIENCE_SECONDS)
    sqlite_place.add()
    assert waiting.result(PATIENCE_SECONDS) is True


@needs_inotify
def test_who_gave_up_waiting_for_the_turn_does_not_keep_it(sqlite_place: Place) -> None:
    watcher, impatient = sqlite_place.idle_repository(), sqlite_place.idle_repository()
    watching = sqlite_place.wait(watcher)
    wait_until(lambda: somebody_watches(sqlite_place), "one watches")
    assert impatient.wait_for_jobs(0.05) is False
    sqlite_place.add()
    assert watching.result(PATIENCE_SECONDS) is True
    wait_until(lambda: not somebody_watches(sqlite_place), "the turn is free")


@needs_inotify
def test_the_lock_file_is_the_owners_and_does_no_harm_when_left_behind(
    sqlite_place: Place,
) -> None:
    sqlite_place.idle_repository().wait_for_jobs(0.01)
    (path,) = lock_files(sqlite_place)
    assert path.stat().st_mode & 0o777 == 0o600
    waiting = sqlite_place.wait(sqlite_place.idle_repository())
    seconds_until(waiting, sqlite_place.add)


@needs_inotify
def test_each_watches_by_itself_where_the_lock_file_cannot_be_opened(sqlite_place: Place) -> None:
    sqlite_place.idle_repository().wait_for_jobs(0.01)
    (path,) = lock_files(sqlite_place)
    path.unlink()
    path.symlink_to("somewhere-else")  # which is never followed
    waiting = [sqlite_place.wait(sqlite_place.idle_repository()) for _ in range(2)]
    sqlite_place.add()
    assert [future.result(PATIENCE_SECONDS) for future in waiting] == [True, True]


@needs_inotify
def test_a_wal_file_that_is_removed_and_made_again_is_watched_on(sqlite_place: Place) -> None:
    engine = engine_for(sqlite_place.url)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    assert repository.fetch_next_job(["t"]) is None
    assert repository.wait_for_jobs(0.05) is False
    wal = Path(f"{make_url(sqlite_place.url).database}-wal")
    for number in range(3):
        engine.dispose()
        sqlite_place.engine.dispose()
        sqlite_place.adder._database.bind.dispose()
        assert not wal.exists()  # the last connection took it along
        waiting = sqlite_place.wait(repository)
        sqlite_place.add(str(number))
        assert waiting.result(PATIENCE_SECONDS) is True
        assert repository.fetch_next_job(["t"]) is not None
        repository.release_instance()
        sqlite_place.adder.delete_job(str(number))
    engine.dispose()


def test_without_inotify_the_files_version_is_read(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    repository = sqlite_place.idle_repository()
    assert repository.wake_up == "data_version"
    waiting = sqlite_place.wait(repository)
    seconds_until(waiting, sqlite_place.add)


def test_a_file_without_wal_is_waited_for_by_its_version(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/jobs.db")
    Base.metadata.create_all(engine)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    assert repository.wake_up == "data_version"
    assert repository.wait_for_jobs(0.1) is False
    engine.dispose()


def test_a_factory_bound_to_a_connection_is_polled(place: Place) -> None:
    with place.engine.connect() as connection:
        repository = SQLAlchemyJobRepository(sessionmaker(bind=connection))
        assert repository.wake_up == "poll"
        assert repository.fetch_next_job(["t"]) is None
        repository.add_job(Job(job_id="own", task_type="t"))
        assert repository.wait_for_jobs(PATIENCE_SECONDS) is True
        repository.release_instance()


def test_postgresql_notifies(postgresql_place: Place) -> None:
    assert postgresql_place.idle_repository().wake_up == "notify"


def test_a_listener_that_lost_its_connection_misses_nothing(postgresql_place: Place) -> None:
    repository = postgresql_place.idle_repository()
    for number in range(3):
        waiting = postgresql_place.wait(repository)
        listening = lambda: postgresql_place.backends(LISTENER)  # noqa: E731
        wait_until(listening, "it listens")
        postgresql_place.terminate(listening()[0])
        postgresql_place.add(str(number))  # told to nobody, or to the new connection
        assert waiting.result(PATIENCE_SECONDS) is True
        assert repository.fetch_next_job(["t"]) is not None


def test_a_notifier_that_lost_its_connection_tells_with_a_new_one(
    postgresql_place: Place,
) -> None:
    repository = postgresql_place.idle_repository()
    postgresql_place.add("first")
    assert repository.wait_for_jobs(LONG_SECONDS)
    assert repository.fetch_next_job(["t"]) is not None
    telling = lambda: postgresql_place.backends("cl-server notifier")  # noqa: E731
    wait_until(telling, "it has told")
    waiting = postgresql_place.wait(repository)
    wait_until(lambda: postgresql_place.backends(LISTENER), "it listens")
    postgresql_place.terminate(telling()[0])
    seconds_until(waiting, lambda: postgresql_place.add("second"))


def test_a_process_that_ends_after_adding_has_told(postgresql_place: Place) -> None:
    repository = postgresql_place.idle_repository()
    waiting = postgresql_place.wait(repository)
    wait_until(lambda: postgresql_place.backends(LISTENER), "it listens")
    script = (
        "import sys; from sqlalchemy import create_engine; from sqlalchemy.orm import sessionmaker\n"
        "from cl_ml_tools import Job; from cl_server_shared import SQLAlchemyJobRepository\n"
        "engine = create_engine(sys.argv[1])\n"
        "repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))\n"
        "repository.add_job(Job(job_id='last', task_type='t'))\n"
    )
    subprocess.run([sys.executable, "-c", script, postgresql_place.url], check=True, timeout=60)
    assert waiting.result(PATIENCE_SECONDS) is True
