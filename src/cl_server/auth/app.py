"""The auth service as one application: what it needs is made at its start and closed at its end."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI

from cl_ml_tools import __version__
from cl_server.http.access import AccessPolicy
from cl_server.http.application import create_application
from cl_server.http.tokens import TokenVerifier
from cl_server_shared.errors import DatabaseUnavailable, InvalidSetting

from .keys import load_or_make_keys
from .passwords import MAX_PASSWORD_LENGTH
from .repository import UserRepository, open_users
from .routes import make_routers
from .schemas import check_username
from .service import AuthService, FirstAdmin, make_first_admin
from .settings import AuthSettings
from .tokens import TokenSigner

__all__ = ["create_app", "print_first_admin"]

logger = logging.getLogger(__name__)

# So many passwords are checked at once, whoever tries: 19 MiB each.
PASSWORD_THREADS = 4


def print_first_admin(admin: FirstAdmin) -> None:
    """Show the first administrator's random password, the only time that it can be seen."""
    sys.stdout.write(
        f"\n  The first administrator was made. This is shown once:\n"
        f"    user name  {admin.username}\n    password   {admin.password}\n"
        f"  A new password: cl-server users passwd {admin.username}\n\n"
    )
    sys.stdout.flush()


def create_app(
    settings: AuthSettings, *, show_first_admin: Callable[[FirstAdmin], None] = print_first_admin
) -> FastAPI:
    """Return the auth service. Nothing is touched before it starts (its lifespan).

    Args:
        settings: What it is told.
        show_first_admin: Called at the first start, with the random password to show.
    """
    policy = AccessPolicy(auth_disabled=settings.auth_disabled)
    users = open_users(settings.database_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            app.state.password_threads = CapacityLimiter(PASSWORD_THREADS)
            app.state.service, admin = await to_thread.run_sync(_start, settings, users)
            if admin is not None and admin.password is not None:
                show_first_admin(admin)
            yield
        finally:
            users.close()

    def readiness() -> dict[str, str]:
        try:
            users.check()
        except DatabaseUnavailable as error:
            logger.warning("not ready: %s", error)
            return {"database": "does not answer"}
        return {"database": "ok"}

    return create_application(
        "auth",
        "Users, their permissions, and the tokens that every service verifies.",
        version=__version__,
        policy=policy,
        verifier=TokenVerifier(settings.public_key_path),
        routers=make_routers(__version__, policy),
        lifespan=lifespan,
        readiness=readiness,
    )


def _start(settings: AuthSettings, users: UserRepository) -> tuple[AuthService, FirstAdmin | None]:
    """Make what is not there yet: the schema, the keys, the first administrator."""
    username = _checked_admin(settings)
    users.migrate()
    keys = load_or_make_keys(settings.private_key_path, settings.public_key_path)
    admin = make_first_admin(users, username, settings.admin_password)
    return AuthService(users, TokenSigner(keys, settings.token_lifetime_seconds)), admin


def _checked_admin(settings: AuthSettings) -> str:
    if settings.admin_password and len(settings.admin_password) > MAX_PASSWORD_LENGTH:
        raise InvalidSetting(f"ADMIN_PASSWORD: expected at most {MAX_PASSWORD_LENGTH} characters")
    try:
        return check_username(settings.admin_username)
    except ValueError as error:
        raise InvalidSetting(f"ADMIN_USERNAME={settings.admin_username!r}: {error}") from error
