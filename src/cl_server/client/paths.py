"""Texts that somebody typed, as one part of an address's path: what would change the path is refused."""

from __future__ import annotations

from urllib.parse import quote

from cl_server.client.errors import WrongName

__all__ = ["path_of", "segment"]

# No id and no task type is near this; an address has a limit.
MAX_CHARACTERS = 1000


def segment(text: str) -> str:
    """Return an id or a task type as it is written in an address.

    Raises:
        WrongName: It is empty, only dots, too long, or has a separator or what nobody can see;
            `..` alone would make another request of this one.
    """
    if not text.strip(". "):
        raise WrongName(text, "it is empty" if not text else "it is only dots or spaces")
    if len(text) > MAX_CHARACTERS:
        raise WrongName(text, f"it has more than {MAX_CHARACTERS} characters")
    if "/" in text or "\\" in text:
        raise WrongName(text, "it has a separator")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise WrongName(text, "it has a control character")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise WrongName(text, "it is not Unicode") from error


def path_of(text: str) -> str:
    """Return a file's path in a workspace as it is written in an address.

    Raises:
        WrongName: As `segment`, for one of its parts.
    """
    return "/".join(segment(part) for part in text.split("/"))
