"""What one pass of a duty did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Pass"]


@dataclass(frozen=True)
class Pass:
    """What one pass of a duty did.

    Attributes:
        counts: How many of what: `{"events_relayed": 3}`.
        more: Whether it stopped before the end, so that the next one should come soon.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    more: bool = False
