"""Where claims begin to look when dead entries cannot be cleaned away."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from cl_ml_tools import Job
from cl_server_shared import SQLAlchemyJobRepository, rank_floor
from cl_server_shared.models import Base
from cl_server_shared.rank_floor import FULL_LOOK_SECONDS, LOOKS_APART, SLOW_SECONDS, RankFloor
from cl_server_shared.sql.claims import NO_FLOOR
from job_backends import engine_for, wait_until

SLOW, QUICK = SLOW_SECONDS * 4, SLOW_SECONDS / 4


def look(floor: RankFloor, lowest: Optional[int], began: float, took: float, *types: str) -> int:
    begin = floor.at(types or ("t",), began)
    floor.looked(types or ("t",), begin, lowest, began=began, ended=began + took)
    return begin


def test_there_is_none_while_looks_are_quick() -> None:
    floor = RankFloor(lambda: True)
    assert [look(floor, n, n, QUICK) for n in range(3)] == [NO_FLOOR] * 3


def test_after_a_slow_look_the_next_ones_begin_where_it_found_something() -> None:
    floor = RankFloor(lambda: True)
    look(floor, 100, 0.0, SLOW)

    assert look(floor, 105, 0.1, QUICK) == 100
    assert look(floor, 103, 0.2, QUICK) == 105  # another process was quicker
    assert look(floor, 110, 0.3, QUICK) == 105
    assert look(floor, 120, 0.3 + FULL_LOOK_SECONDS, QUICK) == NO_FLOOR
    assert look(floor, 130, 0.4 + FULL_LOOK_SECONDS, QUICK) == NO_FLOOR  # vacuum has cleaned


def test_full_looks_take_a_small_part_of_all() -> None:
    floor = RankFloor(lambda: True)
    look(floor, 100, 0.0, 0.5)

    assert look(floor, 101, 0.4 + 0.5 * LOOKS_APART, QUICK) == 100
    assert look(floor, 101, 0.6 + 0.5 * LOOKS_APART, QUICK) == NO_FLOOR


def test_nothing_found_and_other_types_begin_at_the_bottom() -> None:
    floor = RankFloor(lambda: True)
    look(floor, 100, 0.0, SLOW)
    assert look(floor, 7, 0.1, QUICK, "u") == NO_FLOOR

    look(floor, 100, 0.2, SLOW)
    look(floor, None, 0.3, QUICK)
    assert look(floor, 100, 0.4, QUICK) == NO_FLOOR


def test_a_slow_look_alone_makes_none() -> None:
    floor = RankFloor(lambda: False)
    assert [look(floor, n, n / 10, SLOW) for n in range(3)] == [NO_FLOOR] * 3


@pytest.fixture
def repository(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A repository to which every look is slow."""
    monkeypatch.setattr(rank_floor, "SLOW_SECONDS", 0.0)
    engine = engine_for(postgresql_url)
    Base.metadata.create_all(engine)
    yield SQLAlchemyJobRepository(sessionmaker(bind=engine))
    engine.dispose()


def add(repository: SQLAlchemyJobRepository, *job_ids: str, priority: int) -> None:
    for job_id in job_ids:
        repository.add_job(Job(job_id=job_id, task_type="t"), priority=priority)


def claim_one(repository: SQLAlchemyJobRepository) -> str:
    job = repository.fetch_next_job(["t"])
    assert job is not None
    return job.job_id


def test_a_busy_machine_hides_no_urgent_job(repository: SQLAlchemyJobRepository) -> None:
    add(repository, "a", "b", priority=1)
    assert claim_one(repository) == "a"
    add(repository, "urgent", priority=9)

    assert claim_one(repository) == "urgent"


def test_beside_a_transaction_held_open_an_urgent_job_is_seen_a_second_later(
    repository: SQLAlchemyJobRepository, postgresql_url: str
) -> None:
    many = "BEGIN FOR i IN 1..1100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END"
    engine = engine_for(postgresql_url)
    with engine.connect() as held, engine.connect() as others:
        held.execute(text("SELECT pg_current_xact_id()"))
        others.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"DO $$ {many} $$"))
        add(repository, *map(str, range(500)), priority=1)
        assert claim_one(repository) == "0"
        add(repository, "urgent", priority=9)
        assert claim_one(repository) == "1"
        wait_until(lambda: claim_one(repository) == "urgent", "it is seen")
    engine.dispose()
