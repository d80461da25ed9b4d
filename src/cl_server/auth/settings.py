"""What the auth service is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["AuthSettings"]


@dataclass(frozen=True)
class AuthSettings:
    """The auth service's settings.

    Attributes:
        database_url: A SQLAlchemy URL.
        private_key_path: The key that signs tokens; made at the first start.
        public_key_path: The key that verifies them; made with it.
        token_lifetime_seconds: How long an access token is good.
        admin_username: The first administrator's name.
        admin_password: Their password; `None`: a random one, shown once.
        auth_disabled: Whether everyone may do everything.
    """

    database_url: str = field(repr=False)  # it may hold a password
    private_key_path: str
    public_key_path: str
    token_lifetime_seconds: int
    admin_username: str
    admin_password: str | None = field(repr=False)
    auth_disabled: bool
