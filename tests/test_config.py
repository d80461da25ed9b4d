"""`Config`: every name of the contract, its default, where it is read from, what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

import cl_server_shared.config as config_module
from cl_server_shared import Config
from cl_server_shared.config import Setting

PLAIN_DEFAULTS = {
    "ACCESS_TOKEN_EXPIRE_MINUTES": 30,
    "ADMIN_PASSWORD": None,
    "ADMIN_USERNAME": "admin",
    "ALGORITHM": "ES256",
    "AUTH_DISABLED": False,
    "AUTH_PORT": 8000,
    "CAPABILITY_CACHE_TIMEOUT": 10,
    "CAPABILITY_TOPIC_PREFIX": "inference/workers",
    "CL_SERVER_HOST": "127.0.0.1",
    "DATABASE_URL": None,
    "EXTERNAL_FILE_ROOTS": [],
    "LOG_LEVEL": "INFO",
    "MQTT_BROKER": "localhost",
    "MQTT_HEARTBEAT_INTERVAL": 30,
    "MQTT_PASSWORD": None,
    "MQTT_PORT": 1883,
    "MQTT_TLS": False,
    "MQTT_TOPIC": "inference/events",
    "MQTT_USERNAME": None,
    "READ_AUTH_ENABLED": True,
    "STORE_PORT": 8001,
    "WORKER_ID": "worker-default",
    "WORKER_JOB_MEMORY_BYTES": 2 * 1024**3,
    "WORKER_JOB_TIMEOUT_SECONDS": 3600,
    "WORKER_LEASE_SECONDS": 60,
    "WORKER_POLL_INTERVAL": 5,
    "WORKER_SUPPORTED_TASKS": [],
}

BELOW_THE_DIRECTORY = {
    "AUTH_DATABASE_URL": "sqlite:///{dir}/user_auth.db",
    "STORE_DATABASE_URL": "sqlite:///{dir}/media_store.db",
    "WORKER_DATABASE_URL": "sqlite:///{dir}/media_store.db",
    "MEDIA_STORAGE_DIR": "{dir}/media",
    "COMPUTE_STORAGE_DIR": "{dir}/compute",
    "PRIVATE_KEY_PATH": "{dir}/private_key.pem",
    "PUBLIC_KEY_PATH": "{dir}/public_key.pem",
}

WHOLE_NUMBERS = [
    "ACCESS_TOKEN_EXPIRE_MINUTES",
    "AUTH_PORT",
    "CAPABILITY_CACHE_TIMEOUT",
    "MAX_UPLOAD_BYTES",
    "MQTT_HEARTBEAT_INTERVAL",
    "MQTT_PORT",
    "STORE_PORT",
    "WORKER_CONCURRENCY",
    "WORKER_JOB_MEMORY_BYTES",
    "WORKER_POLL_INTERVAL",
]


def value_of(name: str) -> Any:
    return getattr(Config, name)


@pytest.mark.parametrize(("name", "default"), list(PLAIN_DEFAULTS.items()))
def test_a_default_needs_no_environment(
    name: str, default: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)

    assert value_of(name) == default
    assert type(value_of(name)) in (type(default), float)


def test_without_the_variable_events_go_to_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROADCAST_TYPE")

    assert Config.BROADCAST_TYPE == "mqtt"


def test_every_other_default_is_there() -> None:
    assert Config.WORKER_CONCURRENCY >= 1
    assert Config.MAX_UPLOAD_BYTES > 0


@pytest.mark.parametrize(("name", "template"), list(BELOW_THE_DIRECTORY.items()))
def test_what_is_kept_is_below_the_directory(name: str, template: str, server_dir: Path) -> None:
    assert value_of(name) == template.format(dir=server_dir)


@pytest.mark.parametrize("name", ["CL_SERVER_DIR", *BELOW_THE_DIRECTORY])
def test_a_read_that_needs_the_directory_names_it(name: str) -> None:
    with pytest.raises(ValueError, match=r"CL_SERVER_DIR is not set"):
        value_of(name)


@pytest.mark.parametrize("name", ["CL_SERVER_DIR", "MEDIA_STORAGE_DIR", "STORE_DATABASE_URL"])
def test_a_directory_that_is_not_there_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CL_SERVER_DIR", str(tmp_path / "nowhere"))

    with pytest.raises(ValueError, match=r"CL_SERVER_DIR='.*nowhere'.*exists"):
        value_of(name)


def test_a_directory_that_cannot_be_looked_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CL_SERVER_DIR", "/" + "x" * 300)

    with pytest.raises(ValueError, match=r"^CL_SERVER_DIR='/x.*expected a directory that exists"):
        _ = Config.CL_SERVER_DIR


def test_a_file_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CL_SERVER_DIR", str(tmp_path / "file"))

    with pytest.raises(ValueError, match="CL_SERVER_DIR"):
        _ = Config.CL_SERVER_DIR


def test_a_directory_that_is_not_writable_is_refused(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the answer of the system is what is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)

    with pytest.raises(ValueError, match=r"CL_SERVER_DIR=.*writable"):
        _ = Config.CL_SERVER_DIR


def test_nothing_is_made_by_reading(server_dir: Path) -> None:
    for name in BELOW_THE_DIRECTORY:
        value_of(name)

    assert list(server_dir.iterdir()) == []


def test_relative_paths_are_absolute_at_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CL_SERVER_DIR", "here")
    monkeypatch.setenv("COMPUTE_STORAGE_DIR", "work")
    monkeypatch.setenv("EXTERNAL_FILE_ROOTS", f"a{os.pathsep}/b")

    assert f"{tmp_path}/here" == Config.CL_SERVER_DIR
    assert f"{tmp_path}/here/media" == Config.MEDIA_STORAGE_DIR
    assert f"sqlite:///{tmp_path}/here/media_store.db" == Config.STORE_DATABASE_URL
    assert f"{tmp_path}/work" == Config.COMPUTE_STORAGE_DIR
    assert [f"{tmp_path}/a", "/b"] == Config.EXTERNAL_FILE_ROOTS


@pytest.mark.parametrize("name", ["a#b", "a b&c=d", "ü:@"])
def test_a_default_database_is_in_the_directory_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("CL_SERVER_DIR", str(tmp_path / name))

    engine = create_engine(Config.STORE_DATABASE_URL)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    engine.dispose()

    assert [path.name for path in (tmp_path / name).iterdir()] == ["media_store.db"]


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_directory_that_no_database_url_can_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("CL_SERVER_DIR", str(tmp_path / name))

    with pytest.raises(ValueError, match=r"CL_SERVER_DIR=.*'[?]'"):
        value_of("STORE_DATABASE_URL")


def test_values_are_read_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("CL_SERVER_DIR", str(folder))
        monkeypatch.setenv("MQTT_PORT", str(1000 + number))
        assert str(folder) == Config.CL_SERVER_DIR
        assert str(folder / "media") == Config.MEDIA_STORAGE_DIR
        assert 1000 + number == Config.MQTT_PORT


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MQTT_PORT", "CL_SERVER_DIR", "AUTH_DISABLED", "ADMIN_PASSWORD"):
        monkeypatch.setenv(name, "")

    assert Config.MQTT_PORT == 1883
    assert Config.AUTH_DISABLED is False
    assert Config.ADMIN_PASSWORD is None
    with pytest.raises(ValueError, match="not set"):
        _ = Config.CL_SERVER_DIR


def test_one_database_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/cl")

    for name in ("AUTH", "STORE", "WORKER"):
        assert value_of(f"{name}_DATABASE_URL") == "postgresql://db/cl"


def test_a_database_of_its_own_goes_before_the_one_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/cl")
    monkeypatch.setenv("STORE_DATABASE_URL", "sqlite:///store.db")

    assert Config.AUTH_DATABASE_URL == "postgresql://db/cl"
    assert Config.STORE_DATABASE_URL == "sqlite:///store.db"
    assert Config.WORKER_DATABASE_URL == "sqlite:///store.db"  # same as the store's
    monkeypatch.setenv("WORKER_DATABASE_URL", "sqlite:///worker.db")
    assert Config.WORKER_DATABASE_URL == "sqlite:///worker.db"


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize("text", ["many", "1.5", "-1", "", " "])
def test_a_malformed_number_is_named_with_its_value(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)

    if text == "":
        assert isinstance(value_of(name), int)
        return
    with pytest.raises(ValueError, match=rf"{name}={text!r}: expected a whole number"):
        value_of(name)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("WORKER_ID", "x" * 241, "1 to 240 printable characters"),
        ("WORKER_ID", "a\nb", "1 to 240 printable characters"),
        ("WORKER_ID", " ", "1 to 240 printable characters"),
        ("MQTT_TOPIC", "a/#", "an MQTT topic"),
        ("MQTT_TOPIC", "a/+/b", "an MQTT topic"),
        ("CAPABILITY_TOPIC_PREFIX", "a\x01", "an MQTT topic"),
    ],
)
def test_a_name_that_cannot_be_used_is_said(
    name: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)

    with pytest.raises(ValueError, match=f"{name}=.*expected {expected}"):
        value_of(name)


@pytest.mark.parametrize("text", ["0", "65536", "-1"])
def test_a_port_is_a_port(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PORT", text)

    with pytest.raises(ValueError, match="from 1 to 65535"):
        _ = Config.MQTT_PORT


@pytest.mark.parametrize("name", ["WORKER_LEASE_SECONDS", "WORKER_JOB_TIMEOUT_SECONDS"])
@pytest.mark.parametrize("text", ["soon", "nan", "inf", "0", "-3"])
def test_a_malformed_time_is_named(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)

    with pytest.raises(ValueError, match=rf"{name}='{text}': expected a number of seconds"):
        value_of(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("true", "True", "1", "yes", "on")]
    + [(text, False) for text in ("false", "FALSE", "0", "no", "off")],
)
def test_a_flag_is_read(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_DISABLED", text)
    monkeypatch.setenv("READ_AUTH_ENABLED", text)

    assert Config.AUTH_DISABLED is value
    assert Config.READ_AUTH_ENABLED is value


def test_a_flag_that_is_none_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_DISABLED", "maybe")

    with pytest.raises(ValueError, match="AUTH_DISABLED='maybe'"):
        _ = Config.AUTH_DISABLED


def test_a_list_of_tasks_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_SUPPORTED_TASKS", "image_resize, image_conversion,,")

    assert Config.WORKER_SUPPORTED_TASKS == ["image_resize", "image_conversion"]


def test_a_list_is_the_callers_own() -> None:
    Config.WORKER_SUPPORTED_TASKS.append("x")
    Config.EXTERNAL_FILE_ROOTS.append("/")

    assert Config.WORKER_SUPPORTED_TASKS == []
    assert Config.EXTERNAL_FILE_ROOTS == []


def test_the_algorithm_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALGORITHM", "none")

    assert Config.ALGORITHM == "ES256"


@pytest.mark.parametrize(
    ("name", "value"), [("MQTT_PORT", 99), ("WORKER_ID", "w"), ("ALGORITHM", "X")]
)
def test_a_test_may_replace_a_value(name: str, value: object) -> None:
    before = value_of(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, name, value)
        assert value_of(name) == value
    assert value_of(name) == before
    assert isinstance(vars(Config)[name], Setting)


def test_a_replaced_value_counts_where_others_come_from_it(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Config, "DATABASE_URL", "postgresql://db/all")
    assert Config.AUTH_DATABASE_URL == "postgresql://db/all"
    monkeypatch.setattr(Config, "STORE_DATABASE_URL", "sqlite:///mine.db")
    assert Config.WORKER_DATABASE_URL == "sqlite:///mine.db"


def test_the_settings_are_listed_with_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PORT", "1884")
    monkeypatch.setenv("ALGORITHM", "none")
    settings = Config.settings()

    assert settings["ALGORITHM"].source == "fixed"
    assert settings["MQTT_PORT"].source == "environment"
    assert settings["MQTT_BROKER"].source == "default"
    assert all(setting.name == name for name, setting in settings.items())
    assert all(setting.description.endswith(".") for setting in settings.values())
    assert {name for name, setting in settings.items() if setting.secret} >= {
        "ADMIN_PASSWORD",
        "MQTT_PASSWORD",
        "DATABASE_URL",
    }


def test_there_are_no_module_level_settings() -> None:
    assert not set(Config.settings()) & set(vars(config_module))


def test_importing_needs_no_environment() -> None:
    code = "from cl_server_shared import *; from cl_server_shared.models import Base"
    environment = {"PATH": os.defpath, "CL_SERVER_DIR": "/nowhere", "MQTT_PORT": "x"}

    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
