"""The client: CL Server's HTTP surface as typed calls.

from cl_server.client import Client

with Client("http://127.0.0.1:8001", "http://127.0.0.1:8000") as client:
    client.sign_in("admin", "secret")
    job = client.create_job("image_resize", [Path("a.jpg")], {"width": 320, "height": 240})
    job = client.wait_for_job(job["job_id"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_server.client.client import Client
    from cl_server.client.errors import ClientError
    from cl_server.client.events import EventStream

__all__ = ["Client", "ClientError", "EventStream"]

# Imported at their first use (PEP 562): the note of `cl-server up` needs no HTTP library.
_HOMES = {"Client": "client", "ClientError": "errors", "EventStream": "events"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
