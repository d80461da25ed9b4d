"""Who may do what: one decision, taken before a byte of the body is read.

A route declares its need on its endpoint, `@requires("media_store_read")`; `guard_routes` refuses
an application with a route that declares none, and puts the check in front of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import Forbidden, Unauthorized

__all__ = [
    "ADMIN",
    "ADMIN_OR_LOOPBACK",
    "ANYONE",
    "EVERYTHING",
    "MEDIA_READ",
    "SIGNED_IN",
    "AccessLayer",
    "AccessPolicy",
    "CurrentIdentity",
    "Identity",
    "Need",
    "Verifier",
    "current_identity",
    "decide",
    "find_identity",
    "guard_routes",
    "need_of",
    "requires",
]

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

ADMIN = "admin"
MEDIA_READ = "media_store_read"
EVERYTHING = "*"


class Open(Enum):
    """What a route may need that is no permission."""

    ANYONE = "anyone"
    SIGNED_IN = "signed in"
    ADMIN_OR_LOOPBACK = "an admin, or anyone on this machine"


ANYONE = Open.ANYONE
SIGNED_IN = Open.SIGNED_IN
ADMIN_OR_LOOPBACK = Open.ADMIN_OR_LOOPBACK

Need = str | Open

# Each says that somebody else speaks through the peer of the connection.
PROXY_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
)


@dataclass(frozen=True)
class Identity:
    """Who makes a request, and what they may do.

    Attributes:
        sub: The user's id, as the token's `sub` says it.
        permissions: What was granted; `*` is everything.
        is_admin: Whether everything is allowed anyway.
        client_id: Which program the token was given to.
    """

    sub: str
    permissions: frozenset[str] = frozenset()
    is_admin: bool = False
    client_id: str = ""

    def has(self, permission: str) -> bool:
        """Return whether this permission is among what they may do."""
        return self.is_admin or not self.permissions.isdisjoint({permission, EVERYTHING})

    @property
    def may_administer(self) -> bool:
        """Whether they are an admin: as a user, or by the permission of that name."""
        return self.has(ADMIN)


# Everyone is this one while AUTH_DISABLED holds. No user has the id 0.
OPERATOR = Identity("0", frozenset({EVERYTHING}), is_admin=True, client_id="auth-disabled")


@dataclass(frozen=True)
class AccessPolicy:
    """What the operator opened.

    Attributes:
        auth_disabled: Everyone may do everything.
        guest_mode: Says whether media may be read without a token just now.
    """

    auth_disabled: bool = False
    guest_mode: Callable[[], bool] = field(default=lambda: False)


class Verifier(Protocol):
    """What tells whom a token belongs to."""

    def verify(self, token: str) -> Identity:
        """Return whose token it is; raises `Unauthorized` where it does not hold."""
        ...


def decide(
    identity: Identity | None, need: Need, policy: AccessPolicy, *, is_local: bool = False
) -> None:
    """Return where `identity` may have what `need` names.

    Args:
        identity: Who asks; `None`: nobody is signed in.
        need: A permission, `SIGNED_IN`, `ANYONE` or `ADMIN_OR_LOOPBACK`.
        policy: What the operator opened.
        is_local: Whether the request comes from this very machine.

    Raises:
        Unauthorized: One has to be signed in.
        Forbidden: The permission is missing.
    """
    if policy.auth_disabled or need is ANYONE:
        return
    if need == MEDIA_READ and policy.guest_mode():
        return
    if need is ADMIN_OR_LOOPBACK:
        if is_local:
            return
        need = ADMIN
    if identity is None:
        raise Unauthorized("sign in first: this needs a header `Authorization: Bearer <token>`")
    if isinstance(need, str) and not identity.has(need):
        raise Forbidden(f"this needs the permission {need!r}, which you do not have")


def requires(need: Need) -> Callable[[Endpoint], Endpoint]:
    """Declare what an endpoint needs: a permission, or one of `Open`."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__need__ = need  # type: ignore[attr-defined]
        return endpoint

    return declare


def need_of(route: BaseRoute) -> Need:
    """Return what a route's endpoint declares.

    Raises:
        RuntimeError: It declares nothing: such a route would be open by accident.
    """
    need: Need | None = getattr(getattr(route, "endpoint", None), "__need__", None)
    if need is None:
        raise RuntimeError(f"{route!r} declares no access: put @requires(...) on its endpoint")
    return need


def guard_routes(routes: Iterable[BaseRoute], policy: AccessPolicy, verifier: Verifier) -> None:
    """Put the decision in front of each route.

    Raises:
        RuntimeError: A route declares no need.
    """
    for route in routes:
        need = need_of(route)
        assert isinstance(route, Route)
        route.app = AccessLayer(route.app, need, policy, verifier)


class AccessLayer:
    """An ASGI application in front of one route's: decides, then hands the identity on.

    The identity is put into the request's state as `identity`. FastAPI reads a whole form before
    its dependencies run, so a dependency would be too late.
    """

    def __init__(self, app: ASGIApp, need: Need, policy: AccessPolicy, verifier: Verifier) -> None:
        self.app = app
        self.need = need
        self.policy = policy
        self.verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide, then pass the request on."""
        refusal: Unauthorized | None = None
        identity: Identity | None = None
        try:
            identity = self._identify(scope)
        except Unauthorized as error:
            refusal = error
        try:
            decide(identity, self.need, self.policy, is_local=_is_local(scope))
        except Unauthorized as error:
            # A bad token matters only where one is needed; there, say what is wrong with it.
            raise (refusal or error) from None
        scope.setdefault("state", {})["identity"] = identity
        await self.app(scope, receive, send)

    def _identify(self, scope: Scope) -> Identity | None:
        if self.policy.auth_disabled:
            return OPERATOR
        if self.need is ANYONE:
            return None
        given = Headers(scope=scope).getlist("authorization")
        if not given:
            return None
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("the header must read: `Authorization: Bearer <token>`")
        return self.verifier.verify(token.strip())


def _is_local(scope: Scope) -> bool:
    """Return whether the peer of the connection is this machine, and speaks for nobody else."""
    headers = Headers(scope=scope)
    if scope.get("client") is None or any(name in headers for name in PROXY_HEADERS):
        return False
    try:
        address = ip_address(scope["client"][0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def current_identity(request: HTTPConnection) -> Identity:
    """Return who makes the request, on a route that needs somebody signed in.

    Raises:
        Unauthorized: Nobody is (a guest, where guest mode let them in).
    """
    identity = find_identity(request)
    if identity is None:
        raise Unauthorized("sign in first: this needs a header `Authorization: Bearer <token>`")
    return identity


def find_identity(request: HTTPConnection) -> Identity | None:
    """Return who makes the request; `None` for a guest."""
    identity: Identity | None = request.state.identity
    return identity


CurrentIdentity = Annotated[Identity, Depends(current_identity)]
