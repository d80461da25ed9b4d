"""Errors of the HTTP surface: the status belongs to the error, and one place writes the answer.

    Problem
    ├── BadRequest            400
    ├── Unauthorized          401   says `WWW-Authenticate: Bearer`
    ├── Forbidden             403
    ├── NotFound              404
    ├── Conflict              409
    ├── PayloadTooLarge       413
    ├── UnsupportedMediaType  415
    ├── Unprocessable         422   lists each wrong value: `errors: [{loc, msg, type}]`
    ├── TooManyRequests       429   says `Retry-After`
    └── Unavailable           503

How they are answered: `cl_server.http.error_pages`. This file needs no web framework, since what is
done on the server's own machine raises some of these too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "BadRequest",
    "Conflict",
    "Forbidden",
    "NotFound",
    "PayloadTooLarge",
    "Problem",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unprocessable",
    "UnsupportedMediaType",
    "as_listed",
    "listed_problems",
    "status_title",
]

# `errors` lists all; this many are told in the sentence.
MAX_SUMMARISED = 5


class Problem(Exception):
    """An error that a client gets to read.

    Args:
        detail: What was wrong, with which value, what to do.
        status: The HTTP status; each subclass has its own.
        headers: Further headers of the answer.
        extra: Further keys of its body.
    """

    status = 500

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status if status is not None else type(self).status
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    @property
    def title(self) -> str:
        """The status in words."""
        return status_title(self.status)


class BadRequest(Problem):
    """The request makes no sense as a whole."""

    status = 400


class Unauthorized(Problem):
    """Nobody is signed in, or what says so does not hold."""

    status = 401

    def __init__(self, detail: str, *, challenge: str = "Bearer") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(Problem):
    """Who is signed in may not do this."""

    status = 403


class NotFound(Problem):
    """There is no such thing."""

    status = 404


class Conflict(Problem):
    """The state of things does not allow it."""

    status = 409


class PayloadTooLarge(Problem):
    """The body is larger than what is accepted."""

    status = 413


class UnsupportedMediaType(Problem):
    """The body is of a kind that is not read here."""

    status = 415


class Unprocessable(Problem):
    """Values of the request are wrong.

    Args:
        errors: One mapping per wrong value: `loc` (where it is), `msg`, `type`.
        detail: The whole in one sentence; by default it is made from `errors`.
    """

    status = 422

    def __init__(self, errors: Sequence[Mapping[str, Any]], detail: str | None = None) -> None:
        self.errors = [dict(error) for error in errors]
        super().__init__(detail or _summary(self.errors), extra={"errors": self.errors})


class TooManyRequests(Problem):
    """A limit is reached; trying again later helps."""

    status = 429

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})


class Unavailable(Problem):
    """Something that the service needs is away; trying again later may help."""

    status = 503

    def __init__(
        self,
        detail: str,
        *,
        retry_after_seconds: int = 1,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)}, extra=extra)


def status_title(status: int) -> str:
    """Return an HTTP status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def listed_problems(error: ValidationError, *, within: Sequence[str]) -> list[dict[str, Any]]:
    """Return pydantic's findings as `[{loc, msg, type}]`, without the values (one may be a password).

    Args:
        error: What pydantic raised.
        within: Where the checked object is: `("body",)`, say.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return as_listed(found, within=within)


def as_listed(
    found: Iterable[Mapping[str, Any]], *, within: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return pydantic's findings as a 422 lists them: `[{loc, msg, type}]`.

    Args:
        found: Each with at least these keys.
        within: What stands before each `loc`.
    """
    return [
        {
            "loc": [*within, *each["loc"]],
            "msg": each["msg"].removeprefix("Value error, "),  # what pydantic puts before ours
            "type": each["type"],
        }
        for each in found
    ]


def _summary(errors: Sequence[Mapping[str, Any]]) -> str:
    parts = [
        f"{'.'.join(str(part) for part in error['loc'][1:]) or error['loc'][0]}: {error['msg']}"
        for error in errors[:MAX_SUMMARISED]
    ]
    if len(errors) > MAX_SUMMARISED:
        parts.append(f"and {len(errors) - MAX_SUMMARISED} more")
    return "; ".join(parts)
