"""The task whose jobs run in the chaos: each a moment long, and some of them moody."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from cl_ml_tools import ComputeModule, FinalError, Later

TASK_TYPE = "chaos"


class Chaos(ComputeModule):
    """Waits for a few milliseconds, then completes, raises, asks to run later, or fails for good."""

    @property
    def supported_task_types(self) -> list[str]:
        """The one task."""
        return [TASK_TYPE]

    async def process(
        self, job_id: str, task_type: str, params: dict[str, Any], progress_callback: Any = None
    ) -> dict[str, Any]:
        """Run one attempt."""
        progress_callback(50)
        await asyncio.sleep(params["milliseconds"] / 1000)
        mood = params["mood"]
        if mood == "final":
            raise FinalError("as was asked for")
        if mood == "raises" and random.random() < 0.15:  # each chance more lasts twice as long
            raise RuntimeError("by chance")
        if mood == "later" and random.random() < 0.5:
            raise Later(0.2)
        return {"status": "ok", "task_output": {"by": job_id}}
