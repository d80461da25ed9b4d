"""`run_compute_job`: real processes, their exit codes, their one line, and what they leave."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import pytest
from sqlalchemy.orm import Session, sessionmaker

from broker_process import BrokerProcess
from cl_ml_tools import Job, MQTTBroadcaster
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.control import JobControl
from cl_server_shared.engine import BUSY_TIMEOUT_MS
from cl_server_shared.models import Base
from job_backends import complete, engine_for, wait_until
from ports import free_port

MODULE = """
import asyncio, os, pathlib, signal, sys, time
from cl_ml_tools import ComputeModule, FinalError, Later
from cl_server_shared import run_compute_job

class Module(ComputeModule):
    supported_task_types = ["copy", "other"]

    async def process(self, job_id, task_type, params, progress_callback=None):
        for source, target in zip(params["input_paths"], params["output_paths"]):
            pathlib.Path(target).write_bytes(pathlib.Path(source).read_bytes())
        result = {"status": "ok", "task_output": {"job": job_id}}
        here = pathlib.Path(__file__).parent
        seen = lambda name: (here / name).exists()

        def say_running():
            (here / "said").write_text(str(os.getpid()))
            (here / "said").replace(here / "running")

        def wait_for(name):
            while not seen(name):
                time.sleep(0.01)

        scope = {**globals(), **locals()}
        exec(params.get("code", ""), scope)
        return scope["result"]

if __name__ == "__main__":
    run_compute_job(Module())
"""

# Says that it runs, then waits until it is told to go on.
WAIT = """
(here / "running").touch()
while not seen("go"):
    {sleep}
"""


@dataclass
class Workplace:
    """A server's directory with a module in it."""

    folder: Path
    repository: SQLAlchemyJobRepository
    storage: FileStorageService
    sessions: sessionmaker[Session]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def add(self, code: str = "", task_type: str = "copy", **options: Any) -> str:
        params = {"input_paths": [], "output_paths": [], "code": code, **options.pop("params", {})}
        return self.repository.add_job(
            Job(job_id="j", task_type=task_type, params=params), **options
        )

    def start(
        self,
        *arguments: str,
        stdin: Optional[int] = None,
        start_new_session: bool = False,
        **environment: str,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(self.folder / "module.py"), *arguments],
            env={**os.environ, **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=start_new_session,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        """Run the module and return its exit code and the lines that it said."""
        return self.end(self.start(*(arguments or ("--job-id", "j")), **environment))

    def end(self, process: subprocess.Popen[str]) -> tuple[int, list[str]]:
        stdout, stderr = process.communicate(timeout=60)
        assert stdout == ""
        return process.returncode, stderr.splitlines()

    @property
    def job(self) -> Job:
        job = self.repository.get_job("j")
        assert job is not None
        return job

    def wait_running(self) -> int:
        """Return the process id that the module wrote, 0 where it wrote none."""
        wait_until((self.folder / "running").exists, "the module runs")
        return int((self.folder / "running").read_text() or 0)

    def column(self, name: str) -> Any:
        with sqlite3.connect(self.folder / "cl-server" / "media_store.db") as connection:
            value = connection.execute(f"SELECT {name} FROM jobs").fetchone()[0]
        connection.close()
        return value

    def attempt(self) -> dict[str, Any]:
        """Return what is kept of the first attempt that failed."""
        with sqlite3.connect(self.folder / "cl-server" / "media_store.db") as connection:
            connection.row_factory = sqlite3.Row
            row = dict(connection.execute("SELECT * FROM job_attempts ORDER BY id").fetchone())
        connection.close()
        return row


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def place(tmp_path: Path, server_dir: Path) -> Iterator[Workplace]:
    (tmp_path / "module.py").write_text(MODULE)
    engine = engine_for(f"sqlite:///{server_dir}/media_store.db")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(bind=engine)
    repository = SQLAlchemyJobRepository(sessions)
    storage = FileStorageService(server_dir / "compute")
    workplace = Workplace(tmp_path, repository, storage, sessions)
    yield workplace
    for process in workplace.processes:
        process.kill()
        process.communicate()
    repository.release_instance()
    engine.dispose()


def test_a_job_that_completes_is_0_and_silent(place: Workplace) -> None:
    place.storage.create_job_directory("j")
    (place.storage.get_input_path("j") / "a.txt").write_text("content")
    place.add(
        "progress_callback(30); progress_callback(100)",
        params={"input_paths": ["input/a.txt"], "output_paths": ["output/b.txt"]},
    )

    assert place.run() == (0, [])

    assert place.job.status == "completed"
    assert (place.job.progress, place.job.task_output) == (100, {"job": "j"})
    assert (place.storage.get_output_path("j") / "b.txt").read_text() == "content"
    assert not (place.storage.get_job_path("j") / "attempts").exists()
    with sqlite3.connect(place.folder / "cl-server" / "media_store.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM workers").fetchone() == (0,)
        assert connection.execute("SELECT COUNT(*) FROM queue_entries").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('out of\\n tape')", "RuntimeError: out of tape"),
        ("result = {'status': 'error', 'error': 'no tape'}", "no tape"),
        ("sys.exit(3)", "the module ended its process, with 3"),
        ("raise asyncio.CancelledError", "the module cancelled itself"),
        ("progress_callback(101)", "progress 101"),
        ("result = {'status': 'ok', 'task_output': {'x': object()}}", "JSON"),
        ("result = 'done'", "'done'"),
    ],
)
def test_a_failed_attempt_is_1_and_waits_for_its_re_run(
    place: Workplace, code: str, said: str
) -> None:
    place.add(code)

    code_, (line,) = place.run()

    assert code_ == 1
    assert line.startswith("job j: ") and said in line and "3 left" in line
    assert (place.job.status, place.job.progress) == ("queued", 0)
    assert said in str(place.job.error_message)
    assert place.column("retry_count") == 1
    assert place.column("started_at") is not None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise FinalError('not an image')", "not an image"),
        ("result = {'status': 'error', 'error': 'bad', 'retryable': False}", "bad"),
    ],
)
def test_a_final_failure_ends_the_job(place: Workplace, code: str, said: str) -> None:
    place.add(code)

    code_, (line,) = place.run()

    assert (code_, place.job.status) == (1, "error")
    assert said in line and "left" not in line
    assert place.column("completed_at") is not None


