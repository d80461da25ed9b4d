"""What clients send to the auth service and get from it."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .passwords import MAX_PASSWORD_LENGTH

__all__ = [
    "JsonWebKeySet",
    "NewUser",
    "PublicKey",
    "ServiceStatus",
    "SignIn",
    "Token",
    "UserChanges",
    "UserInfo",
    "check_username",
]

MAX_USERNAME_LENGTH = 150
MAX_PERMISSION_LENGTH = 100
MAX_PERMISSIONS = 200


def check_username(name: str) -> str:
    """Return the name as it is kept: one way to write each accent.

    Raises:
        ValueError: It is empty or too long, begins or ends with a space, or has characters that
            cannot be seen.
    """
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_USERNAME_LENGTH:
        raise ValueError(f"a user name has 1 to {MAX_USERNAME_LENGTH} characters")
    if name != name.strip():
        raise ValueError("a user name does not begin or end with a space")
    if _has_invisible(name):
        raise ValueError("a user name has no control or invisible characters")
    return name


def _has_invisible(text: str) -> bool:
    # Other, and separators but for the plain space: control and format characters, line ends.
    return any(unicodedata.category(letter)[0] in "CZ" and letter != " " for letter in text)


def _split_permissions(value: Any) -> Any:
    """Read a JSON list, a comma list, or `[a, b]` without quotes, as forms send them.

    Raises:
        ValueError: It begins or ends as a list does, and is none, or is a JSON object.
    """
    if value is None:
        return []
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{"):
        raise ValueError("this is a JSON object: expected a JSON list, or commas between names")
    if text.startswith("[") or text.endswith("]"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            unquoted = re.fullmatch(r'\[([^"\[\]]*)\]', text)
        if unquoted is None:
            raise ValueError("this is a broken list: expected a JSON list, or commas between names")
        text = unquoted[1]
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_permission(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= MAX_PERMISSION_LENGTH:
        raise ValueError(f"a permission has 1 to {MAX_PERMISSION_LENGTH} characters")
    if _has_invisible(name):
        raise ValueError("a permission has no control or invisible characters")
    return name


def _without_repeats(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


Password = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PASSWORD_LENGTH, json_schema_extra={"format": "password"}),
]
Permissions = Annotated[
    list[
        Annotated[
            str,
            AfterValidator(_check_permission),
            Field(json_schema_extra={"minLength": 1, "maxLength": MAX_PERMISSION_LENGTH}),
        ]
    ],
    BeforeValidator(_split_permissions),
    AfterValidator(_without_repeats),
    Field(
        max_length=MAX_PERMISSIONS,
        description="A list; in a form a JSON list, a comma list, or `[a, b]` without quotes.",
    ),
]


class SignIn(BaseModel):
    """A user name and its password. What else OAuth clients send (`grant_type`) is not needed."""

    username: Annotated[str, Field(min_length=1, max_length=1024)]
    password: Password


class NewUser(BaseModel):
    """Somebody who may sign in from now on."""

    model_config = ConfigDict(extra="forbid")

    username: Annotated[
        str,
        AfterValidator(check_username),
        Field(json_schema_extra={"minLength": 1, "maxLength": MAX_USERNAME_LENGTH}),
    ]
    password: Password
    is_admin: bool = False
    is_active: bool = True
    permissions: Permissions = []

    @model_validator(mode="before")
    @classmethod
    def _take_null_as_not_given(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if value is not None}


class UserChanges(BaseModel):
    """What is to become of a user; what is absent stays. Null permissions: none."""

    model_config = ConfigDict(extra="forbid")

    # The defaults are never used: `model_fields_set` says what was sent.
    password: Password = ""
    permissions: Permissions = []
    is_active: bool = True
    is_admin: bool = False


class UserInfo(BaseModel):
    """A user, as others may see them."""

    id: int
    username: str
    is_admin: bool
    is_active: bool
    created_at: datetime
    permissions: list[str]


class Token(BaseModel):
    """A signed-in user's access token."""

    access_token: str
    token_type: str = "bearer"


class PublicKey(BaseModel):
    """The key that verifies tokens, as PEM."""

    public_key: str
    algorithm: str


class JsonWebKeySet(BaseModel):
    """The keys that verify tokens (RFC 7517)."""

    keys: list[dict[str, str]]


class ServiceStatus(BaseModel):
    """That the service runs."""

    message: str
    status: str
    version: str
