"""Many jobs at once, on every implementation: memory, SQLite, PostgreSQL."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from cl_ml_tools import Job
from cl_ml_tools.errors import ClaimLost, DuplicateJob
from cl_ml_tools.protocols import AddedJob, Claim, Completion, JobToAdd
from job_backends import Backend, complete


def wanted(job_id: str, **options: Any) -> JobToAdd:
    params = options.pop("params", {})
    return JobToAdd(Job(job_id=job_id, task_type="t", params=params), **options)


def added(*job_ids: str) -> list[AddedJob]:
    return [AddedJob(job_id, "added") for job_id in job_ids]


def statuses(repository: Any, *job_ids: str) -> list[str]:
    return [repository.get_job(job_id).status for job_id in job_ids]


# Adding.


def test_many_jobs_are_added_in_their_order(backend: Backend) -> None:
    repository = backend.make()
    names = [f"j{number}" for number in range(120)]

    assert repository.add_jobs([wanted(name) for name in names]) == added(*names)

    claimed = repository.fetch_next_jobs(["t"], 200)
    assert [item.job.job_id for item in claimed] == names
    assert all(backend.told(name) == ["queued", "started"] for name in names)


def test_each_job_has_what_was_asked_for_it(backend: Backend) -> None:
    repository = backend.make()
    soon = backend.clock.ms + 60_000

    repository.add_jobs(
        [
            wanted("later", available_at=soon),
            wanted("plain", params={"a": "\0 \u2603"}),
            wanted("urgent", priority=9, max_retries=1, timeout_seconds=7.5, created_by="u"),
        ]
    )

    first, second = repository.fetch_next_jobs(["t"], 5)
    assert (first.job.job_id, first.max_retries, first.timeout_seconds) == ("urgent", 1, 7.5)
    assert (second.job.job_id, second.job.params) == ("plain", {"a": "\0 \u2603"})
    backend.clock.advance(60)
    assert repository.fetch_next_job(["t"]).job_id == "later"


def test_no_jobs_are_added_as_well(backend: Backend) -> None:
    assert backend.make().add_jobs([]) == []


def test_a_job_that_is_there_with_the_same_content_is_existing(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted("a", params={"n": 1})])

    answer = repository.add_jobs([wanted("b"), wanted("a", params={"n": 1}), wanted("b")])

    assert answer == [AddedJob("b", "added"), AddedJob("a", "existing"), AddedJob("b", "existing")]
    assert backend.told("a") == backend.told("b") == ["queued"]


def test_an_idempotency_key_stands_for_its_first_job(backend: Backend) -> None:
    repository = backend.make()
    assert repository.add_jobs(
        [wanted("a", idempotency_key="k"), wanted("b", idempotency_key="k")]
    ) == [AddedJob("a", "added"), AddedJob("a", "existing")]
    complete(repository, repository.fetch_next_jobs(["t"], 1)[0].claim, {})

    # It outlives the job's run.
    again = repository.add_jobs([wanted("c", idempotency_key="k"), wanted("d")])

    assert again == [AddedJob("a", "existing"), AddedJob("d", "added")]
    assert repository.get_job("c") is None
    assert repository.get_job("a").status == "completed"


def test_a_key_given_twice_stands_for_the_first_even_where_that_is_there(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted("a")])

    answer = repository.add_jobs(
        [wanted("a", idempotency_key="k"), wanted("b", idempotency_key="k")]
    )

    assert answer == [AddedJob("a", "existing"), AddedJob("a", "existing")]
    assert repository.get_job("b") is None


@pytest.mark.parametrize(("job_id", "key"), [("c", "k"), ("a", None)])
def test_other_content_under_an_id_or_a_key_adds_nothing_at_all(
    backend: Backend, job_id: str, key: Optional[str]
) -> None:
    repository = backend.make()
    repository.add_jobs([wanted("a", idempotency_key="k", params={"n": 1})])
    other = wanted(job_id, params={"n": 2}, idempotency_key=key)

    with pytest.raises(DuplicateJob, match="a"):
        repository.add_jobs([wanted("b"), other])

    assert repository.get_job("b") is repository.get_job("c") is None
    assert backend.told("b") == []
    assert repository.add_jobs([wanted("b")]) == added("b")


def test_one_bad_value_adds_nothing_at_all(backend: Backend) -> None:
    repository = backend.make()

    with pytest.raises(ValueError, match="priority 11"):
        repository.add_jobs([wanted("a"), wanted("b", priority=11)])

    assert repository.get_job("a") is None


# Completing and giving back.


def test_many_jobs_are_completed_at_once(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted(f"j{number}") for number in range(60)])
    claimed = repository.fetch_next_jobs(["t"], 60)

    refused = repository.complete_jobs(
        [Completion(item.claim, {"of": item.job.job_id}) for item in claimed]
    )

    assert refused == []
    for item in claimed:
        job = repository.get_job(item.job.job_id)
        assert (job.status, job.progress, job.task_output) == (
            "completed",
            100,
            {"of": job.job_id},
        )
        assert backend.told(job.job_id) == ["queued", "started", "completed"]
    assert repository.complete_jobs([]) == []


def test_completions_are_told_in_their_order(backend: Backend) -> None:
    repository = backend.make()
    names = [f"j{number}" for number in range(5)]
    repository.add_jobs([wanted(name) for name in names])
    claims = {item.job.job_id: item.claim for item in repository.fetch_next_jobs(["t"], 5)}

    order = ["j3", "j0", "j4", "j1", "j2"]
    assert repository.complete_jobs([Completion(claims[name], {}) for name in order]) == []
    events = [event for event in backend.broadcaster.events if event["event_type"] == "completed"]
    assert [event["job_id"] for event in events] == order
    assert sorted(events, key=lambda event: int(event["event_id"])) == events


def test_an_earlier_claim_of_the_same_job_is_refused_and_ends_nothing(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted("a"), wanted("b")])
    earlier = {item.job.job_id: item.claim for item in repository.fetch_next_jobs(["t"], 2)}
    repository.give_back_jobs(earlier.values())
    later = {item.job.job_id: item.claim for item in repository.fetch_next_jobs(["t"], 2)}

    both = [Completion(earlier["a"], {"by": "earlier"}), Completion(later["a"], {"by": "later"})]
    assert repository.complete_jobs(both) == [earlier["a"]]
    assert repository.get_job("a").task_output == {"by": "later"}

    assert repository.complete_jobs([Completion(earlier["b"], {})]) == [earlier["b"]]
    assert repository.give_back_jobs([earlier["b"]]) == [earlier["b"]]
    assert repository.update_job("b", progress=50)  # it is still this repository's


def test_refused_completions_are_named_one_by_one(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted(name) for name in "abcd"])
    a, b, c, d = (item.claim for item in repository.fetch_next_jobs(["t"], 4))
    repository.give_back_jobs([b])
    repository.delete_job("c")

    assert repository.complete_jobs([Completion(claim, {}) for claim in (d, c, b, a)]) == [c, b]

    assert statuses(repository, "a", "b", "d") == ["completed", "queued", "completed"]
    assert repository.complete_jobs([Completion(a, {})]) == [a]
    assert backend.told("a") == ["queued", "started", "completed"]


def test_an_output_that_is_not_json_completes_none(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted("a"), wanted("b")])
    a, b = repository.fetch_next_jobs(["t"], 2)

    with pytest.raises(ValueError, match="task_output"):
        repository.complete_jobs([Completion(a.claim, {}), Completion(b.claim, {"x": object()})])

    assert statuses(repository, "a", "b") == ["processing", "processing"]


def test_many_jobs_are_given_back_to_their_places(backend: Backend) -> None:
    repository = backend.make()
    repository.add_jobs([wanted(name) for name in "abc"])
    claims = [item.claim for item in repository.fetch_next_jobs(["t"], 3)]
    repository.delete_job("b")

    assert repository.give_back_jobs(claims) == [claims[1]]

    assert [item.job.job_id for item in repository.fetch_next_jobs(["t"], 3)] == ["a", "c"]


# Later.


def test_what_has_become_due_is_found_behind_any_number_of_other_types(backend: Backend) -> None:
    repository = backend.make()
    soon = backend.clock.ms + 1000
    others = [
        JobToAdd(Job(job_id=f"o{number}", task_type="other"), available_at=soon)
        for number in range(250)
    ]
    repository.add_jobs([*others, wanted("mine", available_at=soon)])
    backend.clock.advance(1)

    assert repository.fetch_next_job(["t"]).job_id == "mine"
    assert len(repository.fetch_next_jobs(["other"], 300)) == 250


def test_a_postponed_job_runs_later_and_costs_no_attempt(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository, max_retries=0)
    (claimed,) = repository.fetch_next_jobs(["t"], 1)
    repository.report_progress(claimed.claim, 40)

    repository.postpone_job(claimed.claim, 30)

    job = repository.get_job(job_id)
    assert (job.status, job.progress) == ("queued", 0)
    assert backend.told(job_id) == ["queued", "started", "progress", "queued"]
    backend.clock.advance(29)
    assert repository.fetch_next_job(["t"]) is None
    backend.clock.advance(1)
    (again,) = repository.fetch_next_jobs(["t"], 1)
    assert again.attempt == 1


# What a renewal tells.


def test_a_renewal_tells_the_claims_that_are_known(backend: Backend) -> None:
    repository = backend.make()
    repository.register_instance("w", {}, 1)
    repository.add_jobs([wanted(name) for name in "abc"])
    a, b, c = (item.claim for item in repository.fetch_next_jobs(["t"], 3))
    repository.complete_jobs([Completion(b, {})])

    known = repository.renew_lease(2)

    assert known is not None
    assert sorted(known, key=lambda claim: claim.job_id) == [a, c]


def test_nothing_is_asked_to_be_cancelled_by_itself(backend: Backend) -> None:
    repository = backend.make()
    assert repository.cancel_requests() == []
    backend.add(repository)
    repository.fetch_next_jobs(["t"], 1)
    assert repository.cancel_requests() == []


def test_a_claimed_job_ends_cancelled(backend: Backend) -> None:
    repository = backend.make()
    job_id = backend.add(repository)
    (claimed,) = repository.fetch_next_jobs(["t"], 1)

    repository.end_cancelled_job(claimed.claim)

    assert repository.get_job(job_id).status == "cancelled"
    assert backend.told(job_id) == ["queued", "started", "cancelled"]
    with pytest.raises(ClaimLost):
        repository.end_cancelled_job(claimed.claim)


def test_an_old_claim_is_not_among_those_known(backend: Backend) -> None:
    first, second = backend.make(), backend.make()
    backend.add(first)
    (claimed,) = first.fetch_next_jobs(["t"], 1)
    first.give_back_jobs([claimed.claim])
    (again,) = second.fetch_next_jobs(["t"], 1)

    assert isinstance(again.claim, Claim)
    assert first.renew_lease(0) == []
    assert second.renew_lease(1) == [again.claim]
