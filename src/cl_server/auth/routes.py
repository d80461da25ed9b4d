"""The auth service's routes: each is one call of the service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Query, Response
from starlette.requests import Request

from cl_server.http.access import (
    ADMIN,
    ANYONE,
    SIGNED_IN,
    AccessPolicy,
    CurrentIdentity,
    decide,
    requires,
)
from cl_server.http.error_pages import problem_responses
from cl_server.http.fields import body_of, fields_of
from cl_server.http.tokens import ALGORITHM

from .repository import User
from .schemas import (
    JsonWebKeySet,
    NewUser,
    PublicKey,
    ServiceStatus,
    SignIn,
    Token,
    UserChanges,
    UserInfo,
)
from .service import AuthService
from .tokens import IssuedToken

__all__ = ["make_routers"]

# Other services' caches; a new key is announced that much before it signs.
JWKS_CACHE = "max-age=600"

MAX_LIMIT = 1000


def _service(request: Request) -> AuthService:
    service: AuthService = request.app.state.service
    return service


Service = Annotated[AuthService, Depends(_service)]


def make_routers(version: str, policy: AccessPolicy) -> list[APIRouter]:
    """Return the service's routes.

    Args:
        version: The program's.
        policy: What the operator opened.
    """
    return [_public_router(version), _session_router(), _users_router(policy)]


def _public_router(version: str) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/")
    @requires(ANYONE)
    async def get_status() -> ServiceStatus:
        """Say that the service runs."""
        return ServiceStatus(
            message="authentication service is running", status="healthy", version=version
        )

    @router.get("/auth/public-key")
    @requires(ANYONE)
    async def get_public_key(service: Service) -> PublicKey:
        """Return the key that verifies tokens, as PEM."""
        return PublicKey(public_key=service.signer.keys.public_pem, algorithm=ALGORITHM)

    @router.get("/.well-known/jwks.json")
    @requires(ANYONE)
    async def get_keys(service: Service, response: Response) -> JsonWebKeySet:
        """Return the keys that verify tokens, each with its `kid`."""
        response.headers["Cache-Control"] = JWKS_CACHE
        return JsonWebKeySet(keys=[service.signer.keys.jwk])

    return router


def _session_router() -> APIRouter:
    router = APIRouter(tags=["sessions"])

    @router.post(
        "/auth/token", openapi_extra=body_of(SignIn), responses=problem_responses(401, 503)
    )
    @requires(ANYONE)
    async def sign_in(
        fields: Annotated[SignIn, fields_of(SignIn)], service: Service, request: Request
    ) -> Token:
        """Sign in: a user name and a password for an access token."""
        # Threads of its own: anyone may try passwords, and each takes 19 MiB and 20 ms.
        limiter: CapacityLimiter = request.app.state.password_threads
        token = await to_thread.run_sync(
            service.sign_in, fields.username, fields.password, limiter=limiter
        )
        return _token(token)

    @router.post("/auth/token/refresh")
    @requires(SIGNED_IN)
    def refresh_token(identity: CurrentIdentity, service: Service) -> Token:
        """Exchange a token that still holds for a new one, with what the user may do now."""
        return _token(service.refresh(identity))

    @router.get("/users/me")
    @requires(SIGNED_IN)
    def get_own_user(identity: CurrentIdentity, service: Service) -> UserInfo:
        """Return who is signed in."""
        return _info(service.find_signed_in(identity))

    return router


def _users_router(policy: AccessPolicy) -> APIRouter:
    def check_current_rights(identity: CurrentIdentity, service: Service) -> None:
        # A token outlives a demotion; what looks after users must not. It is read before a body.
        decide(service.current_rights(identity), ADMIN, policy)

    router = APIRouter(
        prefix="/users", tags=["users"], dependencies=[Depends(check_current_rights)]
    )

    @router.post(
        "/", status_code=201, openapi_extra=body_of(NewUser), responses=problem_responses(400)
    )
    @requires(ADMIN)
    def create_user(new: Annotated[NewUser, fields_of(NewUser)], service: Service) -> UserInfo:
        """Add a user; a name that is taken is refused (400)."""
        return _info(service.create_user(new))

    @router.get("/")
    @requires(ADMIN)
    def list_users(
        service: Service,
        skip: Annotated[int, Query(ge=0, le=2**31, description="Users to leave out.")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Users at most.")] = 100,
    ) -> list[UserInfo]:
        """List users in the order in which they came."""
        return [_info(user) for user in service.list_users(skip=skip, limit=limit)]

    @router.get("/{user_id}", responses=problem_responses(404))
    @requires(ADMIN)
    def get_user(user_id: int, service: Service) -> UserInfo:
        """Return one user."""
        return _info(service.get_user(user_id))

    changes: dict[str, Any] = {
        "openapi_extra": body_of(UserChanges, required=False),
        "responses": problem_responses(404, 409),
    }

    @router.put("/{user_id}", **changes)
    @router.patch("/{user_id}", **changes)
    @requires(ADMIN)
    def update_user(
        user_id: int, fields: Annotated[UserChanges, fields_of(UserChanges)], service: Service
    ) -> UserInfo:
        """Change what is sent of a user; the last active admin stays one (409)."""
        return _info(service.update_user(user_id, fields))

    @router.delete(
        "/{user_id}",
        status_code=204,
        response_class=Response,
        responses=problem_responses(404, 409),
    )
    @requires(ADMIN)
    def delete_user(user_id: int, service: Service) -> None:
        """Remove a user; the last active admin stays (409)."""
        service.delete_user(user_id)

    return router


def _token(issued: IssuedToken) -> Token:
    return Token(access_token=issued.access_token)


def _info(user: User) -> UserInfo:
    return UserInfo(
        id=user.id,
        username=user.username,
        is_admin=user.is_admin,
        is_active=user.is_active,
        created_at=datetime.fromtimestamp(user.created_at / 1000, UTC),
        permissions=list(user.permissions),
    )
