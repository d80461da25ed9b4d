"""`Config`: every setting of every service, read from the environment at each use.

Nothing is cached and nothing is read at import, so that importing this package never fails for
want of a variable. This is the only file that reads the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Generic, Optional, TypeVar, Union, overload

from .errors import InvalidSetting

__all__ = ["Config", "Setting"]

T = TypeVar("T")

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")

GIB = 1024**3

# A column holds 255, and `cl-server up --workers` adds a number.
MAX_LABEL_CHARACTERS = 240


class Setting(Generic[T]):
    """One setting: a descriptor that reads its variable whenever it is used.

    Args:
        parse: Turns the variable's text into a value; raises `ValueError` saying what it expects.
        default: The value without the variable, or a function that finds it.
        description: One line for `cl-server config`.
        secret: Whether the value is hidden where settings are listed.
    """

    def __init__(
        self,
        parse: Callable[[str], T],
        default: Union[T, Callable[[], T]],
        description: str,
        *,
        secret: bool = False,
    ) -> None:
        self.parse = parse
        self.default = default
        self.description = description
        self.secret = secret
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> T: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Optional[object], owner: type) -> T:
        return self.read()

    def read(self) -> T:
        """Return the value that holds now.

        Raises:
            ValueError: The variable is malformed; names it, its value and what was expected.
        """
        text = os.environ.get(self.name)
        if not text:
            return self.default() if callable(self.default) else self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise InvalidSetting(f"{self.name}={text!r}: {error}") from error

    @property
    def source(self) -> str:
        """Where the value comes from: `environment`, `default` or `fixed`."""
        return "environment" if os.environ.get(self.name) else "default"


class FixedSetting(Setting[T]):
    """A value that no variable changes, listed beside those that one does."""

    def __init__(self, value: T, description: str) -> None:
        super().__init__(lambda _: value, value, description)

    @property
    def source(self) -> str:
        """Always `fixed`."""
        return "fixed"


def _text(text: str) -> str:
    return text


def _label(text: str) -> str:
    if not text.strip() or len(text) > MAX_LABEL_CHARACTERS or not text.isprintable():
        raise ValueError(f"expected 1 to {MAX_LABEL_CHARACTERS} printable characters")
    return text


def _topic(text: str) -> str:
    if not text or not text.isprintable() or "+" in text or "#" in text:
        raise ValueError("expected an MQTT topic: printable characters, without + and #")
    return text


def _path(text: str) -> str:
    return str(Path(text).absolute())


def _optional_text(text: str) -> Optional[str]:
    return text


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"expected one of {', '.join(_TRUE + _FALSE)}")


def _whole_number(minimum: int, maximum: Optional[int] = None) -> Callable[[str], int]:
    limits = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"expected a whole number {limits}") from None
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"expected a whole number {limits}")
        return value

    return parse


def _seconds(minimum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not minimum <= value < float("inf"):
            raise ValueError(f"expected a number of seconds of at least {minimum}")
        return value

    return parse


def _comma_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _path_list(text: str) -> list[str]:
    return [_path(part) for part in text.split(os.pathsep) if part]


def _server_dir(text: str) -> str:
    path = Path(text)
    try:
        exists = path.is_dir()
    except OSError as error:  # it lies where we may not look, or its name is too long
        raise ValueError(f"expected a directory that exists: {error.strerror}") from error
    if not exists:
        raise ValueError("expected a directory that exists")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError("expected a directory that is writable")
    return str(path.absolute())


def _server_dir_missing() -> str:
    raise InvalidSetting(
        "CL_SERVER_DIR is not set: expected a directory that exists and is writable"
    )


def _below_server_dir(name: str) -> Callable[[], str]:
    return lambda: str(Path(Config.CL_SERVER_DIR) / name)


def _database_url(file_name: str) -> Callable[[], str]:
    def default() -> str:
        if Config.DATABASE_URL:
            return Config.DATABASE_URL
        server_dir = Config.CL_SERVER_DIR
        # SQLAlchemy's versions differ in what they unescape: the databases would lie elsewhere.
        if "?" in server_dir or "%" in server_dir:
            raise InvalidSetting(
                f"CL_SERVER_DIR={server_dir!r}: expected a directory without '?' and '%' in its path, "
                "which a database URL reads as its own"
            )
        return f"sqlite:///{server_dir}/{file_name}"

    return default


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _user_dir(variable: str, *fallback: str) -> Callable[[], str]:
    """Where a user's files go: the XDG Base Directory Specification."""

    def default() -> str:
        given = os.environ.get(variable)
        base = (
            Path(given) if given and Path(given).is_absolute() else Path.home().joinpath(*fallback)
        )
        return str(base / "cl-server")

    return default


def _port(default: int, description: str) -> Setting[int]:
    return Setting(_whole_number(1, 65535), default, description)


