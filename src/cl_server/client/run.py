"""One job of a batch, as the batch sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cl_server.client.models import Job

__all__ = ["Run", "State"]

State = Literal["waiting", "sending", "queued", "processing", "fetching", "completed", "failed"]


@dataclass(eq=False)
class Run:
    """One job of a batch, from its files to its results.

    Attributes:
        inputs: Its files.
        planned: Where results go whose names are known beforehand, by the job's name for them.
        state: How far it is.
        progress: 0 to 100, while it is processed.
        job: What the server last said.
        error: Why it failed.
        results: The files that it became.
    """

    inputs: Sequence[Path]
    planned: dict[str, Path] = field(default_factory=dict)
    state: State = "waiting"
    progress: float = 0.0
    job: Job | None = None
    error: str | None = None
    results: list[Path] = field(default_factory=list)
    heard_at: float = 0.0
    is_asked_for: bool = False
    fetches: int = 0

    @property
    def name(self) -> str:
        """What to call it: its files."""
        more = len(self.inputs) - 1
        return str(self.inputs[0]) + (f" and {more} more" if more else "")

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("completed", "failed")
