"""What `celery -A` loads in the worker's own process."""

from __future__ import annotations

import os
import time
from typing import Any

from celery.signals import task_prerun

from .celery import ADDRESS_VARIABLE, BEGAN_VARIABLE, make_app

app = make_app(os.environ[ADDRESS_VARIABLE])

if BEGAN_VARIABLE in os.environ:
    _descriptor = os.open(os.environ[BEGAN_VARIABLE], os.O_WRONLY | os.O_APPEND)

    @task_prerun.connect
    def note_time(**_about: Any) -> None:
        """Write that a job begins now."""
        os.write(_descriptor, f"{time.time_ns()}\n".encode())
