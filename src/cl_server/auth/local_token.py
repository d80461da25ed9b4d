"""The token with which the server's own machine works without signing in."""

from __future__ import annotations

from .keys import load_keys
from .local import existing_users
from .service import AuthService
from .settings import AuthSettings
from .tokens import IssuedToken, TokenSigner

__all__ = ["issue_local_token"]


def issue_local_token(settings: AuthSettings) -> IssuedToken:
    """Return a token for this machine: the admin's `sub`, without admin rights.

    It may read and write media and run jobs. Whoever hands it out renews it while they run.

    Args:
        settings: The auth service's, which has started before.

    Raises:
        UnknownUser: The service has not started yet.
        KeyFileError: The keys cannot be used.
    """
    with existing_users(settings.database_url) as users:
        keys = load_keys(settings.private_key_path, settings.public_key_path)
        signer = TokenSigner(keys, settings.token_lifetime_seconds)
        return AuthService(users, signer).issue_local_token(settings.admin_username)
