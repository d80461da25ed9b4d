"""Known errors as one line and an exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["FAILED", "REFUSED", "CommandRefused", "Failure", "explain_failure"]

FAILED = 1
REFUSED = 2  # usage, or a precondition: a port in use, a setting that is wrong


class CommandRefused(Exception):
    """A command cannot start as it was typed; the message says what to type instead."""


@dataclass(frozen=True)
class Failure:
    """What a known error is to a person: one line, and the exit code it leads to."""

    line: str
    exit_code: int


# Where each error lives and what it leads to, the special before the general. Only modules that
# are loaded are looked at: an error of one that is not loaded cannot have been raised.
_KNOWN = (
    (__name__, "CommandRefused", REFUSED),
    ("cl_server.client.errors", "ClientError", FAILED),
    ("cl_server.auth.errors", "UnknownUser", REFUSED),
    ("cl_server.auth.errors", "AuthError", REFUSED),
    ("cl_server.http.serving", "PortInUse", REFUSED),
    ("cl_server.store.storage_folders", "WrongStorageFolder", REFUSED),
    ("cl_server.migrations.errors", "MigrationError", REFUSED),
    ("cl_server_shared.errors", "InvalidSetting", REFUSED),
    ("cl_server_shared.errors", "SharedError", FAILED),
    ("cl_ml_tools.errors", "ToolError", FAILED),
)


def explain_failure(error: BaseException) -> Failure | None:
    """Return what to say about an error; `None` where only a traceback helps."""
    for module, name, exit_code in _KNOWN:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return Failure(" ".join(str(error).split()), exit_code)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return Failure(f"{error.filename}: {error.strerror}", FAILED)
    return None
