"""What an administrator does with everybody's jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from store_harness import RunningStore, assert_problem, running_store, wait_until

CLEANUP = "/compute/admin/jobs/cleanup"
SIZE = "/compute/admin/jobs/storage/size"
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path) as store:
        yield store


def end_first_job(store: RunningStore, *, days_ago: int) -> str:
    claimed = store.worker.claim()
    store.worker.write_output(claimed, "a.jpg", b"12345")
    store.worker.complete(claimed)
    with store.worker.engine.begin() as connection:
        shift = "created_at = created_at - :ms, completed_at = completed_at - :ms"
        connection.execute(
            text(f"UPDATE jobs SET {shift} WHERE job_id = :job_id"),
            {"ms": days_ago * DAY_MS, "job_id": claimed.job.job_id},
        )
    return claimed.job.job_id


def test_old_jobs_are_deleted_with_their_files(store: RunningStore) -> None:
    for _ in range(3):
        store.add_job()
    old, young = end_first_job(store, days_ago=8), end_first_job(store, days_ago=6)
    size = store.client.get(SIZE, headers=store.admin).json()
    assert size["job_count"] == 3

    answer = store.client.delete(CLEANUP, headers=store.admin)

    assert answer.status_code == 200
    left = store.client.get(SIZE, headers=store.admin).json()
    freed = size["total_size"] - left["total_size"]
    assert answer.json() == {"deleted_count": 1, "freed_space": freed}
    assert freed > 5 and left["job_count"] == 2
    assert store.client.get(f"/compute/jobs/{old}", headers=store.admin).status_code == 404
    assert store.client.get(f"/compute/jobs/{young}", headers=store.admin).status_code == 200


def test_no_days_delete_all_that_have_ended_and_nothing_else(store: RunningStore) -> None:
    store.add_job()
    end_first_job(store, days_ago=0)
    running = store.add_job()["job_id"]
    store.worker.claim()
    waiting = store.add_job()["job_id"]

    answer = store.client.delete(f"{CLEANUP}?days=0", headers=store.admin)

    assert answer.json()["deleted_count"] == 1
    assert store.job_folders() == sorted([running, waiting])


@pytest.mark.parametrize("days", ["-1", "x", "99999999999"])
def test_a_number_of_days_that_is_none_is_named(store: RunningStore, days: str) -> None:
    assert_problem(store.client.delete(f"{CLEANUP}?days={days}", headers=store.admin), 422)


def test_a_folder_that_is_not_there_is_said_and_nothing_is_deleted(store: RunningStore) -> None:
    store.add_job()
    end_first_job(store, days_ago=9)
    (store.settings.compute_dir / ".cl-server-storage").rename(
        store.settings.compute_dir / "elsewhere"
    )

    assert_problem(store.client.delete(CLEANUP, headers=store.admin), 503)
    assert_problem(store.client.get(SIZE, headers=store.admin), 503)
    assert len(store.job_folders()) == 1


def test_the_store_deletes_what_its_settings_say(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        store.add_job()
        end_first_job(store, days_ago=3)
    with running_store(tmp_path, job_retention_days=2) as store:
        wait_until(lambda: store.job_folders() == [])
