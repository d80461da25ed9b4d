"""Answering errors: every one as `application/problem+json` (RFC 9457), written in one place."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from cl_server_shared.errors import DatabaseBusy, DatabaseUnavailable

from .errors import Problem, Unavailable, Unprocessable, as_listed, status_title

__all__ = ["PROBLEM_SCHEMA", "install_error_pages", "problem_response", "problem_responses"]

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

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
        status: {"description": status_title(status), "content": content}
        for status in sorted(statuses)
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
    if detail == status_title(
        error.status_code
    ):  # the router's own, which says no more than its status
        detail = f"{request.method} {request.url.path}: {detail.lower()}"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed_methods(request)
    return problem_response(Problem(detail, status=error.status_code, headers=headers))


def _allowed_methods(request: Request) -> str:
    """Every method of the path; the router only knows those of the first route that matched."""
    return ", ".join(
        sorted(
            {
                method
                for route in request.app.routes
                if route.matches(request.scope)[0] is not Match.NONE
                for method in route.methods
            }
        )
    )


async def _answer_validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem_response(Unprocessable(as_listed(error.errors())))


async def _answer_database_error(_request: Request, error: Exception) -> JSONResponse:
    logger.error("the database did not answer", exc_info=error)
    return problem_response(Unavailable("the database does not answer: try again"))
