"""The toolkit for people who write compute modules. It knows no database and no HTTP."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .broadcast import (
        MQTTBroadcaster,
        NoOpBroadcaster,
        get_broadcaster,
        shutdown_broadcaster,
    )
    from .compute import BaseJobParams, ComputeModule
    from .errors import FinalError, Later
    from .jobs import Job
    from .protocols import FileStorage, JobRepository

__version__ = "0.1.0"

# An older package and an unrelated one share this import name; `cl_server_shared` looks for
# this marker, so that one in the way is named instead of failing somewhere later.
DISTRIBUTION = "cl-server-shared"

__all__ = [
    "BaseJobParams",
    "ComputeModule",
    "FileStorage",
    "FinalError",
    "Job",
    "JobRepository",
    "Later",
    "MQTTBroadcaster",
    "NoOpBroadcaster",
    "get_broadcaster",
    "shutdown_broadcaster",
]

# Where each name is. They are imported at their first use (PEP 562), so that a command line that
# only prints its help does not wait for pydantic.
_HOMES = {
    "BaseJobParams": "compute",
    "ComputeModule": "compute",
    "FileStorage": "protocols",
    "FinalError": "errors",
    "Job": "jobs",
    "JobRepository": "protocols",
    "Later": "errors",
    "MQTTBroadcaster": "broadcast",
    "NoOpBroadcaster": "broadcast",
    "get_broadcaster": "broadcast",
    "shutdown_broadcaster": "broadcast",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
