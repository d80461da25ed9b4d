"""Maintenance duties: which process holds which, won and renewed by conditional writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ..transaction import Transaction
from .statement import statement

__all__ = ["DutyRow", "add_duty", "give_up_duty", "renew_duty", "select_duty", "take_duty"]

_SELECT_DUTY = statement("""
    SELECT holder, expires_at, expires_at <= :now FROM duties WHERE name = :name
""")

_ADD_DUTY = statement("""
    INSERT INTO duties (name, holder, expires_at) VALUES (:name, :holder, :now + :lease_ms)
    ON CONFLICT (name) DO NOTHING
    RETURNING name
""")

# Guarded by what was seen: whoever took or renewed it in the meantime keeps it.
_TAKE_DUTY = statement("""
    UPDATE duties SET holder = :holder, expires_at = :now + :lease_ms
    WHERE name = :name AND holder = :seen_holder AND expires_at = :seen_expires_at
    RETURNING name
""")

_RENEW_DUTY = statement("""
    UPDATE duties SET expires_at = :now + :lease_ms WHERE name = :name AND holder = :holder
    RETURNING name
""")

_GIVE_UP_DUTY = statement("""
    UPDATE duties SET expires_at = 0 WHERE name = :name AND holder = :holder
""")


@dataclass(frozen=True)
class DutyRow:
    """What is seen of a duty.

    Attributes:
        holder: Who holds it, or did last.
        expires_at: Until when; 0: it was given up.
        is_over: Whether that is past by the clock that decides.
    """

    holder: int
    expires_at: int
    is_over: bool


def select_duty(transaction: Transaction, name: str) -> Optional[DutyRow]:
    """Return who holds a duty; `None` where nobody ever did."""
    row = transaction.run(_SELECT_DUTY, {"name": name}).fetchone()
    return None if row is None else DutyRow(row[0], row[1], bool(row[2]))


def add_duty(transaction: Transaction, name: str, holder: int, lease_ms: int) -> bool:
    """Take a duty that nobody ever held; False where another was quicker."""
    values = {"name": name, "holder": holder, "lease_ms": lease_ms}
    return transaction.run(_ADD_DUTY, values).fetchone() is not None


def take_duty(
    transaction: Transaction, name: str, holder: int, lease_ms: int, seen: DutyRow
) -> bool:
    """Take a duty from its last holder; False where it is not as it was seen any more."""
    values = {
        "name": name,
        "holder": holder,
        "lease_ms": lease_ms,
        "seen_holder": seen.holder,
        "seen_expires_at": seen.expires_at,
    }
    return transaction.run(_TAKE_DUTY, values).fetchone() is not None


def renew_duty(transaction: Transaction, name: str, holder: int, lease_ms: int) -> bool:
    """Hold a duty for longer; False where another has taken it."""
    values = {"name": name, "holder": holder, "lease_ms": lease_ms}
    return transaction.run(_RENEW_DUTY, values).fetchone() is not None


def give_up_duty(transaction: Transaction, name: str, holder: int) -> None:
    """Let go of a duty, so that it is free at once."""
    transaction.run(_GIVE_UP_DUTY, {"name": name, "holder": holder})
