"""What is done on the server's own machine, straight on the database and the key files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UnknownUser
from .keys import load_keys
from .passwords import hash_password, make_password
from .repository import UserRepository, open_users
from .schemas import MAX_PASSWORD_LENGTH
from .service import AuthService
from .settings import AuthSettings
from .tokens import IssuedToken, TokenSigner

__all__ = ["issue_local_token", "set_password"]


def set_password(database_url: str, username: str, password: str | None = None) -> str:
    """Give a user a new password; the running service needs no restart.

    Args:
        database_url: The auth service's database.
        username: Whose.
        password: The new one; `None`: a random one.

    Returns:
        The password that holds now: shown once, it is kept nowhere.

    Raises:
        UnknownUser: There is no such user, or no database of users.
        ValueError: The password is empty or too long.
    """
    chosen = make_password() if password is None else password
    if not 1 <= len(chosen) <= MAX_PASSWORD_LENGTH:
        raise ValueError(f"a password has 1 to {MAX_PASSWORD_LENGTH} characters")
    with _existing_users(database_url) as users:
        user = users.find_user_by_name(username)
        if user is None or users.update_user(user.id, password_hash=hash_password(chosen)) is None:
            raise UnknownUser(f"there is no user {username!r}")
    return chosen


def issue_local_token(settings: AuthSettings) -> IssuedToken:
    """Return a token for this machine: the admin's `sub`, without admin rights.

    It may read and write media and run jobs. Whoever hands it out renews it while they run.

    Args:
        settings: The auth service's, which has started before.

    Raises:
        UnknownUser: The service has not started yet.
        KeyFileError: The keys cannot be used.
    """
    with _existing_users(settings.database_url) as users:
        keys = load_keys(settings.private_key_path, settings.public_key_path)
        signer = TokenSigner(keys, settings.token_lifetime_seconds)
        return AuthService(users, signer).issue_local_token(settings.admin_username)


@contextmanager
def _existing_users(database_url: str) -> Iterator[UserRepository]:
    users = open_users(database_url)
    try:
        if not users.is_there():
            raise UnknownUser(
                "there are no users yet: start the server once (cl-server up, or cl-server auth)"
            )
        yield users
    finally:
        users.close()
