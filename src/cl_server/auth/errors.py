"""What the auth service raises on purpose.

AuthError                         at start, and on the machine itself: one line for its operator
├── KeyFileError                  the key files cannot be used; they are never replaced
└── UnknownUser                   there is no such user, or not even a database of users
NameTaken (BadRequest)            for a client: another user has this name
LastAdmin (Conflict)              for a client: nobody could administer the service any more
EverythingIsAdmins (Unprocessable)  for a client: `*` was to be given to somebody who is no admin
"""

from __future__ import annotations

from cl_server.http.errors import BadRequest, Conflict, Unprocessable

__all__ = [
    "AuthError",
    "EverythingIsAdmins",
    "KeyFileError",
    "LastAdmin",
    "NameTaken",
    "UnknownUser",
]


class AuthError(RuntimeError):
    """The base of what an operator has to see to."""


class KeyFileError(AuthError):
    """The key files cannot be read, are no keys or do not belong together.

    They are never replaced: every token in use was signed with them.
    """


class UnknownUser(AuthError):
    """There is no such user, or not even a database of users."""


class NameTaken(BadRequest):
    """Another user has this name; nothing was changed."""

    def __init__(self, username: str) -> None:
        super().__init__(f"the user name {username!r} is taken")


class LastAdmin(Conflict):
    """Nobody could administer the service any more; nothing was changed."""

    def __init__(self, username: str) -> None:
        super().__init__(
            f"{username!r} is the last active admin, who cannot be deleted, demoted or deactivated:"
            " make another one first"
        )


class EverythingIsAdmins(Unprocessable):
    """`*` was to be given to somebody who is no admin; nothing was changed."""

    def __init__(self) -> None:
        message = "`*` is an admin's: set is_admin, or name each permission"
        super().__init__([{"loc": ["body", "permissions"], "msg": message, "type": "value_error"}])
