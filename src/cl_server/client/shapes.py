"""Whether an answer is the document that was asked for: what answers may be another program.

Only what the client relies on is looked at. Further keys and further words are a newer server's.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

__all__ = ["find_flaw"]


def find_flaw(document: Any, kind: Any) -> str | None:
    """Return what a JSON document lacks to be of a kind; `None` where it is.

    Args:
        document: As it came.
        kind: A `TypedDict` of `cl_server.client.models`, or what one of its keys holds.
    """
    if is_typeddict(kind):
        return _flaw_of_object(document, kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        flaws = [find_flaw(document, choice) for choice in arguments]
        return None if None in flaws else flaws[0]
    if origin is list:
        if not isinstance(document, list):
            return "is no list"
        return next(filter(None, (find_flaw(item, arguments[0]) for item in document)), None)
    if origin is dict:
        return None if isinstance(document, dict) else "is no object"
    return None if _is_plain(document, kind, origin) else "is of another type"


def _flaw_of_object(document: Any, kind: Any) -> str | None:
    if not isinstance(document, dict):
        return "is no object"
    for name, (wanted, is_required) in _keys(kind).items():
        if name not in document:
            if is_required:
                return f"has no {name!r}"
        elif (flaw := find_flaw(document[name], wanted)) is not None:
            return f"has a {name!r} that {flaw}"
    return None


def _is_plain(value: Any, kind: Any, origin: Any) -> bool:
    if kind is Any:
        return True
    if origin is Literal:
        return isinstance(value, str)
    if kind is float:
        kind = (int, float)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


@cache
def _keys(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    """Return what each key of a `TypedDict` holds, and whether it must be there."""
    keys = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        is_required = get_origin(hint) is not NotRequired
        keys[name] = (hint if is_required else get_args(hint)[0], is_required)
    return keys
