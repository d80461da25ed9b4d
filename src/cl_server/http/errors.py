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
    └── Unavailable           503

Every error is answered as `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from cl_server_shared.errors import DatabaseBusy, DatabaseUnavailable

__all__ = [
    "PROBLEM_SCHEMA",
    "BadRequest",
    "Conflict",
    "Forbidden",
    "NotFound",
    "PayloadTooLarge",
    "Problem",
    "Unauthorized",
    "Unavailable",
    "Unprocessable",
    "UnsupportedMediaType",
    "install_error_pages",
    "listed_problems",
    "problem_response",
    "problem_responses",
]

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# `errors` lists all; this many are told in the sentence.
MAX_SUMMARISED = 5

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["about:blank"]},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, and what to do."},
        "errors": {
            "type": "array",
            "description": "Each wrong value of a request (422).",
            "items": {
                "type": "object",
                "required": ["loc", "msg", "type"],
                "properties": {
                    "loc": {
                        "type": "array",
                        "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                        "description": "Where it is: `body`, `query` or `path`, then the name.",
                    },
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
}


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
        return _title(self.status)


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


def listed_problems(error: ValidationError, *, within: Sequence[str]) -> list[dict[str, Any]]:
    """Return pydantic's findings as `[{loc, msg, type}]`, without the values (one may be a password).

    Args:
        error: What pydantic raised.
        within: Where the checked object is: `("body",)`, say.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {
            "loc": [*within, *each["loc"]],
            "msg": each["msg"].removeprefix("Value error, "),  # what pydantic puts before ours
            "type": each["type"],
        }
        for each in found
    ]


def problem_response(problem: Problem) -> JSONResponse:
    """Return the answer that tells a client of the problem."""
    body = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.extra,
    }
    return JSONResponse(body, problem.status, problem.headers, media_type=MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of these error answers, for a route's `responses=`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": _title(status), "content": content} for status in sorted(statuses)
    }


def install_error_pages(app: FastAPI) -> None:
    """Make `app` answer every foreseen error as a problem.

    What is not foreseen is logged and answered by `cl_server.http.requests`, which stands outside.
    """
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(DatabaseBusy, _answer_database_error)
    app.add_exception_handler(DatabaseUnavailable, _answer_database_error)


async def _answer_problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if detail == _title(error.status_code):  # the router's own, which says no more than its status
        detail = f"{request.method} {request.url.path}: {detail.lower()}"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed_methods(request)
    return problem_response(Problem(detail, status=error.status_code, headers=headers))


def _allowed_methods(request: Request) -> str:
    """Every method of the path; the router only knows those of the first route that matched."""
    return ", ".join(
        sorted(
            method
            for route in request.app.routes
            if route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods
        )
    )


async def _answer_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem_response(
        Unprocessable(
            [
                {"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]}
                for each in error.errors()
            ]
        )
    )


async def _answer_database_error(_request: Request, error: Exception) -> JSONResponse:
    logger.error("the database did not answer", exc_info=error)
    return problem_response(Unavailable("the database does not answer: try again"))


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _summary(errors: Sequence[Mapping[str, Any]]) -> str:
    parts = [
        f"{'.'.join(str(part) for part in error['loc'][1:]) or error['loc'][0]}: {error['msg']}"
        for error in errors[:MAX_SUMMARISED]
    ]
    if len(errors) > MAX_SUMMARISED:
        parts.append(f"and {len(errors) - MAX_SUMMARISED} more")
    return "; ".join(parts)
