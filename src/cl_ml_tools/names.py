"""How long a file's name may be, and what becomes of one that is too long or is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import PurePath

__all__ = ["MAX_COMPONENT_BYTES", "fitted_name", "numbered_paths", "unique_path", "unique_paths"]

# File systems stop at 255; a temporary suffix must still fit behind the name.
MAX_COMPONENT_BYTES = 240


def fitted_name(stem: str, suffix: str, mark: str = "") -> str:
    """Return `{stem}{mark}{suffix}`, where the stem loses its end until the name is not too long.

    Args:
        stem: Cut between two characters, never inside of one.
        suffix: With its dot; kept, unless it leaves no room for any of the stem.
        mark: Kept.
    """
    room = MAX_COMPONENT_BYTES - len(_encoded(mark + suffix))
    if len(_encoded(stem)) <= room:
        return f"{stem}{mark}{suffix}"
    kept = _encoded(stem)[: max(room, 0)].decode(errors="ignore")
    if suffix and not kept:  # what is that long is no file's type
        return fitted_name(stem + suffix, "", mark)
    return f"{kept}{mark}{suffix}"


def numbered_paths(wanted: str) -> Iterator[str]:
    """Yield `wanted`, `name (2).ext`, `name (3).ext`, ... without end; only the last component changes."""
    yield wanted
    path = PurePath(wanted)
    for number in count(2):
        yield str(path.with_name(fitted_name(path.stem, path.suffix, f" ({number})")))


def unique_path(wanted: str, taken: Iterable[str]) -> str:
    """Return `wanted`, or the first of `numbered_paths` that is not taken.

    Args:
        wanted: A path whose last component may become another.
        taken: Paths; upper and lower case are one.
    """
    return unique_paths([wanted], taken)[0]


def unique_paths(wanted: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return each path as `unique_path` does, and none twice.

    Args:
        wanted: Paths whose last component may become another.
        taken: Paths; upper and lower case are one.
    """
    used = {path.casefold() for path in taken}
    # Where the last one with this name left off: a thousand of one name take no longer than of many.
    candidates: dict[str, Iterator[str]] = {}
    found = []
    for path in wanted:
        names = candidates.setdefault(path, numbered_paths(path))
        found.append(next(name for name in names if name.casefold() not in used))
        used.add(found[-1].casefold())
    return found


def _encoded(text: str) -> bytes:
    # A local file's name may hold half of a pair of surrogates, for a byte that is no UTF-8.
    return text.encode("utf-8", "surrogatepass")