def test_what_is_said_is_one_line(place: Workplace) -> None:
    place.add("raise FinalError('line one\\nline two')")

    assert place.run() == (1, ["job j: line one line two"])


@pytest.mark.parametrize("own", [True, False], ids=["the job's own", "the setting"])
def test_a_module_that_hangs_is_ended_at_its_limit(place: Workplace, own: bool) -> None:
    place.add("wait_for('never')", max_retries=1, timeout_seconds=0.5 if own else None)
    environment = {} if own else {"WORKER_JOB_TIMEOUT_SECONDS": "0.5"}

    code, (line,) = place.run(**environment)

    assert (code, place.job.status) == (1, "queued")
    assert "it took longer than the 0.5 seconds that it may take (to be run again: 1 left)" in line
    attempt = place.attempt()
    assert (attempt["outcome"], attempt["attempt"]) == ("timeout", 1)
    assert attempt["started_at"] <= attempt["ended_at"]
    assert place.run(**environment)[0] == 1
    assert place.job.status == "error"


def test_a_postponed_job_is_1_and_costs_no_attempt(place: Workplace) -> None:
    place.add(
        "if not seen('once'): (here / 'once').touch(); progress_callback(50); raise Later(90)"
    )

    code, (line,) = place.run()

    assert (code, line) == (1, "job j: to be run again in 90 seconds, at no cost")
    assert (place.job.status, place.job.progress, place.job.error_message) == ("queued", 0, None)
    assert place.column("retry_count") == 0
    assert not (place.storage.get_job_path("j") / "attempts" / "1").exists()
    assert place.run() == (0, [])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os._exit(3)", "the module ended its process, with exit code 3"),
        ("os._exit(0)", "the module ended its process, with exit code 0"),
        ("raise KeyboardInterrupt", "the module ended with KeyboardInterrupt()"),
        ("raise GeneratorExit('x')", "the module ended with GeneratorExit('x')"),
        ("raise BaseException('x')", "the module ended with BaseException('x')"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        # What the module forked lives on, and holds whatever was open.
        (
            "__import__('warnings').simplefilter('ignore'); "
            "os.fork() or (wait_for('go'), os._exit(0)); os._exit(3)",
            "with exit code 3",
        ),
    ],
)
def test_a_crash_costs_one_attempt_and_is_1(place: Workplace, code: str, said: str) -> None:
    place.add(f"progress_callback(50); {code}", max_retries=1)

    for attempt in (1, 2):
        process = place.start("--job-id", "j")
        assert process.wait(60) == 1
        (place.folder / "go").touch()
        (line,) = place.end(process)[1]
        assert said in line and ("1 left" in line) == (attempt == 1)
        assert said in str(place.job.error_message)
        assert not (place.storage.get_job_path("j") / "attempts").exists() or not list(
            (place.storage.get_job_path("j") / "attempts").iterdir()
        )
    assert (place.job.status, place.column("retry_count")) == ("error", 1)


