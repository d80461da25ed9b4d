"""`cl-server config`: values, sources, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_stack import plain_environment, run_command

from cl_server.cli.config import mask_password
from cl_server_shared.config import Config


def test_each_setting_is_shown_with_value_and_source(tmp_path: Path) -> None:
    environment = {
        **plain_environment(tmp_path),
        "CL_SERVER_DIR": str(tmp_path),
        "AUTH_PORT": "8100",
    }

    shown = run_command("config", "--json", environment=environment, cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    rows = {row["name"]: row for row in json.loads(shown.stdout)["settings"]}
    assert rows.keys() == Config.settings().keys()
    assert (rows["AUTH_PORT"]["value"], rows["AUTH_PORT"]["source"]) == (8100, "environment")
    assert (rows["STORE_PORT"]["value"], rows["STORE_PORT"]["source"]) == (8001, "default")
    assert rows["MEDIA_STORAGE_DIR"]["value"] == str(tmp_path / "media")


def test_no_secret_is_shown(tmp_path: Path) -> None:
    environment = {
        **plain_environment(tmp_path),
        "ADMIN_PASSWORD": "hunter2",
        "MQTT_PASSWORD": "hunter2",
        "DATABASE_URL": "postgresql://me:hunter2@db/cl",
        "CL_MQTT_URL": "mqtt://me:hunter2@broker:1883",
    }

    plain = run_command("config", environment=environment, cwd=tmp_path)
    document = run_command("config", "--json", environment=environment, cwd=tmp_path)

    assert "hunter2" not in plain.stdout + plain.stderr + document.stdout + document.stderr
    assert "postgresql://me:***@db/cl" in plain.stdout


def test_what_needs_a_directory_says_so_without_one(tmp_path: Path) -> None:
    shown = run_command("config", environment=plain_environment(tmp_path), cwd=tmp_path)

    assert shown.returncode == 0
    assert "MEDIA_STORAGE_DIR\t(needs CL_SERVER_DIR)\tdefault" in shown.stdout


def test_a_malformed_setting_fails_and_is_named(tmp_path: Path) -> None:
    environment = {**plain_environment(tmp_path), "AUTH_PORT": "eighty"}

    shown = run_command("config", environment=environment, cwd=tmp_path)

    assert shown.returncode == 1
    assert "AUTH_PORT='eighty': expected a whole number from 1 to 65535" in shown.stderr
    assert "STORE_PORT\t8001\tdefault" in shown.stdout


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////data/user_auth.db", "sqlite:////data/user_auth.db"),
        ("postgresql://db/cl", "postgresql://db/cl"),
        ("postgresql://me@db/cl", "postgresql://me@db/cl"),
        ("postgresql://me:p@ss@db/cl", "postgresql://me:***@db/cl"),
        (
            "postgresql://db/cl?user=me&password=secret&x=1",
            "postgresql://db/cl?user=me&password=***&x=1",
        ),
    ],
)
def test_a_password_in_a_url_is_masked(url: str, shown: str) -> None:
    assert mask_password(url) == shown
