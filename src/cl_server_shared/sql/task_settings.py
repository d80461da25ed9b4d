"""Pauses and limits per task type; the claim statements honour them."""

from __future__ import annotations

from typing import Any, Optional

from ..transaction import Transaction
from .statement import statement

__all__ = ["limit_task_type", "pause_task_type", "resume_task_type", "select_task_settings"]

# A task type that is paused already stays paused since then.
_PAUSE = statement("""
    INSERT INTO task_settings (task_type, paused_at, paused_by, pause_reason)
    VALUES (:task_type, :now, :paused_by, :pause_reason)
    ON CONFLICT (task_type) DO UPDATE
    SET paused_at = COALESCE(task_settings.paused_at, excluded.paused_at),
        paused_by = excluded.paused_by, pause_reason = excluded.pause_reason
""")

_RESUME = statement("""
    UPDATE task_settings SET paused_at = NULL, paused_by = NULL, pause_reason = NULL
    WHERE task_type = :task_type
""")

_LIMIT = statement("""
    INSERT INTO task_settings (task_type, max_running) VALUES (:task_type, :max_running)
    ON CONFLICT (task_type) DO UPDATE SET max_running = excluded.max_running
""")

_FORGET_EMPTY = statement("""
    DELETE FROM task_settings
    WHERE task_type = :task_type AND max_running IS NULL AND paused_at IS NULL
""")

_SELECT = statement("""
    SELECT task_type, max_running, paused_at, paused_by, pause_reason
    FROM task_settings ORDER BY task_type
""")


def pause_task_type(
    transaction: Transaction, task_type: str, reason: Optional[str], paused_by: Optional[str]
) -> None:
    """Have no more jobs of a task type claimed."""
    transaction.run(
        _PAUSE, {"task_type": task_type, "paused_by": paused_by, "pause_reason": reason}
    )


def resume_task_type(transaction: Transaction, task_type: str) -> None:
    """End a pause, where there is one."""
    transaction.run(_RESUME, {"task_type": task_type})
    transaction.run(_FORGET_EMPTY, {"task_type": task_type})


def limit_task_type(transaction: Transaction, task_type: str, max_running: Optional[int]) -> None:
    """Let so many jobs of a task type run at once; `None`: as many as workers take."""
    transaction.run(_LIMIT, {"task_type": task_type, "max_running": max_running})
    transaction.run(_FORGET_EMPTY, {"task_type": task_type})


def select_task_settings(transaction: Transaction) -> list[Any]:
    """Return the rows of all task types that are paused or limited, in the alphabet's order."""
    return list(transaction.run(_SELECT).fetchall())
