"""A small service, put together as ours are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from cl_server.http.access import AccessPolicy, Identity
from cl_server.http.application import create_application
from cl_server.http.errors import Unauthorized

PEOPLE = {
    "reader": Identity("1", frozenset({"media_store_read"})),
    "writer": Identity("2", frozenset({"media_store_read", "media_store_write"})),
    "admin": Identity("3", is_admin=True),
    "star": Identity("4", frozenset({"*"})),
    "nothing": Identity("5"),
}


class KnownPeople:
    """Takes a name for a token."""

    def verify(self, token: str) -> Identity:
        try:
            return PEOPLE[token]
        except KeyError:
            raise Unauthorized("the token is not accepted: unknown") from None


def small_service(
    *routers: APIRouter,
    policy: AccessPolicy | None = None,
    readiness: Callable[[], Mapping[str, str]] = dict,
    told: Sequence[Callable[[str], object]] = (),
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for tell in told:
            tell("started")
        yield
        for tell in told:
            tell("stopped")

    return create_application(
        "small",
        "A small service.",
        version="1.2",
        policy=policy or AccessPolicy(),
        verifier=KnownPeople(),
        routers=routers,
        lifespan=lifespan,
        readiness=readiness,
    )
