"""When PostgreSQL plans our statements anew."""

from __future__ import annotations

__all__ = ["PlanAge"]

# A claim or a completion takes a millisecond; one whose plan is of another time, ten and more.
SLOW_SECONDS = 0.005
APART_SECONDS = 1.0


class PlanAge:
    """Counts up whenever prepared plans may be out of date: a statement was slow.

    A statement that is prepared is planned once. A plan made while the queue was empty reads all
    of it once 100,000 jobs wait; planning each time costs as much as the statement. So the count
    becomes part of a statement's text: a slow one is prepared anew, at most once a second.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counted_at = float("-inf")

    def took(self, seconds: float, monotonic_seconds: float) -> None:
        """Take note of how long a statement took, and when that was."""
        if seconds > SLOW_SECONDS and monotonic_seconds - self._counted_at >= APART_SECONDS:
            self.count += 1
            self._counted_at = monotonic_seconds