def test_what_the_module_reads_and_prints_is_the_programs(place: Workplace) -> None:
    place.add("print('read', sys.stdin.readline().strip()); sys.stdout.write('no end of line')")
    process = place.start("--job-id", "j", stdin=subprocess.PIPE)

    assert process.communicate("one line\n", timeout=60) == ("read one line\nno end of line", "")
    assert process.returncode == 0


def test_a_module_may_use_the_database_itself(place: Workplace) -> None:
    place.add(
        "import sqlite3\n"
        "c = sqlite3.connect(here / 'cl-server' / 'media_store.db', timeout=30)\n"
        "c.execute('CREATE TABLE mine (n)')\n"
        "for n in range(100):\n"
        "    progress_callback(n)\n"
        "    with c: c.execute('INSERT INTO mine VALUES (?)', (n,))\n"
        "c.close()"
    )

    assert place.run() == (0, [])
    with sqlite3.connect(place.folder / "cl-server" / "media_store.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM mine").fetchone() == (100,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_the_last_progress_is_written_however_fast_it_came(place: Workplace) -> None:
    place.add(
        "for n in range(43): progress_callback(n)\n(here / 'running').touch(); wait_for('go')"
    )
    process = place.start("--job-id", "j")
    place.wait_running()

    wait_until(lambda: place.job.progress == 42, "the last progress is written")
    (place.folder / "go").touch()
    assert place.end(process) == (0, [])


# The connection is cut off once, after the commit of the completion or before it.
CUT_OFF = """
from cl_server_shared.errors import DatabaseUnavailable
from cl_server_shared.sql import outcomes
from cl_server_shared.transaction import SQLiteTransaction

complete, leave = outcomes.complete, SQLiteTransaction.__exit__
completing = []

def note(transaction, completions):
    completing.append(True)
    if {before} and len(completing) == 1:
        raise sqlite3.OperationalError("cut off")
    return complete(transaction, completions)

def cut_off(self, *error):
    leave(self, *error)
    if not {before} and len(completing) == 1:
        completing.append(True)
        raise DatabaseUnavailable("cut off")

outcomes.complete, SQLiteTransaction.__exit__ = note, cut_off
"""


@pytest.mark.parametrize("before", [True, False], ids=["before the commit", "after the commit"])
def test_a_completion_whose_answer_is_lost_is_asked_for_again(
    place: Workplace, before: bool
) -> None:
    path = place.folder / "module.py"
    path.write_text("import sqlite3\n" + CUT_OFF.format(before=before) + path.read_text())
    place.add(
        "pathlib.Path(params['output_paths'][0]).write_text('result')",
        params={"output_paths": ["output/a.txt"]},
    )

    assert place.run() == (0, [])

    assert place.job.status == "completed"
    assert (place.storage.get_output_path("j") / "a.txt").read_text() == "result"


@pytest.mark.long  # as long as a writer waits for the lock
def test_a_lock_that_is_held_for_too_long_costs_no_attempt(place: Workplace) -> None:
    place.add("say_running()\nwait_for('go')\nprogress_callback(7)\nwait_for('late')")
    process = place.start("--job-id", "j")
    place.wait_running()
    with sqlite3.connect(place.folder / "cl-server" / "media_store.db") as other:
        other.execute("BEGIN IMMEDIATE")
        (place.folder / "go").touch()
        time.sleep(BUSY_TIMEOUT_MS / 1000 + 1)
        other.rollback()
    other.close()

    wait_until(lambda: place.job.progress == 7, "the progress is written all the same")
    (place.folder / "late").touch()
    assert place.end(process) == (0, [])


@pytest.mark.parametrize("first", ["", "progress_callback(7)\n"], ids=["silent", "with progress"])
def test_a_job_that_is_cancelled_ends_so_and_is_1(place: Workplace, first: str) -> None:
    place.add(f"{first}say_running()\nwait_for('never')")
    process = place.start("--job-id", "j")
    child = place.wait_running()

    assert JobControl(place.sessions).cancel_job("j") == "processing"

    assert place.end(process) == (1, ["job j: it was cancelled"])
    assert place.job.status == "cancelled"
    assert place.attempt()["outcome"] == "cancelled"
    assert not is_running(child)
    assert not (place.storage.get_job_path("j") / "attempts" / "1").exists()


def test_parameters_are_checked_before_anything_runs(place: Workplace) -> None:
    place.add("(here / 'ran').touch()", params={"input_paths": ["../a"]})

    code, (line,) = place.run()

    assert (code, place.job.status) == (1, "error")
    assert "'../a'" in line
    assert not (place.folder / "ran").exists()


def test_each_call_is_one_attempt_also_before_its_time(place: Workplace) -> None:
    place.add("raise RuntimeError('again')", max_retries=2)

    for attempt in (1, 2, 3):
        code, (line,) = place.run()
        assert code == 1 and ("to be run again" in line) == (attempt < 3)
    assert (place.job.status, place.column("retry_count")) == ("error", 2)
    assert place.run()[0] == 1
    assert place.column("retry_count") == 2


def test_a_re_run_can_succeed(place: Workplace) -> None:
    place.add("if not seen('once'): (here / 'once').touch(); raise RuntimeError('first')")

    assert place.run()[0] == 1
    started_at = place.column("started_at")
    assert place.run() == (0, [])
    assert (place.job.status, place.job.error_message) == ("completed", None)
    assert place.column("started_at") == started_at


@pytest.mark.parametrize("status", ["completed", "error", "cancelled"])
def test_a_job_that_has_ended_is_left_alone(place: Workplace, status: str) -> None:
    place.add()
    place.repository.update_job("j", status=status)
    before = place.job

    code, (line,) = place.run()

    assert code == 1 and "ended" in line and status in line
    assert place.job == before


def test_a_job_of_another_type_is_left_alone(place: Workplace) -> None:
    place.add(task_type="resize")

    code, (line,) = place.run()

    assert code == 1 and "'resize'" in line and "copy, other" in line
    assert place.job.status == "queued"
    assert place.column("started_at") is None


@pytest.mark.parametrize(
    ("task_types", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("None", "'NoneType' object is not iterable"),
    ],
)
def test_a_module_that_does_not_say_what_it_runs_is_one_line(
    place: Workplace, task_types: str, said: str
) -> None:
    path = place.folder / "module.py"
    declared = 'supported_task_types = ["copy", "other"]'
    property_ = f"supported_task_types = property(lambda self: {task_types})"
    path.write_text(path.read_text().replace(declared, property_))
    place.add()

    code, (line,) = place.run()

    assert code == 1 and "the module does not say what it runs" in line and said in line
    assert place.job.status == "queued"


def test_a_job_that_another_holds_is_left_alone(place: Workplace) -> None:
    place.add()
    claimed = place.repository.fetch_next_jobs(["copy"], 1)[0]

    code, (line,) = place.run()

    assert code == 1 and "another worker" in line
    complete(place.repository, claimed.claim, {})


@pytest.mark.parametrize(("job_id", "said"), [("nobody", "nobody"), ("no\nbody", "no body")])
def test_an_unknown_job_is_1(place: Workplace, job_id: str, said: str) -> None:
    code, (line,) = place.run("--job-id", job_id)

    assert code == 1
    assert line == f"job {said}: there is no such job"


@pytest.mark.parametrize("arguments", [["--job"], ["--nonsense", "x"], ["--job-id"], ["j"]])
def test_wrong_usage_is_2(place: Workplace, arguments: list[str]) -> None:
    code, lines = place.run(*arguments)

    assert code == 2 and any("usage" in line for line in lines)


def test_without_an_argument_it_is_2(place: Workplace) -> None:
    assert place.end(place.start())[0] == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CL_SERVER_DIR": ""}, "CL_SERVER_DIR is not set"),
        ({"CL_SERVER_DIR": "/nowhere/at/all"}, "CL_SERVER_DIR='/nowhere/at/all'"),
        ({"WORKER_DATABASE_URL": "sqlite:////nowhere/at/all.db"}, "database"),
        ({"WORKER_DATABASE_URL": "sqlite://"}, "no such table"),
        ({"WORKER_DATABASE_URL": "nonsense:secret"}, "URL"),
        ({"WORKER_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"}, "database"),
        ({"MQTT_PORT": "x"}, "MQTT_PORT='x'"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(
    place: Workplace, environment: dict[str, str], said: str
) -> None:
    place.add()

    code, lines = place.run(**environment)

    assert code == 1
    assert len(lines) == 1 and said in lines[0] and "secret" not in lines[0]
    assert place.job.status == "queued"


@pytest.mark.parametrize("sleep", ["time.sleep(0.01)", "await_()"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_job_back_at_no_cost(place: Workplace, number: int, sleep: str) -> None:
    # `exec` cannot await: the second module waits in the event loop instead of in the job.
    if sleep == "await_()":
        source = (place.folder / "module.py").read_text()
        awaiting = '(here / "running").touch(); await asyncio.sleep(60)'
        source = source.replace('exec(params.get("code", ""), scope)', awaiting)
        (place.folder / "module.py").write_text(source)
    place.add(WAIT.format(sleep="time.sleep(0.01)"), max_retries=0)
    process = place.start("--job-id", "j")
    place.wait_running()

    process.send_signal(number)

    code, (line,) = place.end(process)
    assert code == 1 and "given back" in line
    assert place.job.status == "queued"
    assert place.column("retry_count") == 0
    assert not (place.storage.get_job_path("j") / "attempts" / "1").exists()
    assert [one.job.job_id for one in place.repository.fetch_next_jobs(["copy"], 1)] == ["j"]


def test_a_signal_after_the_job_was_deleted_gives_nothing_back(place: Workplace) -> None:
    place.add(WAIT.format(sleep="time.sleep(0.01)"))
    process = place.start("--job-id", "j")
    place.wait_running()
    assert place.repository.delete_job("j") is True

    process.send_signal(signal.SIGTERM)

    code, (line,) = place.end(process)
    assert code == 1 and "deleted" in line and "given back" not in line


@pytest.mark.parametrize("whom", ["the group", "the child"])
def test_a_signal_to_more_than_the_program_gives_the_job_back(place: Workplace, whom: str) -> None:
    place.add(
        "try:\n    say_running(); wait_for('go')\nfinally:\n    (here / 'cleaned').touch()",
        max_retries=0,
    )
    process = place.start("--job-id", "j", start_new_session=True)
    child = place.wait_running()

    if whom == "the group":  # as Ctrl-C and systemd do
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(child, signal.SIGTERM)

    code, (line,) = place.end(process)
    assert code == 1 and "given back" in line
    assert (place.job.status, place.column("retry_count")) == ("queued", 0)
    assert (place.folder / "cleaned").exists()


def test_a_module_that_does_not_end_is_killed(place: Workplace) -> None:
    place.add(
        "say_running()\n"
        "while True:\n    try:\n        time.sleep(0.01)\n    except BaseException: pass"
    )
    process = place.start("--job-id", "j")
    child = place.wait_running()

    process.terminate()

    code, (line,) = place.end(process)
    assert code == 1 and "given back" in line
    assert (place.job.status, place.column("retry_count")) == ("queued", 0)
    assert not is_running(child)


def test_the_module_ends_with_the_program(place: Workplace) -> None:
    place.add("say_running(); wait_for('go')")
    process = place.start("--job-id", "j")
    child = place.wait_running()

    process.kill()

    process.communicate(timeout=60)  # both have let go of the output
    wait_until(lambda: not is_running(child), "the child has ended")


def test_output_is_seen_only_once_the_job_is_completed(place: Workplace) -> None:
    place.storage.create_job_directory("j")
    (place.storage.get_input_path("j") / "a").write_text("x")
    place.add(
        WAIT.format(sleep="time.sleep(0.01)"),
        params={"input_paths": ["input/a"], "output_paths": ["output/b"]},
    )
    process = place.start("--job-id", "j")
    place.wait_running()

    assert place.job.status == "processing"
    assert list(place.storage.get_output_path("j").iterdir()) == []
    (place.folder / "go").touch()

    assert place.end(process) == (0, [])
    assert [path.name for path in place.storage.get_output_path("j").iterdir()] == ["b"]


@pytest.mark.parametrize("taken", ["deleted", "taken over"])
def test_a_claim_that_was_lost_changes_nothing(place: Workplace, taken: str) -> None:
    place.storage.create_job_directory("j")
    (place.storage.get_input_path("j") / "a").write_text("x")
    place.add(
        WAIT.format(sleep="time.sleep(0.01)"),
        params={"input_paths": ["input/a"], "output_paths": ["output/b"]},
    )
    process = place.start("--job-id", "j")
    place.wait_running()
    if taken == "deleted":
        place.repository.delete_job("j")
    else:
        with sqlite3.connect(place.folder / "cl-server" / "media_store.db") as connection:
            connection.execute("DELETE FROM workers")
        connection.close()
        assert place.repository.rescue_expired_jobs() == 1
    (place.folder / "go").touch()

    code, (line,) = place.end(process)

    assert code == 1 and "taken away" in line
    assert list(place.storage.get_output_path("j").iterdir()) == []
    if taken == "deleted":
        assert place.repository.get_job("j") is None
    else:
        assert (place.job.status, place.job.task_output) == ("queued", None)


def test_a_workspace_that_cannot_be_made_is_one_line(place: Workplace) -> None:
    (place.folder / "cl-server" / "compute").write_text("a file")
    place.add()

    code, lines = place.run()

    assert code == 1 and len(lines) == 1
    assert place.job.status == "queued"


def test_events_reach_the_broker_before_it_ends(
    place: Workplace, mqtt_environment: BrokerProcess
) -> None:
    heard: list[str] = []
    ended = threading.Event()

    def hear(_topic: str, payload: str) -> None:
        heard.append(payload)
        if '"completed"' in payload:
            ended.set()

    listener = MQTTBroadcaster(mqtt_environment.host, mqtt_environment.port)
    listener.subscribe(os.environ["MQTT_TOPIC"], hear)
    assert listener.wait_connected(15)
    assert listener.publish_tracked("sync", "").result(15)
    place.add("progress_callback(40)")
    try:
        assert place.run() == (0, [])
        assert ended.wait(15)
    finally:
        listener.disconnect()

    kinds = [
        kind
        for text in heard
        for kind in ("started", "progress", "completed")
        if f'"event_type":"{kind}"' in text
    ]
    assert kinds == ["started", "progress", "completed"]
    unacknowledged = (
        "SELECT COUNT(*) FROM job_events WHERE acknowledged_at IS NULL AND event_type <> 'queued'"
    )
    with sqlite3.connect(place.folder / "cl-server" / "media_store.db") as connection:
        assert connection.execute(unacknowledged).fetchone() == (0,)
    connection.close()


def test_a_broker_that_is_down_fails_nothing(place: Workplace) -> None:
    place.add()

    code, lines = place.run(
        BROADCAST_TYPE="mqtt", MQTT_BROKER="127.0.0.1", MQTT_PORT=str(free_port())
    )

    assert code == 0
    assert all("Traceback" not in line for line in lines)


def test_it_works_on_postgresql(place: Workplace, postgresql_url: str) -> None:
    engine = engine_for(postgresql_url)
    repository = SQLAlchemyJobRepository(sessionmaker(bind=engine))
    repository.add_job(Job(job_id="j", task_type="copy", params={"code": "progress_callback(5)"}))
    url = postgresql_url.replace("postgresql+psycopg://", "postgresql://")

    assert place.run(DATABASE_URL=url) == (0, [])
    job: Optional[Job] = repository.get_job("j")
    assert job is not None and job.status == "completed"
    engine.dispose()
