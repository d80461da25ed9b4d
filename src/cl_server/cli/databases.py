"""Which database a service uses: looked at before it is opened, named where it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_server.cli.config import mask_password
from cl_server.cli.failures import CommandRefused
from cl_server_shared.config import Config
from cl_server_shared.errors import DatabaseUnavailable, InvalidSetting

__all__ = ["DATABASE_SETTINGS", "database_url", "naming_database", "source_of"]

# Each setting, and those that stand in for it, in their order.
DATABASE_SETTINGS = {
    "AUTH_DATABASE_URL": ("DATABASE_URL",),
    "STORE_DATABASE_URL": ("DATABASE_URL",),
    "WORKER_DATABASE_URL": ("STORE_DATABASE_URL", "DATABASE_URL"),
}


def database_url(setting: str) -> str:
    """Return the database that a setting names. Connects to nothing.

    Args:
        setting: One of `DATABASE_SETTINGS`.

    Raises:
        InvalidSetting: It can be no database of ours, or its driver or folder is not there; names
            the variable that it comes from, and its value without the password.
    """
    url: str = getattr(Config, setting)
    variable = source_of(setting)
    if variable != "CL_SERVER_DIR" and (problem := _problem_with(url)):
        raise InvalidSetting(f"{variable}={mask_password(url)!r}: {problem}")
    return url


def source_of(setting: str) -> str:
    """Return the variable that decides over a setting of `DATABASE_SETTINGS`."""
    settings = Config.settings()
    names = (setting, *DATABASE_SETTINGS[setting])
    given = (name for name in names if settings[name].source == "environment")
    return next(given, "CL_SERVER_DIR")


@contextmanager
def naming_database(*settings: str) -> Iterator[None]:
    """Name the variables behind a database that cannot be used in this block.

    Raises:
        CommandRefused: The database cannot be used.
    """
    try:
        yield
    except DatabaseUnavailable as error:
        names = dict.fromkeys(source_of(setting) for setting in settings)
        raise CommandRefused(f"{error} (see {', '.join(names)})") from error


def _problem_with(url: str) -> str | None:
    # Imported where a URL was given: `cl-server up` itself has no other use for SQLAlchemy.
    from cl_server_shared.engine import create_database_engine

    try:
        engine = create_database_engine(url)
    except DatabaseUnavailable as error:
        return str(error)
    file = engine.url.database
    if engine.dialect.name == "sqlite" and file and not Path(file).parent.is_dir():
        return f"there is no directory {Path(file).parent}"
    return None
