"""`job_attempts`: what an attempt that did not simply succeed leaves behind."""

from __future__ import annotations

from typing import Optional

from cl_ml_tools.protocols import AttemptLog, Claim

from ..transaction import Transaction
from .jobs import storable
from .statement import statement

__all__ = ["record_attempt"]

_INSERT_ATTEMPT = statement("""
    INSERT INTO job_attempts
        (entry_id, attempt, worker, started_at, ended_at, outcome, error, traceback, output)
    VALUES (:id, :attempt, (SELECT label FROM workers WHERE instance_id = :instance_id),
            :started_at, :now, :outcome, :error, :traceback, :output)
""")

# The end of what an attempt printed says why it ended.
MAX_OUTPUT_CHARACTERS = 64 * 1024


def record_attempt(
    transaction: Transaction,
    claim: Claim,
    *,
    attempt: int,
    outcome: str,
    error: Optional[str] = None,
    log: Optional[AttemptLog] = None,
) -> None:
    """Write how an attempt ended.

    Args:
        transaction: The one that ends it.
        claim: The hold under which it ran.
        attempt: Its number.
        outcome: One of those that the table knows.
        error: Why it did not complete.
        log: What it leaves behind.
    """
    log = log or AttemptLog()
    transaction.run(
        _INSERT_ATTEMPT,
        {
            "id": claim.entry_id,
            "attempt": attempt,
            "instance_id": claim.instance_id,
            "started_at": log.started_at,
            "outcome": outcome,
            "error": storable(error),
            "traceback": storable(_end_of(log.traceback)),
            "output": storable(_end_of(log.output)),
        },
    )


def _end_of(text: Optional[str]) -> Optional[str]:
    """Return the end of what an attempt left behind: it says why it ended."""
    return text[-MAX_OUTPUT_CHARACTERS:] if text else None
