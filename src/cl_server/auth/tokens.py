"""Signing access tokens. Verifying them is everyone's: `cl_server.http.tokens`."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

import jwt

from cl_server.http.access import Identity
from cl_server.http.tokens import ALGORITHM, AUDIENCE, ISSUER, TOKEN_TYPE

from .keys import KeyPair

__all__ = ["IssuedToken", "TokenSigner"]


@dataclass(frozen=True)
class IssuedToken:
    """A new access token.

    Attributes:
        access_token: What the client sends.
        expires_in: For how long it is good, in seconds.
    """

    access_token: str
    expires_in: int


class TokenSigner:
    """Makes access tokens (RFC 9068) with the service's key.

    Args:
        keys: The pair in use.
        lifetime_seconds: For how long a token is good.
    """

    def __init__(self, keys: KeyPair, lifetime_seconds: int) -> None:
        self.keys = keys
        self.lifetime_seconds = lifetime_seconds

    def sign(self, identity: Identity) -> IssuedToken:
        """Return a token that says what `identity` says."""
        issued_at = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": identity.sub,
            "aud": AUDIENCE,
            "exp": issued_at + self.lifetime_seconds,
            "iat": issued_at,
            "jti": uuid.uuid4().hex,
            "client_id": identity.client_id,
            # Existing clients read these three.
            "id": identity.sub,
            "permissions": sorted(identity.permissions),
            "is_admin": identity.is_admin,
        }
        token = jwt.encode(
            claims,
            self.keys.private,
            algorithm=ALGORITHM,
            headers={"kid": self.keys.kid, "typ": TOKEN_TYPE},
        )
        return IssuedToken(token, self.lifetime_seconds)
