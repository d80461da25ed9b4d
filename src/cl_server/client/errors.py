"""What the client raises on purpose; each message is one line that a person can act on.

ClientError
├── Unreachable          no server answers at the address, or it went away
├── NotAServer           something answers there, but it is not CL Server
├── WrongName            an id or a task type that can be none, so nothing was asked
├── Refused              the server said no: its status, its words, each problem
│   ├── SignInNeeded     401: no token, or one that is no longer good
│   ├── NotAllowed       403: the account lacks a permission
│   ├── NotFound         404
│   ├── Conflict         409
│   ├── InvalidRequest   422: with a line for each problem
│   └── ServerFailed     5xx: the server's own fault
├── DamagedDownload      the bytes that came differ from what the server announced
└── FileInTheWay         a local file has that name and was not to be overwritten
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

__all__ = [
    "ClientError",
    "Conflict",
    "DamagedDownload",
    "FileInTheWay",
    "InvalidRequest",
    "NotAServer",
    "NotAllowed",
    "NotFound",
    "Refused",
    "ServerFailed",
    "SignInNeeded",
    "Unreachable",
    "WrongName",
    "refusal",
]


# How the server says that a file is what it refuses.
PAYLOAD_TOO_LARGE = 413
FILE_PLACE = ["body", "file"]


class ClientError(Exception):
    """The base of all errors of the client."""


class Unreachable(ClientError):
    """No server answers.

    Args:
        url: The address that was tried.
        reason: What happened instead; without one: the connection was refused.
    """

    def __init__(self, url: str, reason: str = "") -> None:
        what = f" ({reason})" if reason else ""
        super().__init__(f"no server answers at {url}{what}: start one with `cl-server up`")
        self.url = url


class NotAServer(ClientError):
    """Something answers at the address, but not as CL Server does.

    Args:
        url: What was asked.
        what: What is wrong with the answer.
        setting: The environment variable in which the address may be given.
    """

    def __init__(self, url: str, what: str, setting: str = "") -> None:
        where = f" ({setting})" if setting else ""
        super().__init__(
            f"what answers at {url} is not CL Server ({what}): check the address{where}"
        )
        self.url = url


class WrongName(ClientError):
    """An id, a task type or a path that cannot be part of an address."""

    def __init__(self, name: str, reason: str) -> None:
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        super().__init__(f"{shown!r} is not there: {reason}")
        self.name = name


class Refused(ClientError):
    """The server said no.

    Args:
        message: The line to show.
        status: The HTTP status.
        detail: The server's own sentence.
        problems: For a 422: mappings with `loc` (a list), `msg` and `type`.
    """

    def __init__(
        self, message: str, *, status: int, detail: str, problems: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.problems = [dict(problem) for problem in problems]

    @property
    def is_about_all(self) -> bool:
        """Whether the same request with other files would be refused too; not for a file's name or size."""
        if self.status == PAYLOAD_TOO_LARGE or self.status >= 500:
            return False
        places = [problem.get("loc") for problem in self.problems]
        return not places or any(place != FILE_PLACE for place in places)


class SignInNeeded(Refused):
    """401: there is no token, or it is no longer good."""


class NotAllowed(Refused):
    """403: the account lacks a permission."""


class NotFound(Refused):
    """404: there is no such thing."""


class Conflict(Refused):
    """409: the thing's state forbids it."""


class InvalidRequest(Refused):
    """422: values that the server refuses; `problem_lines` names each."""

    @property
    def problem_lines(self) -> list[str]:
        """One line per problem: where, and what is wrong."""
        return [_problem_line(problem) for problem in self.problems] or [self.detail]


class ServerFailed(Refused):
    """5xx: the server's own fault."""


class DamagedDownload(ClientError):
    """The bytes that came differ from what the server announced."""


class FileInTheWay(ClientError):
    """A local file has the name of a result and was not to be overwritten."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is there already: --force overwrites it")
        self.path = path


_BY_STATUS: dict[int, type[Refused]] = {
    401: SignInNeeded,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    422: InvalidRequest,
}


def refusal(
    url: str, status: int, problem: Mapping[str, Any], *, has_token: bool = True
) -> Refused:
    """Return the error for an answer of 400 or above.

    Args:
        url: What was asked.
        status: The HTTP status.
        problem: The answer's `application/problem+json` document.
        has_token: Whether a token went with the request.
    """
    detail = str(problem.get("detail") or problem.get("title") or f"HTTP status {status}")
    listed = problem.get("errors")
    problems = [item for item in listed if isinstance(item, Mapping)] if _is_list(listed) else []
    kind = _BY_STATUS.get(status, ServerFailed if status >= 500 else Refused)
    message = detail
    if kind is SignInNeeded:
        again = f"{detail.rstrip('.')}: sign in again with `cl-server login`"
        message = again if has_token else "you are not signed in: run `cl-server login`"
    elif kind is InvalidRequest and problems:
        message = "; ".join(_problem_line(item) for item in problems)
    elif kind is ServerFailed:
        request_id = problem.get("request_id")
        known_as = f", request {request_id}" if request_id else ""
        message = f"the server failed at {url}: {detail} (status {status}{known_as})"
    return kind(message, status=status, detail=detail, problems=problems)


def _problem_line(problem: Mapping[str, Any]) -> str:
    # FastAPI puts where the value was ("body", "query") before its name.
    location = problem.get("loc")
    parts = [str(part) for part in location] if _is_list(location) else []
    if len(parts) > 1 and parts[0] in ("body", "query", "path", "header", "params"):
        parts = parts[1:]
    what = str(problem.get("msg") or "not accepted")
    return f"{'.'.join(parts)}: {what}" if parts else what


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
