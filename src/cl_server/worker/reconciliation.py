"""What the worker runs beside what the database knows: each renewal of the lease compares the two.

| runs here | the database | then |
| --- | --- | --- |
| yes | does not know the claim | it was taken away: the child is killed |
| no | knows the claim | its answer was lost: the job is given back, once two renewals saw it so |
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, field

from cl_ml_tools.protocols import Claim

__all__ = ["Comparison", "compare_claims"]


@dataclass(frozen=True)
class Comparison:
    """What one renewal has shown.

    Attributes:
        taken_away: Run here, and not known to the database.
        not_run: Known to the database, and not run here; the answer may still be on its way.
        never_came: Those of them that were not run at the renewal before either.
    """

    taken_away: Set[Claim] = field(default_factory=frozenset)
    not_run: Set[Claim] = field(default_factory=frozenset)
    never_came: Set[Claim] = field(default_factory=frozenset)


def compare_claims(
    known: Collection[Claim], *, ran: Set[Claim], run: Set[Claim], before: Comparison
) -> Comparison:
    """Compare what the database knows with what the worker runs.

    Args:
        known: The claims that the renewal returned.
        ran: Those that ran when the renewal began: what was claimed since, it could not know.
        run: Those that run now that it has returned.
        before: What the renewal before has shown.
    """
    theirs = frozenset(known)
    not_run = theirs - ran - run
    return Comparison(
        taken_away=(ran & run) - theirs,
        not_run=not_run,
        never_came=not_run & before.not_run,
    )
