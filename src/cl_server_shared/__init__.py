"""What the services of CL Server share: configuration, the job repository, files, models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import cl_ml_tools

if TYPE_CHECKING:
    from .compute import run_compute_job
    from .config import Config
    from .file_storage import FileStorageService
    from .models import Job, QueueEntry
    from .shared_db import SQLAlchemyJobRepository

__version__ = "0.1.0"

__all__ = [
    "Config",
    "FileStorageService",
    "Job",
    "QueueEntry",
    "SQLAlchemyJobRepository",
    "run_compute_job",
]

if getattr(cl_ml_tools, "DISTRIBUTION", None) != "cl-server-shared":
    raise ImportError(
        f"another package named cl_ml_tools is in the way, at {cl_ml_tools.__file__}: remove it "
        "(pip uninstall cl-ml-tools cl_ml_tools), then pip install --force-reinstall cl-server-shared"
    )

# Where each name is. They are imported at their first use (PEP 562): whoever needs only `Config`
# does not wait for SQLAlchemy.
_HOMES = {
    "Config": "config",
    "FileStorageService": "file_storage",
    "Job": "models",
    "QueueEntry": "models",
    "SQLAlchemyJobRepository": "shared_db",
    "run_compute_job": "compute",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
