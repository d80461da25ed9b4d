"""Where PostgreSQL begins to look for the next job while old transactions hold vacuum back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from .sql.claims import NO_FLOOR

__all__ = ["RankFloor"]

# A look from the bottom takes less than a millisecond where what is dead was cleaned away. On a
# busy machine others are slow as well: then nothing holds vacuum back.
SLOW_SECONDS = 0.005

# For how long more urgent jobs may stay unseen; and so many times the last full look's time, that
# full looks take a small part of all.
FULL_LOOK_SECONDS = 1.0
LOOKS_APART = 20


class RankFloor:
    """The rank below which claims do not look, for a moment.

    A job that was claimed leaves a dead entry in the index of what waits, at its very head. While
    a transaction that is held open keeps vacuum from cleaning, each claim steps over all of them:
    after ten minutes of full load it takes a hundred milliseconds. So once a look from the bottom
    was slow, the next ones begin where it found something, and it is renewed now and then: a more
    urgent job that is added meanwhile is seen a second later. Otherwise there is no floor.

    Args:
        vacuum_is_held_back: Asked after a slow look.
    """

    def __init__(self, vacuum_is_held_back: Callable[[], bool]) -> None:
        self._vacuum_is_held_back = vacuum_is_held_back
        self._task_types: Sequence[str] = ()
        self._floor = NO_FLOOR
        self._renew_at = float("-inf")

    def at(self, task_types: Sequence[str], monotonic_seconds: float) -> int:
        """Return the rank to begin at."""
        if monotonic_seconds >= self._renew_at or task_types != self._task_types:
            return NO_FLOOR
        return self._floor

    def looked(
        self,
        task_types: Sequence[str],
        floor: int,
        lowest: Optional[int],
        *,
        began: float,
        ended: float,
    ) -> None:
        """Take note of a look.

        Args:
            task_types: What was looked for.
            floor: Where it began.
            lowest: The lowest rank that it found; `None`: nothing.
            began: When, in seconds that never step.
            ended: When it was over.
        """
        if lowest is None:
            self._renew_at = float("-inf")
        elif floor == NO_FLOOR:
            took = ended - began
            slow = took > SLOW_SECONDS and self._vacuum_is_held_back()
            pause = max(FULL_LOOK_SECONDS, LOOKS_APART * took)
            self._task_types, self._floor = task_types, lowest
            self._renew_at = ended + pause if slow else float("-inf")
        else:
            self._floor = max(self._floor, lowest)
