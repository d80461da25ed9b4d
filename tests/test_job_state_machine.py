"""Whatever is done to jobs, in whatever order: memory, SQLite and PostgreSQL answer alike."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_ml_tools.jobs import STATUSES
from cl_ml_tools.protocols import Claim, ClaimedJob, Completion, JobToAdd
from cl_server_shared.control import JobControl
from cl_server_shared.task_control import TaskControl
from job_backends import LEASE_SECONDS, Backend, complete, give_back, memory_backend, sql_backend
from postgresql_server import ReusedDatabase

JOB_IDS = st.sampled_from(["a", "b", "c", "d"])
ACTORS = st.integers(0, 1)
TYPES = st.sampled_from([["t"], ["u"], ["t", "u"], ["u", "t", "t"]])


class Jobs(RuleBasedStateMachine):
    """Two repository objects on each implementation, given the same orders."""

    postgresql: ReusedDatabase

    def __init__(self) -> None:
        super().__init__()
        self.at_end = ExitStack()
        # Jitter would make them differ.
        self.at_end.enter_context(patch("random.uniform", lambda low, high: low))
        folder = self.at_end.enter_context(tempfile.TemporaryDirectory())
        self.at_end.callback(self.postgresql.empty)
        self.backends: list[Backend] = [
            memory_backend(),
            self.at_end.enter_context(sql_backend("sqlite-file", f"sqlite:///{Path(folder)}/a.db")),
            self.at_end.enter_context(sql_backend("postgresql", self.postgresql.url)),
        ]
        self.actors = [[backend.make() for _ in range(2)] for backend in self.backends]
        self.controls = [self.control_of(backend) for backend in self.backends]
        for control in filter(None, self.controls):
            self.at_end.callback(control.flush_events, 5)
        self.task_controls = [
            TaskControl(sessionmaker(bind=backend.engine), clock=backend.clock)
            for backend in self.backends
            if backend.engine is not None
        ]
        # What was claimed, as each implementation names it.
        self.claims: list[list[Claim]] = []

    @staticmethod
    def control_of(backend: Backend) -> Any:
        """Return what cancels and retries; in memory, the repository itself does."""
        if backend.engine is None:
            return None
        control = JobControl(sessionmaker(bind=backend.engine), clock=backend.clock)
        control.broadcaster = backend.broadcaster
        return control

    def teardown(self) -> None:
        self.at_end.close()

    def everywhere(self, act: Callable[[int, Backend, Any], Any], actor: int) -> list[Any]:
        """Do one thing on each implementation; all must answer, or refuse, alike."""
        answers = []
        for number, backend in enumerate(self.backends):
            try:
                answers.append(act(number, backend, self.actors[number][actor]))
            except (ValueError, RuntimeError, TypeError) as error:
                answers.append(type(error))
        plain = [
            [self.plain(one) for one in answer] if isinstance(answer, list) else answer
            for answer in answers
        ]
        assert plain[0] == plain[1] == plain[2], plain
        return answers

    @staticmethod
    def plain(one: Any) -> Any:
        if isinstance(one, Claim):
            return one.job_id
        if isinstance(one, ClaimedJob):
            return one.job, one.attempt, one.max_retries, one.timeout_seconds, one.waited_ms
        return one

    @initialize()
    def register(self) -> None:
        # Not the plain callers' way: their thread would renew by the real clock.
        for actor in (0, 1):
            for number in range(len(self.backends)):
                self.actors[number][actor].register_instance("w", {}, 1)

    @rule(
        job_id=JOB_IDS,
        task_type=st.sampled_from("tu"),
        priority=st.sampled_from([None, 0, 4, 5, 10]),
        max_retries=st.integers(0, 2),
        later=st.sampled_from([None, -5000, 0, 3000]),
        key=st.sampled_from([None, None, "k"]),
    )
    def add(
        self, job_id: str, task_type: str, priority: Any, max_retries: int, later: Any, key: Any
    ) -> None:
        def act(_number: int, backend: Backend, repository: Any) -> Any:
            return backend.add(
                repository,
                task_type,
                job_id=job_id,
                priority=priority,
                max_retries=max_retries,
                available_at=None if later is None else backend.clock.ms + later,
                idempotency_key=key,
            )

        self.everywhere(act, 0)

    @rule(actor=ACTORS, task_types=TYPES, limit=st.integers(0, 3))
    def claim(self, actor: int, task_types: list[str], limit: int) -> None:
        answers = self.everywhere(
            lambda _n, _b, repository: repository.fetch_next_jobs(task_types, limit), actor
        )
        self.claims += [[one.claim for one in together] for together in zip(*answers)]

    @rule(
        items=st.lists(
            st.tuples(JOB_IDS, st.sampled_from("tu"), st.sampled_from([None, None, "k", "l"])),
            max_size=4,
        )
    )
    def add_many(self, items: list[tuple[str, str, Any]]) -> None:
        jobs = [
            JobToAdd(Job(job_id=job_id, task_type=task_type), idempotency_key=key)
            for job_id, task_type, key in items
        ]
        self.everywhere(lambda _n, _b, repository: repository.add_jobs(jobs), 1)

    @precondition(lambda self: self.claims)
    @rule(actor=ACTORS, first=st.integers(0, 20), many=st.integers(1, 4))
    def complete_many(self, actor: int, first: int, many: int) -> None:
        chosen = {
            self.claims[-1 - (first + more) % len(self.claims)][0].job_id: (first + more)
            for more in range(many)
        }

        def act(number: int, _backend: Backend, repository: Any) -> Any:
            claims = [self.claims[-1 - at % len(self.claims)][number] for at in chosen.values()]
            return repository.complete_jobs([Completion(claim, {"many": 1}) for claim in claims])

        self.everywhere(act, actor)

    @precondition(lambda self: self.claims)
    @rule(
        actor=ACTORS,
        index=st.integers(0, 20),
        what=st.sampled_from(["complete", "fail", "final", "give back", "later", "progress"]),
    )
    def write(self, actor: int, index: int, what: str) -> None:
        claims = self.claims[-1 - index % len(self.claims)]

        def act(number: int, _backend: Backend, repository: Any) -> Any:
            claim = claims[number]
            if what == "complete":
                return complete(repository, claim, {"by": "claim"})
            if what == "progress":
                return repository.report_progress(claim, 60)
            if what == "later":
                return repository.postpone_job(claim, 7)
            if what == "give back":
                return give_back(repository, claim)
            return repository.fail_job(claim, "no", retryable=what == "fail")

        self.everywhere(act, actor)

    @rule(
        actor=ACTORS,
        job_id=JOB_IDS,
        status=st.sampled_from([None, *STATUSES]),
        progress=st.sampled_from([None, 0, 50, 100]),
        message=st.sampled_from([None, "said"]),
        output=st.sampled_from([None, {"x": 1}]),
    )
    def update(
        self, actor: int, job_id: str, status: Any, progress: Any, message: Any, output: Any
    ) -> None:
        fields = {
            "status": status,
            "progress": progress,
            "error_message": message,
            "task_output": output,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        self.everywhere(lambda _n, _b, repository: repository.update_job(job_id, **given), actor)

    @rule(job_id=JOB_IDS, what=st.sampled_from(["cancel", "retry"]))
    def control(self, job_id: str, what: str) -> None:
        if self.actors[0][0].get_job(job_id) is None:
            return

        def act(number: int, _backend: Backend, repository: Any) -> Any:
            control = self.controls[number] or repository
            return control.cancel_job(job_id) if what == "cancel" else control.retry_job(job_id)

        self.everywhere(act, 0)

    @rule(actor=ACTORS)
    def heed_cancel_requests(self, actor: int) -> None:
        def act(_number: int, _backend: Backend, repository: Any) -> Any:
            asked = sorted(repository.cancel_requests(), key=lambda claim: claim.job_id)
            for claim in asked:
                repository.end_cancelled_job(claim)
            return asked

        self.everywhere(act, actor)

    @rule(task_type=st.sampled_from("tu"), what=st.sampled_from(["pause", "resume", 1, 2, None]))
    def control_task(self, task_type: str, what: Any) -> None:
        table = self.actors[0][0].jobs
        if what == "pause":
            table.paused.add(task_type)
        elif what == "resume":
            table.paused.discard(task_type)
        elif what is None:
            table.limits.pop(task_type, None)
        else:
            table.limits[task_type] = what
        for control in self.task_controls:
            if what == "pause":
                control.pause_task_type(task_type, reason="because", by="me")
            elif what == "resume":
                control.resume_task_type(task_type)
            else:
                control.limit_task_type(task_type, what)

    @rule(actor=ACTORS, job_id=JOB_IDS)
    def delete(self, actor: int, job_id: str) -> None:
        self.everywhere(lambda _n, _b, repository: repository.delete_job(job_id), actor)

    @rule(actor=ACTORS)
    def renew(self, actor: int) -> None:
        self.everywhere(lambda _n, _b, repository: repository.renew_lease(1), actor)

    @rule(actor=ACTORS)
    def restart(self, actor: int) -> None:
        for number in range(len(self.backends)):
            self.actors[number][actor].release_instance()
            self.actors[number][actor].register_instance("w", {}, 1)

    @rule(seconds=st.sampled_from([0.5, 3, 601, 6001]))
    def wait(self, seconds: float) -> None:
        for number, backend in enumerate(self.backends):
            # In steps within which all renew: who goes silent is another rule's.
            left = seconds
            while left > 0:
                backend.clock.advance(min(left, LEASE_SECONDS / 2))
                left -= LEASE_SECONDS / 2
                for repository in self.actors[number]:
                    repository.renew_lease(0)

    @rule(silent=ACTORS)
    def fall_silent(self, silent: int) -> None:
        """One actor renews no more until the other has rescued its jobs; then it starts anew."""
        answers = []
        for number, backend in enumerate(self.backends):
            other = self.actors[number][1 - silent]
            rescued = 0
            for _ in range(3):
                backend.clock.advance(LEASE_SECONDS * 0.9)
                other.renew_lease(0)
                rescued += other.rescue_expired_jobs()
            backend.clock.advance(LEASE_SECONDS * 0.1)
            assert self.actors[number][silent].renew_lease(0) is None
            self.actors[number][silent].register_instance("w", {}, 1)
            answers.append(rescued)
        assert len(set(answers)) == 1, answers

    @invariant()
    def jobs_are_alike(self) -> None:
        for job_id in ("a", "b", "c", "d"):
            jobs = [repositories[0].get_job(job_id) for repositories in self.actors]
            assert jobs[0] == jobs[1] == jobs[2], jobs

    @invariant()
    def events_are_alike(self) -> None:
        told = [
            [
                {key: value for key, value in event.items() if key not in ("event_id", "timestamp")}
                for event in backend.broadcaster.events
            ]
            for backend in self.backends
        ]
        assert told[0] == told[1]
        assert told[0] == told[2]


def run(database: ReusedDatabase, *, examples: int, steps: int, at_random: bool) -> None:
    Jobs.postgresql = database
    case = Jobs.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not at_random,
        database=None,
        # Shrinking what takes a server for each try lasts longer than reading the steps.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()


def test_all_implementations_answer_alike(_reused_database: ReusedDatabase) -> None:
    run(_reused_database, examples=25, steps=30, at_random=False)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_implementations_answer_alike_for_long(_reused_database: ReusedDatabase) -> None:
    run(_reused_database, examples=200, steps=50, at_random=True)
