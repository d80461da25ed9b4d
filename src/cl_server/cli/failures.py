"""Known errors as one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass

__all__ = ["FAILED", "REFUSED", "CommandRefused", "Failure", "explain_failure", "find_lost_output"]

FAILED = 1
REFUSED = 2  # usage, or a precondition: a port in use, a setting that is wrong


class CommandRefused(Exception):
    """A command cannot start as it was typed; the message says what to type instead."""


@dataclass(frozen=True)
class Failure:
    """What a known error is to a person: one line (or none), and the exit code it leads to."""

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
    ("cl_server.store.storage_folders", "UnusableStorageFolder", REFUSED),
    ("cl_server.migrations.errors", "MigrationError", REFUSED),
    ("cl_server_shared.errors", "InvalidSetting", REFUSED),
    ("cl_server_shared.errors", "SharedError", FAILED),
    ("cl_ml_tools.errors", "ToolError", FAILED),
)

_NO_ROOM = "what was to be written cannot be: {}"
_NO_ROOM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain_failure(error: BaseException) -> Failure | None:
    """Return what to say about an error; `None` where only a traceback helps."""
    for module, name, exit_code in _KNOWN:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return Failure(" ".join(str(error).split()), exit_code)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return Failure(f"{error.filename}: {error.strerror}", FAILED)
    if isinstance(error, OSError) and error.errno in _NO_ROOM_ERRORS:  # it names no file
        return Failure(_NO_ROOM.format(error.strerror), FAILED)
    return None


def find_lost_output() -> Failure | None:
    """Write what was printed, and return what to say where that is impossible; `None` where it is not.

    What cannot be written is dropped. A reader that went away, such as `head`, has read enough.
    """
    if sys.stdout is None:  # closed when the command began
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        gone = isinstance(error, BrokenPipeError)
        return Failure("" if gone else _NO_ROOM.format(error.strerror), FAILED)
    return None
