"""Passwords: argon2id, and the same time for a user who is not there."""

from __future__ import annotations

import secrets
import unicodedata

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = [
    "MAX_PASSWORD_LENGTH",
    "hash_password",
    "is_outdated",
    "make_password",
    "verify_password",
]

MAX_PASSWORD_LENGTH = 1024

# OWASP's first choice for servers: 19 MiB, two passes, one lane.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)

# Nobody's: verified against where there is no user, so that the answer takes as long.
_DECOY = (
    "$argon2id$v=19$m=19456,t=2,p=1$b3JkaW5hcnkgZGVjb3kgIQ"
    "$ZtgfDUzwBxGeWyCEZXuE0gZxaVyw9aiQ0+bPpY/bNZs"
)

# Without letters and digits that look alike: it is read from a screen and typed.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_GROUPS, _GROUP_LENGTH = 5, 4  # 100 bits


def make_password() -> str:
    """Return a random password: five groups of four letters and digits."""
    return "-".join(
        "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS)
    )


def hash_password(password: str) -> str:
    """Return the password's hash, with its salt and parameters."""
    return _hasher.hash(_normalised(password))


def verify_password(password_hash: str | None, password: str) -> bool:
    """Return whether it is the password; takes as long for `None`, a user who is not there.

    Args:
        password_hash: What `hash_password` returned.
        password: What was typed.
    """
    try:
        _hasher.verify(password_hash or _DECOY, _normalised(password))
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def is_outdated(password_hash: str) -> bool:
    """Return whether it was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)


def _normalised(password: str) -> str:
    # An accent is one character on one keyboard and two on the next (RFC 8265).
    return unicodedata.normalize("NFC", password)
