"""The outermost layer of each application: an id per request, one log line, no request unanswered."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cl_server.logs import bind_log_context

from .error_pages import problem_response
from .errors import Problem, Unavailable

__all__ = ["ObserveRequest", "RequestLayer"]

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# Asked every few seconds by whoever watches the service; of interest only when looking closely.
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

# Takes a request's method, its route's template, the answer's status and the seconds until the
# answer began: how long it then took is the client's line, and a stream's own affair.
ObserveRequest = Callable[[str, str, int, float], None]

# What `ObserveRequest` gets where no route was found: paths are as many as people can type.
UNKNOWN_ROUTE = "unknown"


class RequestLayer:
    """Gives each request its id, logs it, and answers 500 for what nothing else answered.

    A client's own `X-Request-Id` (64 letters, digits, `.`, `_`, `-`) is taken over, so that its
    logs and ours can be laid side by side; the answer always carries the id.

    Args:
        app: What answers.
        observe: Called once for each request, when its answer begins.
    """

    def __init__(self, app: ASGIApp, observe: ObserveRequest | None = None) -> None:
        self.app = app
        self.observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and see that it is answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        with bind_log_context(request_id=request_id):
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started_at = time.perf_counter()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                self._observe(scope, status, time.perf_counter() - started_at)
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.info("the client went away before its request was complete")
        except asyncio.CancelledError:
            if not scope["app"].state.stopping.is_set():
                raise
            logger.warning("a request was cut off: the service stops")
            if status is None:
                answer = problem_response(Unavailable("the service stops: try again later"))
                await answer(scope, receive, send_with_id)
        except Exception:  # the outermost place: nothing may go unanswered
            logger.exception("a request failed unexpectedly")
            if status is None:
                await _unexpected()(scope, receive, send_with_id)
            # Else the answer had begun: uvicorn sees that it is incomplete and cuts the connection.
        finally:
            _log_request(scope, status, time.perf_counter() - started_at)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        if self.observe is not None:
            route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
            self.observe(scope["method"], route, status, seconds)


def _unexpected() -> Any:
    return problem_response(
        Problem("something went wrong here; the service's log says what, under the request's id")
    )


def _log_request(scope: Scope, status: int | None, seconds: float) -> None:
    path = scope["path"]
    logger.log(
        logging.DEBUG if path in QUIET_PATHS else logging.INFO,
        "%s %s %s",
        scope["method"],
        path,
        status if status is not None else "-",
        extra={"duration_ms": round(seconds * 1000, 1)},
    )
