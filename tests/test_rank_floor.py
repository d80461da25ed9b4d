"""Where claims begin to look when dead entries cannot be cleaned away."""

from __future__ import annotations

from typing import Optional

from cl_server_shared.rank_floor import FULL_LOOK_SECONDS, LOOKS_APART, SLOW_SECONDS, RankFloor
from cl_server_shared.sql.claims import NO_FLOOR

SLOW, QUICK = SLOW_SECONDS * 4, SLOW_SECONDS / 4


def look(floor: RankFloor, lowest: Optional[int], began: float, took: float, *types: str) -> int:
    begin = floor.at(types or ("t",), began)
    floor.looked(types or ("t",), begin, lowest, began=began, ended=began + took)
    return begin


def test_there_is_none_while_looks_are_quick() -> None:
    floor = RankFloor()
    assert [look(floor, n, n, QUICK) for n in range(3)] == [NO_FLOOR] * 3


def test_after_a_slow_look_the_next_ones_begin_where_it_found_something() -> None:
    floor = RankFloor()
    look(floor, 100, 0.0, SLOW)

    assert look(floor, 105, 0.1, QUICK) == 100
    assert look(floor, 103, 0.2, QUICK) == 105  # another process was quicker
    assert look(floor, 110, 0.3, QUICK) == 105
    assert look(floor, 120, 0.3 + FULL_LOOK_SECONDS, QUICK) == NO_FLOOR
    assert look(floor, 130, 0.4 + FULL_LOOK_SECONDS, QUICK) == NO_FLOOR  # vacuum has cleaned


def test_full_looks_take_a_small_part_of_all() -> None:
    floor = RankFloor()
    look(floor, 100, 0.0, 0.5)

    assert look(floor, 101, 0.4 + 0.5 * LOOKS_APART, QUICK) == 100
    assert look(floor, 101, 0.6 + 0.5 * LOOKS_APART, QUICK) == NO_FLOOR


def test_nothing_found_and_other_types_begin_at_the_bottom() -> None:
    floor = RankFloor()
    look(floor, 100, 0.0, SLOW)
    assert look(floor, 7, 0.1, QUICK, "u") == NO_FLOOR

    look(floor, 100, 0.2, SLOW)
    look(floor, None, 0.3, QUICK)
    assert look(floor, 100, 0.4, QUICK) == NO_FLOOR
