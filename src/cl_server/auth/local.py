"""What is done to accounts on the server's own machine, straight on the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UnknownUser
from .passwords import MAX_PASSWORD_LENGTH, hash_password, make_password
from .repository import UserRepository, open_users

__all__ = ["existing_users", "set_password"]


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
    with existing_users(database_url) as users:
        user = users.find_user_by_name(username)
        if user is None or users.update_user(user.id, password_hash=hash_password(chosen)) is None:
            raise UnknownUser(f"there is no user {username!r}")
    return chosen


@contextmanager
def existing_users(database_url: str) -> Iterator[UserRepository]:
    """Yield the users of a database that is there already.

    Args:
        database_url: The auth service's database.

    Raises:
        UnknownUser: The service has not started yet.
    """
    users = open_users(database_url)
    try:
        if not users.is_there():
            raise UnknownUser(
                "there are no users yet: start the server once (cl-server up, or cl-server auth)"
            )
        yield users
    finally:
        users.close()
