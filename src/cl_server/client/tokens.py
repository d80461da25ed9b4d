"""Where the client's token comes from, and keeping it fresh."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cl_server.client.private_file import write_private_file

__all__ = [
    "SignIn",
    "TokenSource",
    "read_sign_in",
    "remove_sign_in",
    "token_life_ms",
    "write_sign_in",
]

# Called before each request, so that a long run outlives a single token.
TokenSource = Callable[[], str | None]

FILE_NAME = "credentials.json"


@dataclass(frozen=True)
class SignIn:
    """A sign-in that `cl-server login` saved.

    Attributes:
        auth_url: The auth service that signed the token and renews it.
        store_url: The store that goes with it.
        username: Who signed in.
        token: The access token.
        issued_at: When it was made, in milliseconds since the epoch.
        expires_at: When it ends, in milliseconds since the epoch.
    """

    auth_url: str
    store_url: str
    username: str
    token: str
    issued_at: int
    expires_at: int

    def is_expired(self, now_ms: int) -> bool:
        """Whether the token is no longer good."""
        return now_ms >= self.expires_at

    def is_due(self, now_ms: int) -> bool:
        """Whether the token is past half of its life, and so due to be renewed."""
        return now_ms >= (self.issued_at + self.expires_at) // 2


def write_sign_in(config_dir: Path, sign_in: SignIn) -> Path:
    """Save a sign-in, readable for this user only.

    Args:
        config_dir: `Config.CL_USER_CONFIG_DIR`; made where it is missing.
        sign_in: What to save.

    Returns:
        The file.

    Raises:
        OSError: The directory cannot be made or written to.
    """
    return write_private_file(config_dir / FILE_NAME, json.dumps(asdict(sign_in), indent=2))


def read_sign_in(config_dir: Path) -> SignIn | None:
    """Return the saved sign-in; `None` without one, or if the file is not one of ours."""
    try:
        values = json.loads((config_dir / FILE_NAME).read_text())
        return SignIn(**{field.name: values[field.name] for field in fields(SignIn)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_sign_in(config_dir: Path) -> bool:
    """Forget the saved sign-in; say whether there was one."""
    try:
        (config_dir / FILE_NAME).unlink()
    except FileNotFoundError:
        return False
    return True


def token_life_ms(token: str) -> int:
    """Return how long a token lives from its making, in milliseconds; 0 where it does not say.

    The token is read, not verified: only the server can do that.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return int(1000 * (claims["exp"] - claims["iat"]))
    except (IndexError, ValueError, KeyError, TypeError):
        return 0
