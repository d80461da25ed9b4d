"""Putting an HTTP service together from its routes: what all of them have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request

from .access import (
    ADMIN_OR_LOOPBACK,
    ANYONE,
    AccessPolicy,
    Verifier,
    guard_routes,
    need_of,
    requires,
)
from .error_pages import PROBLEM_SCHEMA, install_error_pages, problem_responses
from .errors import Unavailable
from .requests import ObserveRequest, RequestLayer

__all__ = ["Lifespan", "create_application"]

logger = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Readiness = Callable[[], Mapping[str, str]]

OK = "ok"


class Health(BaseModel):
    """That the process lives."""

    status: str
    service: str
    version: str
    auth_disabled: bool


class Ready(BaseModel):
    """That the service can do its work; each dependency's state under its name.

    Attributes:
        status: `ready`.
        checks: `ok`, or what is wrong.
        wake_up: The store's: how idle workers learn of a job in its database.
    """

    status: str
    checks: dict[str, str]
    wake_up: str | None = None


def create_application(
    title: str,
    description: str,
    *,
    version: str,
    policy: AccessPolicy,
    verifier: Verifier,
    routers: Sequence[APIRouter],
    lifespan: Lifespan,
    readiness: Readiness,
    observe: ObserveRequest | None = None,
    wake_up: Callable[[], str] | None = None,
) -> FastAPI:
    """Return the application of one service.

    Args:
        title: The service's name: `auth`, `store`.
        description: One sentence, for OpenAPI.
        version: The program's.
        policy: What the operator opened.
        verifier: What tells whom a token belongs to.
        routers: The service's routes, each with `@requires(...)` on its endpoint.
        lifespan: What has to be there while it serves.
        readiness: Says of each dependency `ok` or what is wrong; runs in a thread.
        observe: Is told of each request how long its answer took.
        wake_up: Says how idle workers learn of a job; asked where all is ready.

    Raises:
        RuntimeError: A route declares no access.
    """
    app = FastAPI(
        title=title,
        description=description,
        version=version,
        lifespan=_with_warning(lifespan, title, policy),
        openapi_url=None,  # ours is a route like any other; the pages of docs_url load from a CDN
    )
    # Ends what would never end by itself (event streams) when the service stops.
    app.state.stopping = asyncio.Event()
    # `include_router` would wrap the routes, out of reach for `guard_routes`. Copies, since each
    # application guards its own.
    for router in (*routers, _operations_router(title, version, policy, readiness, wake_up)):
        app.router.routes.extend(copy(route) for route in router.routes)
    guard_routes(app.routes, policy, verifier)
    _document(app)
    install_error_pages(app)
    app.add_middleware(RequestLayer, observe=observe)
    return app


def _with_warning(lifespan: Lifespan, title: str, policy: AccessPolicy) -> Lifespan:
    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        if policy.auth_disabled:
            logger.warning("AUTH_DISABLED: everyone may do everything in the %s service", title)
        async with lifespan(app):
            yield

    return run


def _operations_router(
    title: str,
    version: str,
    policy: AccessPolicy,
    readiness: Readiness,
    wake_up: Callable[[], str] | None,
) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", response_model=Health)
    @requires(ANYONE)
    async def get_health() -> Health:
        """Say that the process lives."""
        return Health(status=OK, service=title, version=version, auth_disabled=policy.auth_disabled)

    @router.get(
        "/readyz",
        response_model=Ready,
        response_model_exclude_none=True,
        responses=problem_responses(503),
    )
    @requires(ANYONE)
    def get_readiness() -> Ready:
        """Say whether what the service needs is there."""
        checks = dict(readiness())
        if any(state != OK for state in checks.values()):
            wrong = "; ".join(f"{name}: {state}" for name, state in checks.items() if state != OK)
            raise Unavailable(f"not ready: {wrong}", extra={"checks": checks})
        return Ready(status="ready", checks=checks, wake_up=wake_up() if wake_up else None)

    @router.get("/openapi.json", include_in_schema=False)
    @requires(ANYONE)
    async def get_openapi(request: Request) -> dict[str, Any]:
        schema: dict[str, Any] = request.app.openapi()
        return schema

    return router


def _document(app: FastAPI) -> None:
    """Complete OpenAPI: the errors that a route has by its nature, and how one signs in."""
    for route in app.routes:
        assert isinstance(route, APIRoute)
        is_open = need_of(route) is ANYONE
        statuses = {500} if is_open else {401, 403, 500, 503}
        extra = route.openapi_extra or {}
        if route.dependant.path_params or route.dependant.query_params or "requestBody" in extra:
            statuses.add(422)
        if "requestBody" in extra:
            statuses |= {400, 413, 415}
        route.responses = {**problem_responses(*statuses), **route.responses}
        if not is_open:
            security: list[dict[str, list[str]]] = [{"bearer": []}]
            if need_of(route) is ADMIN_OR_LOOPBACK:
                security.append({})  # a token is not always needed
            route.openapi_extra = {"security": security, **extra}

    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
