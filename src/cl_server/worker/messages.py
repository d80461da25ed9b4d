"""What a supervisor and its child say to each other: one JSON object a line, over a socket pair.

supervisor ── describe, job, lease, exit ─────────────► child
supervisor ◄── ready, unusable, described, progress, outcome ── child
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MAX_MESSAGE_BYTES", "MAX_OUTPUT_BYTES", "decode", "encode"]

# A result is metadata; what is larger belongs into a file of the job's output folder.
MAX_OUTPUT_BYTES = 8 * 1024**2
MAX_MESSAGE_BYTES = 4 * MAX_OUTPUT_BYTES


def encode(kind: str, **fields: Any) -> bytes:
    """Return one message as it goes over the socket."""
    return json.dumps({"kind": kind, **fields}).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Return one message; its `kind` says which.

    Raises:
        ValueError: It is not a message.
    """
    message = json.loads(line)
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ValueError(f"{line[:80]!r} is not a message")
    return message
