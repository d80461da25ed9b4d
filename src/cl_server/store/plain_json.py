"""JSON as everybody can read it, whatever a compute module returned.

Python writes and reads numbers (`NaN`, `Infinity`) and strings (half of a surrogate pair) that no
other program takes. One such result must not break the answers and streams that it is in.
"""

from __future__ import annotations

import json
from typing import Any

from cl_ml_tools.jobs import check_json_depth

__all__ = ["as_plain_json", "parse_json", "parse_stored_json"]


def as_plain_json(value: Any) -> Any:
    """Return a JSON value with null for what is no JSON number and `?` for what is no character."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode(errors="replace"), parse_constant=lambda _name: None)


def parse_stored_json(text: str) -> Any:
    """Return a JSON value from the database, as plain JSON."""
    return as_plain_json(json.loads(text))


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that somebody sent.

    Raises:
        ValueError: It is no JSON, has a number or a string that is none in JSON, or is nested too deeply.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_json_depth("it", value)
    return value
