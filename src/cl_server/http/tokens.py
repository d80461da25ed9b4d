"""Verifying access tokens: ES256 only, by the public key that the auth service made.

Every service verifies by itself; only auth can sign.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from .access import Identity
from .errors import Unauthorized, Unavailable

__all__ = ["ALGORITHM", "AUDIENCE", "ISSUER", "TOKEN_TYPE", "TokenVerifier", "public_jwk"]

logger = logging.getLogger(__name__)

ALGORITHM = "ES256"
ISSUER = "cl-server"
AUDIENCE = "cl-server"
TOKEN_TYPE = "at+jwt"  # RFC 9068: an access token, and nothing else that one might be made to take

REQUIRED_CLAIMS = ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"]

# Headers that point to a key of the sender's choice, or ask for extensions that we have none of.
REFUSED_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64"})


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Return a P-256 public key as a JSON Web Key; its `kid` is the key's RFC 7638 thumbprint."""
    numbers = key.public_numbers()
    jwk = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(32, "big")),
        "y": _base64url(numbers.y.to_bytes(32, "big")),
    }
    canonical = json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode()
    thumbprint = _base64url(hashlib.sha256(canonical).digest())
    return {**jwk, "kid": thumbprint, "use": "sig", "alg": ALGORITHM}


class TokenVerifier:
    """Says whose a token is, by the public key in a file.

    The file is read at the first token and again whenever it has changed, so a service may start
    before auth has made its keys, and lives on when they are changed.

    Args:
        public_key_path: A P-256 public key as PEM.
    """

    def __init__(self, public_key_path: str | Path) -> None:
        self._path = Path(public_key_path)
        self._read_as: tuple[int, int, int] | None = None
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}

    def verify(self, token: str) -> Identity:
        """Return whose token it is.

        Raises:
            Unauthorized: It is malformed, expired, meant for others, or not signed by our key.
            Unavailable: There is no key to verify by, yet.
        """
        keys = self._current_keys()
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                _choose_key(header, keys),
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # The issuer's clock may be ahead of ours; a token is good from when it is there.
                options={"require": REQUIRED_CLAIMS, "verify_iat": False},
            )
        except jwt.ExpiredSignatureError:
            raise _refusal("it has expired: sign in again") from None
        except jwt.InvalidTokenError as error:
            raise _refusal(_reason(error)) from error
        except RecursionError:  # brackets in brackets: the JSON parser's limit, not the token's end
            raise _refusal("it is malformed") from None
        return _identity(claims)

    def _current_keys(self) -> dict[str, ec.EllipticCurvePublicKey]:
        try:
            status = self._path.stat()
            read_as = (status.st_mtime_ns, status.st_size, status.st_ino)
            if read_as != self._read_as:
                key = load_pem_public_key(self._path.read_bytes())
                if not isinstance(key, ec.EllipticCurvePublicKey):
                    raise ValueError("it holds no EC key")
                self._keys = {public_jwk(key)["kid"]: key}
                self._read_as = read_as
        except (OSError, ValueError) as error:
            logger.warning("no token can be verified: %s: %s", self._path, error)
            raise Unavailable(
                "no token can be verified: the auth service has no keys yet"
            ) from error
        return self._keys


def _choose_key(
    header: dict[str, Any], keys: dict[str, ec.EllipticCurvePublicKey]
) -> ec.EllipticCurvePublicKey:
    """Return the key that the header names; the current one for a token that names none."""
    refused = REFUSED_HEADERS.intersection(header)
    if refused:
        raise jwt.InvalidTokenError(f"its header has {', '.join(sorted(refused))}")
    if header.get("alg") != ALGORITHM:
        raise jwt.InvalidTokenError(f"it is not signed with {ALGORITHM}")
    if str(header.get("typ", "")).lower().removeprefix("application/") != TOKEN_TYPE:
        raise jwt.InvalidTokenError("it is no access token")
    if "kid" not in header:
        return next(iter(keys.values()))
    try:
        return keys[header["kid"]]
    except (KeyError, TypeError):
        raise jwt.InvalidTokenError("it is signed by a key that is not ours") from None


def _identity(claims: dict[str, Any]) -> Identity:
    permissions = claims.get("permissions", [])
    if not isinstance(permissions, list) or not all(isinstance(each, str) for each in permissions):
        raise _refusal("its permissions are no list of names")
    return Identity(
        sub=claims["sub"],
        permissions=frozenset(permissions),
        is_admin=claims.get("is_admin") is True,
        client_id=str(claims["client_id"]),
    )


def _reason(error: jwt.InvalidTokenError) -> str:
    if isinstance(error, jwt.InvalidSignatureError):
        return "its signature is not ours"
    if isinstance(error, (jwt.InvalidAudienceError, jwt.InvalidIssuerError)):
        return "it is meant for another service"
    return str(error) if type(error) is jwt.InvalidTokenError else "it is malformed"


def _refusal(reason: str) -> Unauthorized:
    return Unauthorized(
        f"the token is not accepted: {reason}", challenge='Bearer error="invalid_token"'
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