class Config:
    """Every setting as `Config.NAME`; a test may replace one with `monkeypatch.setattr`.

    Raises:
        ValueError: At a read: the variable is malformed, or `CL_SERVER_DIR` is needed and it is
            unset, does not exist or is not writable.
    """

    CL_SERVER_DIR = Setting(_server_dir, _server_dir_missing, "Where everything is kept.")

    # Databases. `DATABASE_URL` serves all three at once.
    DATABASE_URL = Setting[Optional[str]](
        _optional_text, None, "One database for all services.", secret=True
    )
    AUTH_DATABASE_URL = Setting(
        _text, _database_url("user_auth.db"), "The auth service's database.", secret=True
    )
    STORE_DATABASE_URL = Setting(
        _text, _database_url("media_store.db"), "The store's database.", secret=True
    )
    WORKER_DATABASE_URL = Setting[str](
        _text, lambda: Config.STORE_DATABASE_URL, "The worker's: the store's.", secret=True
    )

    # Files.
    MEDIA_STORAGE_DIR = Setting(_path, _below_server_dir("media"), "The media files.")
    COMPUTE_STORAGE_DIR = Setting(_path, _below_server_dir("compute"), "Job workspaces.")
    EXTERNAL_FILE_ROOTS = Setting[list[str]](
        _path_list, list, "Directories from which jobs may read files, separated as PATH is."
    )
    MAX_UPLOAD_BYTES = Setting(
        _whole_number(1), 10 * GIB, "The largest file that the store accepts, in bytes."
    )

    # How much may wait.
    MAX_WAITING_JOBS = Setting(
        _whole_number(0),
        1_000_000,
        "How many jobs may wait or run before more are refused; 0: any.",
    )
    MAX_WAITING_JOBS_PER_USER = Setting(
        _whole_number(0), 100_000, "The same for the jobs of one user; 0: any number."
    )

    # Signing in.
    PRIVATE_KEY_PATH = Setting(
        _path, _below_server_dir("private_key.pem"), "The key that signs tokens."
    )
    PUBLIC_KEY_PATH = Setting(
        _path, _below_server_dir("public_key.pem"), "The key that verifies tokens."
    )
    ALGORITHM = FixedSetting("ES256", "How tokens are signed.")
    ACCESS_TOKEN_EXPIRE_MINUTES = Setting(
        _whole_number(1), 30, "How long an access token lives, in minutes."
    )
    ADMIN_USERNAME = Setting(_text, "admin", "The first administrator's name.")
    ADMIN_PASSWORD = Setting[Optional[str]](
        _optional_text,
        None,
        "The first administrator's password; unset: made at random, printed once.",
        secret=True,
    )
    AUTH_DISABLED = Setting(_flag, False, "Whether everyone may do everything.")
    READ_AUTH_ENABLED = Setting(_flag, True, "Whether reading media needs a token.")

    # Services.
    CL_SERVER_HOST = Setting(_text, "127.0.0.1", "The address on which the services listen.")
    AUTH_PORT = _port(8000, "The auth service's port.")
    STORE_PORT = _port(8001, "The store's port.")
    LOG_LEVEL = Setting(_text, "INFO", "DEBUG, INFO, WARNING or ERROR.")

    # Events.
    BROADCAST_TYPE = Setting(_text, "mqtt", "mqtt; anything else: no broker.")
    MQTT_BROKER = Setting(_text, "localhost", "The broker's host.")
    MQTT_PORT = _port(1883, "The broker's port.")
    MQTT_USERNAME = Setting[Optional[str]](_optional_text, None, "The broker's user name.")
    MQTT_PASSWORD = Setting[Optional[str]](
        _optional_text, None, "The broker's password.", secret=True
    )
    MQTT_TLS = Setting(_flag, False, "Whether the broker is reached through TLS.")
    MQTT_TOPIC = Setting(_topic, "inference/events", "Where job events are published.")
    MQTT_HEARTBEAT_INTERVAL = Setting(
        _whole_number(1), 30, "How often a worker publishes its presence, in seconds."
    )
    CAPABILITY_TOPIC_PREFIX = Setting(
        _topic, "inference/workers", "Below which workers publish their presence."
    )
    CAPABILITY_CACHE_TIMEOUT = Setting(
        _whole_number(0), 10, "How long the store trusts the list of workers, in seconds."
    )

    # Workers.
    WORKER_ID = Setting(_label, "worker-default", "What people call the worker.")
    WORKER_SUPPORTED_TASKS = Setting[list[str]](
        _comma_list, list, "Task types, separated by commas; empty: all that are installed."
    )
    WORKER_POLL_INTERVAL = Setting(
        _whole_number(1), 5, "How long an idle worker sleeps at most, in seconds."
    )
    WORKER_CONCURRENCY = Setting(_whole_number(1, 1024), _cores, "Jobs at once per worker.")
    WORKER_LEASE_SECONDS = Setting(
        _seconds(1), 60.0, "How long a silent worker keeps its jobs, in seconds."
    )
    WORKER_JOB_TIMEOUT_SECONDS = Setting(
        _seconds(0.1), 3600.0, "How long one attempt may take, in seconds."
    )
    WORKER_JOB_MEMORY_BYTES = Setting(
        _whole_number(64 * 1024**2), 2 * GIB, "How much memory one job may use, in bytes."
    )
    WORKER_METRICS_PORT = Setting(
        _whole_number(0, 65535), 0, "The worker's own /metrics, on loopback only; 0: none."
    )

    # What is kept, and for how long.
    EVENT_RETENTION_HOURS = Setting(
        _whole_number(1), 24, "How long events are kept, in hours; unpublished ones a week."
    )
    JOB_RETENTION_DAYS = Setting(
        _whole_number(0), 0, "How long ended jobs and their files are kept, in days; 0: for ever."
    )

    # Where clients and the command line look.
    CL_AUTH_URL = Setting[Optional[str]](_optional_text, None, "The auth service's address.")
    CL_STORE_URL = Setting[Optional[str]](_optional_text, None, "The store's address.")
    CL_COMPUTE_URL = Setting[Optional[str]](_optional_text, None, "The store's compute address.")
    CL_MQTT_URL = Setting[Optional[str]](_optional_text, None, "The broker's address.")
    CL_USER_CONFIG_DIR = Setting(
        _path, _user_dir("XDG_CONFIG_HOME", ".config"), "The user's own settings and sign-in."
    )
    CL_USER_DATA_DIR = Setting(
        _path, _user_dir("XDG_DATA_HOME", ".local", "share"), "Where `cl-server up` keeps its data."
    )

    @classmethod
    def settings(cls) -> dict[str, Setting[Any]]:
        """Return each setting under its name, in the order of this file."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}
