"""What every implementation of `JobRepository` and `WorkQueue` does: memory, SQLite, PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any, Callable

import pytest

from cl_ml_tools import Job, JobRepository
from cl_ml_tools.errors import ClaimLost, DuplicateJob, IllegalTransition
from cl_ml_tools.jobs import STATUSES, TERMINAL_STATUSES, TRANSITIONS
from cl_ml_tools.protocols import Claim, ClaimedJob, WorkQueue
from job_backends import LEASE_SECONDS, Backend, complete, give_back

ENDS = sorted(TERMINAL_STATUSES)


def take(repository: Any, *task_types: str) -> ClaimedJob:
    (claimed,) = repository.fetch_next_jobs(task_types or ("t",), 1)
    assert isinstance(claimed, ClaimedJob)
    return claimed


def drain(repository: Any, task_types: Sequence[str] = ("t",)) -> list[str]:
    """Claim all that is due, one by one, and return the ids in order."""
    taken = []
    while True:
        job = repository.fetch_next_job(task_types)
        if job is None:
            return taken
        taken.append(job.job_id)


def bring_to(backend: Backend, repository: Any, status: str) -> str:
    """Add a job and bring it to a status by the shortest way."""
    job_id = backend.add(repository)
    if status != "queued":
        repository.update_job(job_id, status=status)
    return job_id


def status_of(repository: Any, job_id: str) -> str:
    job = repository.get_job(job_id)
    assert job is not None
    return str(job.status)


# Protocols.


def test_it_follows_both_protocols(backend: Backend) -> None:
    repository = backend.make()

    assert isinstance(repository, JobRepository)
    assert isinstance(repository, WorkQueue)


# Adding.


def test_an_added_job_comes_back_as_it_was_given(backend: Backend) -> None:
    repository = backend.make()
    params = {
        "input_paths": ["input/ä 🦆.jpg"],
        "nested": {"a": [1, 2.5, None, True]},
        "zero": "\0",
    }

    assert repository.add_job(Job(job_id="j", task_type="t", params=params), "user-1", 7) == "j"

    assert repository.get_job("j") == Job(job_id="j", task_type="t", params=params)


def nested(depth: int) -> dict[str, Any]:
    """Return an object that is so many containers deep, lists and objects in turns."""
    value: Any = {} if depth % 2 else []
    for level in range(depth - 1, 0, -1):
        value = {"in": value} if level % 2 else [value]
    assert isinstance(value, dict)
    return value


def test_params_may_be_nested_a_hundred_levels_and_no_deeper(backend: Backend) -> None:
    """What Python can still write here it may not be able to read where a worker claims."""
    repository = backend.make()
    params = nested(100)
    repository.add_job(Job(job_id="j", task_type="t", params=params))
    assert repository.fetch_next_jobs(["t"], 1)[0].job.params == params

    for depth in (101, 300, 900):
        job = Job(job_id="deeper", task_type="t", params=nested(depth))
        with pytest.raises(ValueError, match="params is nested deeper than 100 levels"):
            repository.add_job(job)
    wide = {str(number): [[number]] for number in range(1000)}
    repository.add_job(Job(job_id="wide", task_type="t", params=wide))
    assert repository.get_job("deeper") is None


def test_what_one_object_adds_another_sees(backend: Backend) -> None:
    job_id = backend.add(backend.make())

    assert backend.make().get_job(job_id) is not None


def test_an_unknown_job_is_none_and_false(backend: Backend) -> None:
    repository = backend.make()

    assert repository.get_job("nobody") is None
    assert repository.update_job("nobody", progress=3) is False
    assert repository.update_job("nobody", status="processing") is False
    assert repository.delete_job("nobody") is False


@pytest.mark.parametrize("nothing", ["a\0b", "\ud800", 5, None, b"j", ["j"]])
def test_what_no_database_can_hold_is_not_there(backend: Backend, nothing: Any) -> None:
    repository = backend.make()
    backend.add(repository, job_id="j")

    assert repository.get_job(nothing) is None
    assert repository.update_job(nothing, progress=3) is False
    assert repository.update_job(nothing, status="processing") is False
    assert repository.delete_job(nothing) is False
    assert repository.fetch_next_job([nothing]) is None
    assert repository.fetch_next_jobs([nothing, "t"], 1)[0].job.job_id == "j"


def test_changing_what_was_returned_changes_nothing(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository, params={"list": [1]})

    job = repository.get_job(job_id)
    assert job is not None
    job.params["list"].append(2)
    job.status = "completed"

    again = repository.get_job(job_id)
    assert again is not None
    assert (again.params, again.status) == ({"list": [1]}, "queued")


def test_a_second_job_with_an_id_is_refused_and_changes_nothing(backend: Backend) -> None:
    repository = backend.make()
    backend.add(repository, job_id="j", params={"first": 1})

    with pytest.raises(DuplicateJob) as raised:
        backend.add(repository, "other", job_id="j", params={"second": 2}, priority=10)

    assert isinstance(raised.value, ValueError)
    assert raised.value.job_id == "j"
    assert backend.told("j") == ["queued"]
    job = repository.get_job("j")
    assert job is not None and (job.task_type, job.params) == ("t", {"first": 1})
    assert drain(repository, ["t", "other"]) == ["j"]


@pytest.mark.parametrize("status", ENDS)
def test_the_id_of_an_ended_job_stays_taken(backend: Backend, status: str) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, status)

    with pytest.raises(DuplicateJob):
        backend.add(repository, job_id=job_id)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"priority": 11}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 5.0}, "priority"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 51}, "max_retries"),
        ({"available_at": -1}, "available_at"),
        ({"available_at": 2**60}, "available_at"),
        ({"available_at": 1.5}, "available_at"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"timeout_seconds": 2**63}, "timeout_seconds 9223372036854775808"),
        ({"timeout_seconds": 10**400}, "timeout_seconds 1000"),
        ({"timeout_seconds": "1"}, "timeout_seconds '1'"),
        ({"timeout_seconds": True}, "timeout_seconds True"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * 256}, "idempotency_key"),
        ({"created_by": "a\0b"}, "created_by"),
        ({"created_by": "\ud800"}, "created_by"),
        ({"params": {"x": float("nan")}}, "params"),
        ({"params": {"x": object()}}, "params"),
        ({"job_id": ".."}, "job_id"),
        ({"job_id": "a/b"}, "job_id"),
        ({"job_id": "x" * 241}, "job_id"),
        ({"job_id": "NUL"}, "job_id"),
    ],
)
def test_a_value_out_of_range_is_named_and_nothing_is_written(
    backend: Backend, options: dict[str, Any], named: str
) -> None:
    repository = backend.make()

    with pytest.raises(ValueError, match=named):
        backend.add(repository, **{"job_id": "j", **options})

    assert repository.get_job("j") is None
    assert backend.broadcaster.events == []
    assert repository.fetch_next_job(["t"]) is None


def test_only_a_queued_job_can_be_added(backend: Backend) -> None:
    with pytest.raises(ValueError, match="status"):
        backend.make().add_job(Job(job_id="j", task_type="t", status="processing"))


@pytest.mark.parametrize(
    ("name", "value"), [("progress", 5), ("error_message", "x"), ("task_output", {})]
)
def test_a_job_that_is_added_has_no_outcome_yet(backend: Backend, name: str, value: Any) -> None:
    repository = backend.make()

    with pytest.raises(ValueError, match=name):
        repository.add_job(Job(job_id="j", task_type="t", **{name: value}))

    assert repository.get_job("j") is None


def test_an_idempotency_key_makes_the_second_request_the_first_job(backend: Backend) -> None:
    repository = backend.make()
    first = backend.add(repository, params={"a": 1}, idempotency_key="key")

    assert backend.add(repository, params={"a": 1}, idempotency_key="key") == first
    assert drain(repository) == [first]
    assert backend.told(first).count("queued") == 1


def test_an_idempotency_key_for_other_content_is_refused(backend: Backend) -> None:
    repository = backend.make()
    first = backend.add(repository, params={"a": 1}, idempotency_key="key")

    for task_type, params in (("t", {"a": 2}), ("u", {"a": 1})):
        with pytest.raises(DuplicateJob, match=first):
            backend.add(repository, task_type, params=params, idempotency_key="key")
    assert drain(repository, ["t", "u"]) == [first]


def test_a_key_is_free_again_once_its_job_is_deleted(backend: Backend) -> None:
    repository = backend.make()
    first = backend.add(repository, idempotency_key="key")
    repository.delete_job(first)

    assert backend.add(repository, idempotency_key="key") != first


# Order.


def test_the_oldest_of_one_priority_is_first(backend: Backend) -> None:
    repository = backend.make()
    added = []
    for _ in range(5):
        added.append(backend.add(repository))
        backend.clock.advance(1)

    assert drain(repository) == added


def test_jobs_of_one_millisecond_come_in_the_order_in_which_they_were_added(
    backend: Backend,
) -> None:
    repository = backend.make()
    added = [backend.add(repository) for _ in range(20)]

    assert drain(repository) == added


def test_the_highest_priority_is_first(backend: Backend) -> None:
    repository = backend.make()
    by_priority = {n: backend.add(repository, priority=n) for n in (3, 10, 0, 7)}
    by_priority[5] = backend.add(repository)  # the default

    assert drain(repository) == [by_priority[n] for n in (10, 7, 5, 3, 0)]


def test_ten_minutes_of_waiting_are_worth_one_step_of_priority(backend: Backend) -> None:
    repository = backend.make()
    old = backend.add(repository, priority=4)
    backend.clock.advance(600 - 0.001)
    just_ahead = backend.add(repository, priority=5)
    backend.clock.advance(0.002)
    just_behind = backend.add(repository, priority=5)

    assert drain(repository) == [just_ahead, old, just_behind]


def test_nothing_starves(backend: Backend) -> None:
    repository = backend.make()
    patient = backend.add(repository, priority=0)
    backend.clock.advance(100 * 60 + 1)  # ten steps
    backend.add(repository, priority=10)

    assert drain(repository)[0] == patient


def test_only_the_types_asked_for_are_taken(backend: Backend) -> None:
    repository = backend.make()
    wanted = backend.add(repository, "b")
    backend.add(repository, "a", priority=10)

    assert repository.fetch_next_job([]) is None
    assert repository.fetch_next_job(["c"]) is None
    assert drain(repository, ["c", "b"]) == [wanted]


def test_a_type_with_any_characters_is_a_type(backend: Backend) -> None:
    repository = backend.make()
    odd = 'it\'s "odd" % :x [1] ü'
    job_id = backend.add(repository, odd)

    assert drain(repository, [odd]) == [job_id]


def test_several_are_claimed_in_order_and_across_types(backend: Backend) -> None:
    repository = backend.make()
    low = backend.add(repository, "a", priority=1)
    high = backend.add(repository, "b", priority=9)
    middle = backend.add(repository, "a", priority=6)

    claimed = repository.fetch_next_jobs(["a", "b"], 2)

    assert [one.job.job_id for one in claimed] == [high, middle]
    assert drain(repository, ["a", "b"]) == [low]


def test_a_type_that_is_named_twice_counts_once(backend: Backend) -> None:
    repository = backend.make()
    added = [backend.add(repository) for _ in range(3)]

    claimed = repository.fetch_next_jobs(["t", "t"], 3)

    assert [one.job.job_id for one in claimed] == added


def test_none_wanted_is_none_claimed(backend: Backend) -> None:
    repository = backend.make()
    backend.add(repository)

    assert repository.fetch_next_jobs(["t"], 0) == []
    assert len(repository.fetch_next_jobs(["t"], 5)) == 1


# Later.


def test_a_job_for_later_is_not_taken_before_its_time(backend: Backend) -> None:
    repository = backend.make()
    later = backend.add(repository, available_at=backend.clock.ms + 60_000)

    backend.clock.advance(59.999)
    assert repository.fetch_next_job(["t"]) is None
    backend.clock.advance(0.001)
    assert drain(repository) == [later]


def test_a_job_for_later_waits_from_when_it_became_due(backend: Backend) -> None:
    repository = backend.make()
    later = backend.add(repository, available_at=backend.clock.ms + 60_000)
    backend.clock.advance(30)
    meanwhile = backend.add(repository)
    backend.clock.advance(60)
    after = backend.add(repository)

    assert drain(repository) == [meanwhile, later, after]


def test_a_time_in_the_past_is_now(backend: Backend) -> None:
    repository = backend.make()
    first = backend.add(repository)
    backend.clock.advance(1)
    past = backend.add(repository, available_at=1)

    assert drain(repository) == [first, past]


# Transitions.


@pytest.mark.parametrize("current", STATUSES)
@pytest.mark.parametrize("wanted", STATUSES)
def test_every_transition_is_allowed_or_refused_as_the_table_says(
    backend: Backend, current: str, wanted: str
) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, current)
    told, before = backend.told(job_id), repository.get_job(job_id)

    if wanted == current:
        assert repository.update_job(job_id, status=wanted) is True
        assert (backend.told(job_id), repository.get_job(job_id)) == (told, before)
    elif wanted in TRANSITIONS[current]:
        assert repository.update_job(job_id, status=wanted) is True
        assert status_of(repository, job_id) == wanted
        assert len(backend.told(job_id)) == len(told) + 1
    else:
        with pytest.raises(IllegalTransition) as raised:
            repository.update_job(job_id, status=wanted, progress=7, error_message="no")
        assert isinstance(raised.value, ValueError)
        assert (raised.value.job_id, raised.value.current, raised.value.wanted) == (
            job_id,
            current,
            wanted,
        )
        assert (backend.told(job_id), repository.get_job(job_id)) == (told, before)


@pytest.mark.parametrize("status", ENDS)
def test_an_ended_job_is_never_claimed(backend: Backend, status: str) -> None:
    repository = backend.make()
    bring_to(backend, repository, status)

    assert repository.fetch_next_job(["t"]) is None


def test_processing_claims_the_job(backend: Backend) -> None:
    repository, other = backend.make(), backend.make()
    job_id = bring_to(backend, repository, "processing")

    assert other.fetch_next_job(["t"]) is None
    with pytest.raises(ClaimLost):
        other.update_job(job_id, status="completed")
    assert repository.update_job(job_id, status="completed")


def test_processing_claims_a_job_that_is_not_due_yet(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository, available_at=backend.clock.ms + 10_000)

    assert repository.update_job(job_id, status="processing")
    backend.clock.advance(11)
    assert repository.fetch_next_job(["t"]) is None


def test_queued_gives_the_job_back_in_its_place_at_no_cost(backend: Backend) -> None:
    repository = backend.make()
    first = backend.add(repository, max_retries=0)
    backend.clock.advance(1)
    second = backend.add(repository)
    for _ in range(5):
        assert take(repository).attempt == 1
        assert repository.update_job(first, progress=50)
        assert repository.update_job(first, status="queued")
        assert repository.get_job(first) == Job(job_id=first, task_type="t")

    assert drain(repository) == [first, second]


def test_a_give_back_of_a_job_for_later_waits_for_its_time(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository, available_at=backend.clock.ms + 60_000)
    repository.update_job(job_id, status="processing")
    backend.clock.advance(10)

    repository.update_job(job_id, status="queued")

    assert repository.fetch_next_job(["t"]) is None
    backend.clock.advance(49.9)
    assert repository.fetch_next_job(["t"]) is None
    backend.clock.advance(0.1)
    assert drain(repository) == [job_id]


def test_a_give_back_of_a_re_run_that_was_claimed_too_soon_waits_as_before(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    repository = backend.make()
    job_id = backend.add(repository)
    repository.fail_job(take(repository).claim, "no")
    repository.update_job(job_id, status="processing")

    repository.update_job(job_id, status="queued")

    assert repository.fetch_next_job(["t"]) is None
    backend.clock.advance(1.9)
    assert repository.fetch_next_job(["t"]) is None
    backend.clock.advance(0.1)
    assert drain(repository) == [job_id]


def test_a_message_that_comes_with_success_is_kept(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")
    repository.update_job(job_id, error_message="before")

    repository.update_job(job_id, status="completed", error_message="a warning")

    assert repository.get_job(job_id).error_message == "a warning"


def test_completed_is_all_of_it(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")

    assert repository.update_job(job_id, status="completed", progress=30, task_output={"a": [1]})

    job = repository.get_job(job_id)
    assert job is not None
    assert (job.progress, job.task_output, job.error_message) == (100, {"a": [1]}, None)


@pytest.mark.parametrize("status", ["error", "cancelled"])
def test_an_end_without_success_keeps_the_progress_and_says_why(
    backend: Backend, status: str
) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")
    repository.update_job(job_id, progress=30)

    assert repository.update_job(job_id, status=status, error_message="not today")

    job = repository.get_job(job_id)
    assert job is not None
    assert (job.status, job.progress, job.error_message) == (status, 30, "not today")


def test_an_error_that_is_set_is_final(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "error")
    backend.clock.advance(10_000)

    assert repository.fetch_next_job(["t"]) is None
    assert backend.told(job_id) == ["queued", "failed"]


# Fields.


def test_each_field_is_stored(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")

    assert repository.update_job(job_id, progress=42) is True
    assert repository.update_job(job_id, task_output={"part": 1}) is True
    assert repository.update_job(job_id, error_message="hm") is True

    job = repository.get_job(job_id)
    assert job is not None
    assert (job.status, job.progress, job.task_output, job.error_message) == (
        "processing",
        42,
        {"part": 1},
        "hm",
    )


def test_fields_come_with_a_status(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)

    repository.update_job(job_id, status="processing", progress=5, error_message="first")
    job = repository.get_job(job_id)
    assert job is not None and (job.progress, job.error_message) == (5, "first")

    repository.update_job(job_id, status="queued", error_message="second")
    job = repository.get_job(job_id)
    assert job is not None and (job.progress, job.error_message) == (0, "second")


def test_a_status_to_itself_lets_the_fields_of_a_running_job_change(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")

    assert repository.update_job(job_id, status="processing", progress=10)

    job = repository.get_job(job_id)
    assert job is not None and job.progress == 10
    assert backend.told(job_id) == ["queued", "started", "progress"]


def test_progress_is_told_where_it_changes(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")

    for progress in (10, 10, 20):
        repository.update_job(job_id, progress=progress)
    repository.update_job(job_id, error_message="no progress")

    events = [one for one in backend.events_of(job_id) if one["event_type"] == "progress"]
    assert [one["progress"] for one in events] == [10, 20]
    assert {(one["event_id"], one["status"]) for one in events} == {(None, "processing")}


def test_a_progress_that_a_job_keeps_as_it_is_given_back_is_told(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")
    repository.update_job(job_id, progress=50)

    repository.update_job(job_id, status="queued", progress=50)

    job = repository.get_job(job_id)
    assert job is not None
    assert job.progress == 50
    last = backend.events_of(job_id)[-2:]
    assert [(one["event_type"], one["progress"]) for one in last] == [
        ("queued", 0),
        ("progress", 50),
    ]


@pytest.mark.parametrize("status", ["queued", "processing"])
def test_a_progress_event_says_the_status_that_the_job_has(backend: Backend, status: str) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, status)
    repository.update_job(job_id, progress=20)

    assert {one["status"] for one in backend.events_of(job_id)[-1:]} == {status}


@pytest.mark.parametrize("status", ENDS)
def test_the_progress_of_an_ended_job_stays(backend: Backend, status: str) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, status)
    before, told = repository.get_job(job_id), backend.told(job_id)
    assert before is not None

    with pytest.raises(ValueError, match=f"ended, {status}, its progress stays at"):
        repository.update_job(job_id, progress=55, task_output={"x": 1}, error_message="late")
    assert (repository.get_job(job_id), backend.told(job_id)) == (before, told)

    assert repository.update_job(job_id, progress=before.progress, task_output={"x": 1})
    after = repository.get_job(job_id)
    assert after is not None
    assert (after.progress, after.task_output) == (before.progress, {"x": 1})
    assert backend.told(job_id) == told


@pytest.mark.parametrize("field", ["priority", "params", "retry_count", "job_id_", "Status"])
def test_an_unknown_field_is_a_type_error_and_nothing_is_written(
    backend: Backend, field: str
) -> None:
    repository = backend.make()
    job_id = backend.add(repository)

    with pytest.raises(TypeError, match=field):
        repository.update_job(job_id, status="cancelled", **{field: 1})
    assert status_of(repository, job_id) == "queued"


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "done"},
        {"status": "QUEUED"},
        {"status": None},
        {"progress": None},
        {"progress": 101},
        {"progress": -1},
        {"progress": 1.5},
        {"progress": True},
        {"progress": "5"},
        {"task_output": [1]},
        {"task_output": "{}"},
        {"task_output": {"a": float("nan")}},
        {"task_output": {"a": object()}},
        {"error_message": 5},
    ],
)
def test_a_field_out_of_range_is_a_value_error_and_nothing_is_written(
    backend: Backend, fields: dict[str, Any]
) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")
    before = repository.get_job(job_id)

    with pytest.raises(ValueError, match=next(iter(fields))):
        repository.update_job(job_id, **{"error_message": "x", **fields})
    assert repository.get_job(job_id) == before


def test_text_that_a_database_cannot_hold_is_stored_readably(backend: Backend) -> None:
    repository = backend.make()
    job_id = bring_to(backend, repository, "processing")

    repository.update_job(job_id, status="error", error_message="a\0b \ud800 ü🦆")

    job = repository.get_job(job_id)
    assert job is not None and job.error_message is not None
    assert job.error_message.startswith("a") and job.error_message.endswith("ü🦆")


# Claims, and what they guard.


def test_a_claim_is_told_and_complete(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository, params={"a": 1}, max_retries=2, timeout_seconds=1.5)

    claimed = take(repository)

    assert claimed.job == Job(job_id=job_id, task_type="t", params={"a": 1}, status="processing")
    assert (claimed.attempt, claimed.max_retries, claimed.timeout_seconds) == (1, 2, 1.5)
    assert claimed.claim.job_id == job_id
    assert repository.get_job(job_id) == claimed.job
    assert backend.told(job_id) == ["queued", "started"]


def test_a_claimed_job_has_what_was_stored_before(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    repository.update_job(job_id, task_output={"early": 1}, error_message="hm", progress=20)

    assert take(repository).job == repository.get_job(job_id)


def test_two_objects_never_get_the_same_job(backend: Backend) -> None:
    repositories = [backend.make() for _ in range(3)]
    added = [backend.add(repositories[0]) for _ in range(30)]
    taken: list[str] = []

    def work(repository: Any) -> None:
        taken.extend(drain(repository))

    threads = [threading.Thread(target=work, args=[one]) for one in repositories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == sorted(added)


def test_threads_share_one_object(backend: Backend) -> None:
    repository = backend.make()
    errors: list[Exception] = []
    done: list[str] = []

    def work(number: int) -> None:
        try:
            for n in range(5):
                repository.add_job(Job(job_id=f"{number}-{n}", task_type="t"))
            while True:
                claimed = repository.fetch_next_jobs(["t"], 2)
                if not claimed:
                    return
                for one in claimed:
                    repository.report_progress(one.claim, 50)
                    complete(repository, one.claim, {"by": number})
                    done.append(one.job.job_id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert sorted(done) == sorted(f"{number}-{n}" for number in range(4) for n in range(5))


def forged(claim: Claim, **changes: int) -> Claim:
    return Claim(**{**vars(claim), **changes})


WRITES: dict[str, Callable[[Any, Claim], object]] = {
    "report_progress": lambda repository, claim: repository.report_progress(claim, 50),
    "complete_job": lambda repository, claim: complete(repository, claim, {"a": 1}),
    "fail_job": lambda repository, claim: repository.fail_job(claim, "no"),
    "fail_job finally": lambda repository, claim: repository.fail_job(claim, "", retryable=False),
    "give_back_job": lambda repository, claim: give_back(repository, claim),
    "postpone_job": lambda repository, claim: repository.postpone_job(claim, 5),
    "end_cancelled_job": lambda repository, claim: repository.end_cancelled_job(claim),
}


@pytest.mark.parametrize("write", list(WRITES))
def test_a_write_without_the_claim_is_refused_and_changes_nothing(
    backend: Backend, write: str
) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    claim = take(repository).claim
    before, told = repository.get_job(job_id), backend.told(job_id)
    wrong = [
        forged(claim, claim_seq=claim.claim_seq + 1),
        forged(claim, claim_seq=claim.claim_seq - 1),
        forged(claim, instance_id=claim.instance_id + 1),
    ]

    for forgery in wrong:
        with pytest.raises(ClaimLost) as raised:
            WRITES[write](repository, forgery)
        assert isinstance(raised.value, RuntimeError)
        assert raised.value.job_id == job_id
    assert (repository.get_job(job_id), backend.told(job_id)) == (before, told)

    WRITES[write](repository, claim)  # the true one works


@pytest.mark.parametrize("write", list(WRITES))
@pytest.mark.parametrize("end", ["completed", "given back", "deleted", "claimed again"])
def test_an_old_claim_writes_nothing(backend: Backend, write: str, end: str) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    claim = take(repository).claim
    if end == "completed":
        complete(repository, claim, None)
    elif end == "deleted":
        repository.delete_job(job_id)
    else:
        give_back(repository, claim)
        if end == "claimed again":
            take(repository)
    before, told = repository.get_job(job_id), backend.told(job_id)

    with pytest.raises(ClaimLost):
        WRITES[write](repository, claim)
    assert (repository.get_job(job_id), backend.told(job_id)) == (before, told)


def test_a_claim_ends_with_success(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)

    complete(repository, take(repository).claim, {"width": 3})

    job = repository.get_job(job_id)
    assert job is not None
    assert (job.status, job.progress, job.task_output) == ("completed", 100, {"width": 3})


def test_a_success_needs_no_output(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)

    complete(repository, take(repository).claim, None)

    assert status_of(repository, job_id) == "completed"


@pytest.mark.parametrize("output", [{"a": float("inf")}, {"a": object()}, {"a": b""}])
def test_an_output_that_is_not_json_is_refused_and_the_job_goes_on(
    backend: Backend, output: dict[str, Any]
) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    claim = take(repository).claim

    with pytest.raises(ValueError, match="task_output"):
        complete(repository, claim, output)
    assert status_of(repository, job_id) == "processing"
    complete(repository, claim, {})


@pytest.mark.parametrize("progress", [101, -1, 1.5, True])
def test_progress_out_of_range_is_refused(backend: Backend, progress: Any) -> None:
    repository = backend.make()
    backend.add(repository)
    claim = take(repository).claim

    with pytest.raises(ValueError, match="progress"):
        repository.report_progress(claim, progress)


@pytest.mark.parametrize("status", ["completed", "error", "cancelled", "queued", None])
def test_what_another_live_claim_holds_is_not_touched(backend: Backend, status: Any) -> None:
    fields = {} if status is None else {"status": status}
    holder, other = backend.make(), backend.make()
    job_id = backend.add(holder)
    take(holder)
    before = holder.get_job(job_id)

    with pytest.raises(ClaimLost):
        other.update_job(job_id, **fields, progress=99, error_message="mine")

    assert holder.get_job(job_id) == before


def test_a_job_that_nobody_claimed_can_be_ended_by_anyone(backend: Backend) -> None:
    adder, other = backend.make(), backend.make()
    job_id = backend.add(adder)

    assert other.update_job(job_id, status="cancelled")
    assert backend.told(job_id) == ["queued", "cancelled"]


def test_deleting_takes_the_job_away_from_its_holder(backend: Backend) -> None:
    holder, other = backend.make(), backend.make()
    job_id = backend.add(holder)
    claim = take(holder).claim

    assert other.delete_job(job_id) is True

    assert holder.get_job(job_id) is None
    with pytest.raises(ClaimLost):
        complete(holder, claim, None)
    assert holder.update_job(job_id, status="completed") is False
    assert backend.add(holder, job_id=job_id) == job_id


# Retries.


def test_a_failed_job_is_run_again_as_often_as_it_may(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)  # three re-runs

    for attempt in (1, 2, 3, 4):
        claimed = take(repository)
        assert (claimed.job.job_id, claimed.attempt) == (job_id, attempt)
        repository.report_progress(claimed.claim, 40)
        status = repository.fail_job(claimed.claim, f"attempt {attempt}")
        assert status == ("queued" if attempt < 4 else "error")
        job = repository.get_job(job_id)
        assert job is not None
        assert (job.status, job.error_message) == (status, f"attempt {attempt}")
        assert job.progress == (0 if attempt < 4 else 40)
        backend.clock.advance(300)

    assert repository.fetch_next_job(["t"]) is None
    events = [one for one in backend.events_of(job_id) if one["event_type"] != "progress"]
    assert [(one["event_type"], one["status"], one["attempt"]) for one in events] == [
        ("queued", "queued", 1),
        ("started", "processing", 1),
        ("retrying", "queued", 1),
        ("started", "processing", 2),
        ("retrying", "queued", 2),
        ("started", "processing", 3),
        ("retrying", "queued", 3),
        ("started", "processing", 4),
        ("failed", "error", 4),
    ]
    assert [one["error"] for one in events if "error" in one] == [
        f"attempt {n}" for n in (1, 2, 3, 4)
    ]


def test_a_job_without_re_runs_has_one_attempt(backend: Backend) -> None:
    repository = backend.make()
    backend.add(repository, max_retries=0)

    assert repository.fail_job(take(repository).claim, "once") == "error"


def test_a_final_failure_is_final(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)

    assert repository.fail_job(take(repository).claim, "unreadable", retryable=False) == "error"
    backend.clock.advance(1000)
    assert repository.fetch_next_job(["t"]) is None
    assert backend.told(job_id) == ["queued", "started", "failed"]


@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_the_nth_re_run_waits_between_half_and_all_of_its_time(
    backend: Backend, jitter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: {0.5: low, 1.0: high}[jitter])
    repository = backend.make()
    backend.add(repository, max_retries=10)

    for seconds in (2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        assert repository.fail_job(take(repository).claim, "again") == "queued"
        backend.clock.advance(seconds * jitter - 0.001)
        assert repository.fetch_next_job(["t"]) is None
        backend.clock.advance(0.001)


def test_a_re_run_keeps_its_place(backend: Backend) -> None:
    repository = backend.make()
    first = backend.add(repository)
    backend.clock.advance(1)
    second = backend.add(repository)
    repository.fail_job(take(repository).claim, "again")
    backend.clock.advance(2)

    assert drain(repository) == [first, second]


def test_a_re_run_keeps_the_error_until_it_succeeds(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    repository.fail_job(take(repository).claim, "the first try")
    backend.clock.advance(2)

    claimed = take(repository)
    assert (claimed.job.error_message, claimed.job.progress) == ("the first try", 0)
    complete(repository, claimed.claim, {})

    job = repository.get_job(job_id)
    assert job is not None and job.error_message is None


def test_a_give_back_costs_nothing(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository, max_retries=0)
    for _ in range(3):
        claimed = take(repository)
        assert claimed.attempt == 1
        repository.report_progress(claimed.claim, 90)
        give_back(repository, claimed.claim)
        job = repository.get_job(job_id)
        assert job is not None and (job.status, job.progress) == ("queued", 0)

    assert take(repository).job.job_id == job_id


# Instances and leases.


def test_an_instance_that_is_released_gives_all_back(backend: Backend) -> None:
    worker, other = backend.make(), backend.make()
    added = [backend.add(other, max_retries=0) for _ in range(3)]
    worker.register_instance("w", {"t": {}}, 3)
    claims = [one.claim for one in worker.fetch_next_jobs(["t"], 2)]

    worker.release_instance()

    assert drain(other) == added
    for claim in claims:
        with pytest.raises(ClaimLost):
            complete(worker, claim, None)
    assert worker.renew_lease() is None
    worker.release_instance()  # twice is once


def test_two_instances_with_one_label_are_two(backend: Backend) -> None:
    first, second = backend.make(), backend.make()

    assert first.register_instance("same", {}, 1) != second.register_instance("same", {}, 1)
    assert first.renew_lease() == [] and second.renew_lease() == []


def test_a_lease_that_is_renewed_keeps_its_claims(backend: Backend) -> None:
    worker, other = backend.make(), backend.make()
    backend.add(worker)
    worker.register_instance("w", {}, 1)
    claim = take(worker).claim

    for _ in range(10):
        backend.clock.advance(LEASE_SECONDS / 3)
        assert worker.renew_lease(running=1) is not None
        assert other.rescue_expired_jobs() == 0

    complete(worker, claim, None)


@pytest.mark.parametrize("error", [None, 5, b"no"])
def test_a_failure_has_a_text_that_says_why(backend: Backend, error: Any) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    (claimed,) = repository.fetch_next_jobs(["t"], 1)

    with pytest.raises(ValueError, match="error"):
        repository.fail_job(claimed.claim, error)

    assert status_of(repository, job_id) == "processing"
    assert repository.fail_job(claimed.claim, "no") == "queued"


def test_a_silent_worker_loses_its_jobs(backend: Backend) -> None:
    if not backend.leases_end:
        pytest.skip("a lease does not end here")
    worker, other = backend.make(), backend.make()
    retried = backend.add(worker, max_retries=1)
    failed = backend.add(worker, max_retries=0)
    worker.register_instance("w", {}, 2)
    claims = [one.claim for one in worker.fetch_next_jobs(["t"], 2)]

    backend.clock.advance(LEASE_SECONDS)
    assert other.rescue_expired_jobs() == 0  # to the millisecond, it still holds
    backend.clock.advance(0.001)
    if not backend.rescues_at_first_sight:
        assert other.rescue_expired_jobs() == 0
        backend.clock.advance(LEASE_SECONDS / 3)
    assert other.rescue_expired_jobs() == 2
    assert other.rescue_expired_jobs() == 0

    assert (status_of(other, retried), status_of(other, failed)) == ("queued", "error")
    assert backend.told(retried)[-1] == "retrying"
    assert backend.told(failed)[-1] == "failed"
    assert worker.renew_lease() is None
    for claim in claims:
        with pytest.raises(ClaimLost):
            complete(worker, claim, {"late": True})
    backend.clock.advance(2)
    assert take(other).attempt == 2


def test_an_object_whose_claim_was_taken_away_is_told_so_each_time(backend: Backend) -> None:
    if not backend.leases_end:
        pytest.skip("a lease does not end here")
    plain, other = backend.make(), backend.make()
    job_id = bring_to(backend, plain, "processing")
    backend.clock.advance(LEASE_SECONDS * 2)
    while not other.rescue_expired_jobs():
        backend.clock.advance(LEASE_SECONDS)
    before = other.get_job(job_id)

    for _ in range(2):
        with pytest.raises(ClaimLost):
            plain.update_job(job_id, status="completed")
    assert plain.renew_lease() is None
    with pytest.raises(ClaimLost):
        plain.update_job(job_id, status="completed")
    assert other.get_job(job_id) == before

    assert plain.update_job(job_id, status="processing")  # a claim of its own again
    assert plain.update_job(job_id, status="completed")


def test_a_job_whose_holder_is_silent_can_be_ended_by_anyone(backend: Backend) -> None:
    if not backend.leases_end:
        pytest.skip("a lease does not end here")
    silent, other = backend.make(), backend.make()
    job_id = bring_to(backend, silent, "processing")
    backend.clock.advance(LEASE_SECONDS + 1)

    assert other.update_job(job_id, status="cancelled")


def test_waiting_ends_when_the_time_is_over(backend: Backend) -> None:
    repository = backend.make()
    repository.wait_for_jobs(0.01)

    assert repository.wait_for_jobs(0.01) in (True, False)


# Events.


def test_events_have_the_fields_of_the_contract(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    claim = take(repository).claim
    repository.report_progress(claim, 50)
    complete(repository, claim, {"width": 3})

    events = backend.events_of(job_id)
    common = {"job_id": job_id, "task_type": "t", "attempt": 1, "timestamp": backend.clock.ms}
    assert [{key: value for key, value in one.items() if key != "event_id"} for one in events] == [
        {**common, "event_type": "queued", "status": "queued", "progress": 0},
        {**common, "event_type": "started", "status": "processing", "progress": 0},
        {**common, "event_type": "progress", "status": "processing", "progress": 50},
        {
            **common,
            "event_type": "completed",
            "status": "completed",
            "progress": 100,
            "task_output": {"width": 3},
        },
    ]
    assert events[2]["event_id"] is None
    ids = [one["event_id"] for one in events if one["event_id"] is not None]
    assert ids == sorted(set(ids)) and len(ids) == 3
    json.dumps(events, allow_nan=False)


def test_the_event_of_an_end_carries_what_was_stored_before(backend: Backend) -> None:
    repository = backend.make()
    done, failed = (bring_to(backend, repository, "processing") for _ in range(2))
    repository.update_job(done, task_output={"early": 1})
    repository.update_job(failed, error_message="seen early")
    repository.update_job(done, status="completed")
    repository.update_job(failed, status="error")

    assert backend.events_of(done)[-1]["task_output"] == {"early": 1}
    assert backend.events_of(failed)[-1]["error"] == "seen early"


def test_an_end_without_a_word_has_its_field_all_the_same(backend: Backend) -> None:
    repository = backend.make()
    done, failed = (bring_to(backend, repository, "processing") for _ in range(2))
    repository.update_job(done, status="completed")
    repository.update_job(failed, status="error")

    assert backend.events_of(done)[-1]["task_output"] == {}
    assert backend.events_of(failed)[-1]["error"] == ""


def test_event_ids_grow_over_the_whole_life_of_a_job(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    for _ in range(3):
        give_back(repository, take(repository).claim)
        repository.fail_job(take(repository).claim, "again")
        backend.clock.advance(300)
    repository.update_job(job_id, status="cancelled")

    ids = [one["event_id"] for one in backend.events_of(job_id)]
    assert ids == sorted(set(ids))
    assert backend.told(job_id)[-1] == "cancelled"


def test_a_broadcaster_that_raises_fails_no_job(backend: Backend) -> None:
    class Broken:
        def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
            raise ConnectionError("no broker")

    repository = backend.make()
    repository.broadcaster = Broken()
    job_id = backend.add(repository)
    claim = take(repository).claim
    repository.report_progress(claim, 10)
    complete(repository, claim, {})

    assert status_of(repository, job_id) == "completed"
