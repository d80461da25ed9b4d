"""Taking back what dead instances held: each attempt failed, and cost one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cl_ml_tools.protocols import Claim

from ..transaction import Transaction
from . import leases, outcomes

__all__ = ["take_back_claims"]

# How many claims of one instance, and of those that are gone already, a transaction takes back.
_AT_ONCE = 100


def take_back_claims(transaction: Transaction, over: Iterable[leases.Lease]) -> int:
    """Forget instances and fail what they ran; return how many attempts that were.

    Args:
        transaction: Where.
        over: The leases that ran out; one that was renewed since is left alone.
    """
    taken = 0
    for lease in over:
        if leases.lock_if_unrenewed(transaction, lease):
            # First: the row has the worker's name, which the attempts keep.
            held = leases.lock_claims(transaction, lease.instance_id)
            taken += _fail(transaction, held[:_AT_ONCE])
            leases.forget_instance(transaction, lease.instance_id)
    return taken + _fail(transaction, leases.orphaned_claims(transaction, _AT_ONCE))


def _fail(transaction: Transaction, claims: Sequence[Claim]) -> int:
    for claim in claims:
        error = "the worker that ran it went silent"
        outcomes.fail(transaction, claim, error, retryable=True, outcome="lost")
        transaction.makes_claimable = True  # it, or what waited for it to end
    return len(claims)
