"""Findings about one value of a request, as a 422 lists them."""

from __future__ import annotations

from typing import Any

from cl_server.http.errors import Unprocessable

__all__ = ["Finding", "finding", "wrong_field", "wrong_parameter"]

# `loc` (where it is), `msg`, `type`.
Finding = dict[str, Any]


def finding(name: str, message: str, kind: str = "value_error") -> Finding:
    """Return what is wrong with one field of a body.

    Args:
        name: The field.
        message: What is wrong with it.
        kind: That in one word, as pydantic names it.
    """
    return {"loc": ["body", name], "msg": message, "type": kind}


def wrong_field(name: str, message: str, kind: str = "value_error") -> Unprocessable:
    """Return the error for a body of which one field is wrong; arguments as of `finding`."""
    return Unprocessable([finding(name, message, kind)])


def wrong_parameter(
    where: str, name: str, message: str, kind: str = "value_error"
) -> Unprocessable:
    """Return the error for a wrong value outside of the body; `where` is `path`, `query`, `header`."""
    return Unprocessable([{"loc": [where, name], "msg": message, "type": kind}])
