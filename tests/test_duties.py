"""Duties: one holder at a time, and another soon after that one died, whatever the clock does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from cl_server_shared.database import Database
from cl_server_shared.duties import ABANDONED_MS, Duties
from cl_server_shared.models import Base, Duty
from job_backends import Backend, Clock, engine_for

LEASE_SECONDS = 30.0
RENEWAL = LEASE_SECONDS / 3
NAME = "a duty"


@dataclass
class Office:
    """A database whose processes each have an engine of their own, as real ones do."""

    backend: Backend
    engines: list[Engine]

    @property
    def clock(self) -> Clock:
        return self.backend.clock

    def process(self) -> Duties:
        assert self.backend.engine is not None
        engine = engine_for(self.backend.engine.url.render_as_string(hide_password=False))
        self.engines.append(engine)
        database = Database(sessionmaker(bind=engine), self.clock)
        return Duties(database, LEASE_SECONDS, self.clock.monotonic)

    def expires_at(self) -> int:
        with Session(self.backend.engine) as session:
            duty = session.get(Duty, NAME)
            assert duty is not None
            return duty.expires_at


@pytest.fixture
def office(shared_sql: Backend) -> Iterator[Office]:
    office = Office(shared_sql, [])
    yield office
    for engine in office.engines:
        engine.dispose()


def test_one_holds_it_and_the_other_does_not(office: Office) -> None:
    first, second = office.process(), office.process()

    assert first.hold(NAME) and first.hold(NAME)
    assert not second.hold(NAME)
    assert second.hold("another duty")


def test_what_is_given_up_is_free_at_once(office: Office) -> None:
    first, second = office.process(), office.process()
    first.hold(NAME)
    second.give_up(NAME)
    assert not second.hold(NAME)

    first.give_up(NAME)

    assert second.hold(NAME)
    assert not first.hold(NAME)


def test_a_block_holds_it_briefly_also_when_it_raises(office: Office) -> None:
    first, second = office.process(), office.process()
    with pytest.raises(RuntimeError), first.briefly(NAME) as held:
        with second.briefly(NAME) as also:
            assert held and not also
        raise RuntimeError

    assert second.hold(NAME)


def test_it_is_renewed_in_time_and_costs_nothing_in_between(office: Office) -> None:
    first, second = office.process(), office.process()
    first.hold(NAME)
    expires_at = office.expires_at()
    office.clock.advance(RENEWAL - 1)
    assert first.hold(NAME)
    assert office.expires_at() == expires_at
    for _ in range(12):
        office.clock.advance(RENEWAL)
        assert first.hold(NAME)
        assert not second.hold(NAME)

    assert office.expires_at() > expires_at


def test_a_dead_holder_is_replaced_by_one_other(office: Office) -> None:
    dead, *others = (office.process() for _ in range(4))
    dead.hold(NAME)
    holders: list[int] = []
    for _ in range(5):
        office.clock.advance(RENEWAL)
        holders = [number for number, other in enumerate(others) if other.hold(NAME)]
        assert len(holders) <= 1

    assert len(holders) == 1
    assert not dead.hold(NAME)  # it was frozen only: it is told, and does nothing more


@pytest.mark.parametrize("step_seconds", [3600, -3600])
def test_a_clock_step_takes_nothing_from_a_live_holder(office: Office, step_seconds: int) -> None:
    if office.backend.rescues_at_first_sight:
        pytest.skip("the server's clock decides there")
    live, other = office.process(), office.process()
    live.hold(NAME)
    for step in (step_seconds, 0, 0, -step_seconds, 0, 0):
        other.hold(NAME)
        office.clock.ms += step * 1000
        assert not other.hold(NAME)
        office.clock.advance(RENEWAL - 1)
        assert not other.hold(NAME)
        office.clock.advance(1)
        assert live.hold(NAME)


@pytest.mark.parametrize("step_seconds", [3600, -3600])
def test_a_clock_step_keeps_nothing_for_a_dead_holder(office: Office, step_seconds: int) -> None:
    if office.backend.rescues_at_first_sight:
        pytest.skip("the server's clock decides there")
    dead, other = office.process(), office.process()
    dead.hold(NAME)
    office.clock.ms += step_seconds * 1000
    assert not other.hold(NAME)
    office.clock.advance(LEASE_SECONDS)

    assert other.hold(NAME)


def test_a_process_that_looks_once_takes_what_was_abandoned(office: Office) -> None:
    """As a cron job does, which sees nobody silent for long."""
    office.process().hold(NAME)
    office.clock.advance(LEASE_SECONDS + 3600)
    assert office.process().hold(NAME) is office.backend.rescues_at_first_sight
    office.clock.advance(ABANDONED_MS / 1000)

    assert office.process().hold(NAME)


def test_two_that_see_it_free_do_not_both_take_it(office: Office) -> None:
    first, second = office.process(), office.process()
    first.hold(NAME)
    first.give_up(NAME)
    look = second._is_free  # between the look and the taking

    def look_late(*seen: object) -> bool:
        found = look(*seen)  # type: ignore[arg-type]
        assert first.hold(NAME)
        return found

    second._is_free = look_late  # type: ignore[method-assign,assignment]
    assert not second.hold(NAME)
    assert first.hold(NAME)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_holds_nothing(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url)
    Base.metadata.create_all(engine)
    duties = Duties(Database(sessionmaker(bind=engine)), LEASE_SECONDS)
    assert duties.hold(NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for the threads
        child = os.fork()
    if child == 0:
        os._exit(0 if not duties.hold(NAME) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert duties.hold(NAME)
    engine.dispose()
