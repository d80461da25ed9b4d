"""Worker instances and their leases; what a dead one held is found by its missing row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from cl_ml_tools.protocols import Claim

from ..transaction import Transaction
from .statement import Statement, statement

__all__ = [
    "Lease",
    "cancel_requests",
    "forget_instance",
    "lock_claims",
    "lock_if_unrenewed",
    "orphaned_claims",
    "register_instance",
    "renew_lease",
    "select_leases",
]

_REGISTER_INSTANCE = statement("""
    INSERT INTO workers (instance_id, label, host, pid, capabilities, concurrency, running,
                         started_at, renewed_at, lease_expires_at)
    VALUES (:instance_id, :label, :host, :pid, :capabilities, :concurrency, 0,
            :now, :now, :now + :lease_ms)
""")

_RENEW_LEASE = statement("""
    UPDATE workers SET renewed_at = :now, lease_expires_at = :now + :lease_ms, running = :running
    WHERE instance_id = :instance_id
    RETURNING instance_id
""")

_FORGET_INSTANCE = statement("DELETE FROM workers WHERE instance_id = :instance_id")

_SELECT_LEASES = statement("""
    SELECT instance_id, renewed_at, lease_expires_at, lease_expires_at < :now FROM workers
""")

# Guarded by what was seen: an instance that renewed its lease in the meantime stays.
_UNRENEWED = "SELECT 1 FROM workers WHERE instance_id = :instance_id AND renewed_at = :renewed_at"
_LOCK_UNRENEWED = statement(_UNRENEWED, postgresql=f"{_UNRENEWED} FOR UPDATE")

# In the order of the index on `claimed_by`: by `id` alone, SQLite reads all that waits as well.
_HELD_BY_NOBODY = """
    SELECT entry.job_id, entry.id, entry.claimed_by, entry.claim_seq FROM queue_entries AS entry
    WHERE entry.claimed_by IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.instance_id = entry.claimed_by)
    ORDER BY entry.claimed_by, entry.id LIMIT :limit
"""

_ORPHANED_ENTRIES = statement(
    _HELD_BY_NOBODY, postgresql=f"{_HELD_BY_NOBODY} FOR UPDATE OF entry SKIP LOCKED"
)

_ITS_ENTRIES = """
    SELECT job_id, id, claim_seq FROM queue_entries WHERE claimed_by = :instance_id ORDER BY id
"""

_ENTRIES_OF_INSTANCE = statement(_ITS_ENTRIES)
_LOCK_ENTRIES_OF_INSTANCE = statement(_ITS_ENTRIES, postgresql=f"{_ITS_ENTRIES} FOR UPDATE")

_CANCEL_REQUESTS = statement("""
    SELECT job_id, id, claim_seq FROM queue_entries
    WHERE claimed_by = :instance_id AND cancel_requested = 1 ORDER BY id
""")


@dataclass(frozen=True)
class Lease:
    """What a rescuer sees of an instance.

    Attributes:
        instance_id: Whose it is.
        renewed_at: When it was last renewed.
        expires_at: When it runs out.
        is_over: Whether that is past by the clock that decides.
    """

    instance_id: int
    renewed_at: int
    expires_at: int
    is_over: bool


def register_instance(
    transaction: Transaction,
    instance_id: int,
    *,
    label: str,
    host: str,
    pid: int,
    capabilities: Mapping[str, dict[str, Any]],
    concurrency: int,
    lease_ms: int,
) -> None:
    """Write the row of a new instance, with a fresh lease."""
    transaction.run(
        _REGISTER_INSTANCE,
        {
            "instance_id": instance_id,
            "label": label,
            "host": host,
            "pid": pid,
            "capabilities": json.dumps(dict(capabilities)),
            "concurrency": concurrency,
            "lease_ms": lease_ms,
        },
    )


def renew_lease(
    transaction: Transaction, instance_id: int, lease_ms: int, running: int
) -> Optional[list[Claim]]:
    """Renew a lease and return the instance's claims; `None` where it is not known any more."""
    values = {"instance_id": instance_id, "lease_ms": lease_ms, "running": running}
    if transaction.run(_RENEW_LEASE, values).fetchone() is None:
        return None
    return _claims(transaction, _ENTRIES_OF_INSTANCE, instance_id)


def forget_instance(transaction: Transaction, instance_id: int) -> None:
    """Delete the row of an instance that ends."""
    transaction.run(_FORGET_INSTANCE, {"instance_id": instance_id})


def lock_if_unrenewed(transaction: Transaction, lease: Lease) -> bool:
    """Lock the row of an instance whose lease is still as it was seen; return whether it is."""
    return transaction.run(_LOCK_UNRENEWED, dict(vars(lease))).fetchone() is not None


def select_leases(transaction: Transaction) -> list[Lease]:
    """Return the lease of every instance."""
    return [
        Lease(row[0], row[1], row[2], bool(row[3]))
        for row in transaction.run(_SELECT_LEASES).fetchall()
    ]


def orphaned_claims(transaction: Transaction, limit: int) -> list[Claim]:
    """Return, locked, claims whose instance is not known any more; a bounded number."""
    rows = transaction.run(_ORPHANED_ENTRIES, {"limit": limit}).fetchall()
    # In the order in which the jobs were added, as everything is told.
    return sorted((Claim(job_id, *row) for job_id, *row in rows), key=lambda claim: claim.entry_id)


def lock_claims(transaction: Transaction, instance_id: int) -> list[Claim]:
    """Return, locked, the claims of one instance."""
    return _claims(transaction, _LOCK_ENTRIES_OF_INSTANCE, instance_id)


def cancel_requests(transaction: Transaction, instance_id: int) -> list[Claim]:
    """Return the claims of one instance whose jobs somebody wants cancelled."""
    return _claims(transaction, _CANCEL_REQUESTS, instance_id)


def _claims(transaction: Transaction, select: Statement, instance_id: int) -> list[Claim]:
    rows = transaction.run(select, {"instance_id": instance_id}).fetchall()
    return [Claim(row[0], row[1], instance_id, row[2]) for row in rows]
