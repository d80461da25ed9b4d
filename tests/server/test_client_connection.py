"""Which server a command talks to, and whose token it gets."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest

from cl_server.cli.connection import connect, find_server, make_sign_in
from cl_server.client.local_server import LocalServer, write_local_server
from cl_server.client.tokens import SignIn, write_sign_in

OPTION, ENVIRONMENT, NOTE, SAVED = (
    "http://option",
    "http://environment",
    "http://note",
    "http://saved",
)


@pytest.fixture(autouse=True)
def config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "cl-server"


def leave_note(config_dir: Path, server_dir: Path) -> None:
    write_local_server(
        config_dir,
        LocalServer(
            auth_url=f"{NOTE}:8000",
            store_url=f"{NOTE}:8001",
            compute_url=f"{NOTE}:8001/compute",
            mqtt_url="",
            server_dir=str(server_dir),
            pid=os.getpid(),
            token="note's",
        ),
    )


def sign_in(config_dir: Path) -> None:
    now = int(time.time() * 1000)
    write_sign_in(
        config_dir, SignIn(f"{SAVED}:8000", f"{SAVED}:8001", "me", "saved one's", now, now + 60_000)
    )


def token_of(*, store_url: str | None = None, auth_url: str | None = None) -> str | None:
    with connect(store_url=store_url, auth_url=auth_url) as client:
        return client._transport.token()


def test_the_nearest_source_wins(
    config_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        return find_server(store_url=None, auth_url=None).store_url

    assert found() == "http://127.0.0.1:8001"
    sign_in(config_dir)
    assert found() == f"{SAVED}:8001"
    leave_note(config_dir, tmp_path / "other")
    assert found() == f"{NOTE}:8001"
    monkeypatch.setenv("CL_SERVER_DIR", str(tmp_path))
    monkeypatch.setenv("STORE_PORT", "9001")
    assert found() == "http://127.0.0.1:9001"
    leave_note(config_dir, tmp_path)
    assert found() == f"{NOTE}:8001"
    monkeypatch.setenv("CL_STORE_URL", f"{ENVIRONMENT}:8001/")
    assert found() == f"{ENVIRONMENT}:8001"
    assert find_server(store_url=OPTION, auth_url=None).store_url == OPTION


def test_the_other_address_is_that_of_the_same_server(config_dir: Path, tmp_path: Path) -> None:
    leave_note(config_dir, tmp_path)
    sign_in(config_dir)

    assert find_server(store_url=f"{SAVED}:8001", auth_url=None).auth_url == f"{SAVED}:8000"
    assert find_server(store_url=None, auth_url=f"{SAVED}:8000").store_url == f"{SAVED}:8001"


def test_a_token_goes_only_to_the_server_it_is_from(config_dir: Path, tmp_path: Path) -> None:
    assert token_of() is None
    sign_in(config_dir)
    assert token_of() == "saved one's"
    leave_note(config_dir, tmp_path)
    assert token_of() == "note's"
    assert token_of(store_url=f"{SAVED}:8001/") == "saved one's"
    assert token_of(store_url=OPTION) is None
    assert token_of(store_url=f"{SAVED}:8001", auth_url=OPTION) is None


def test_a_server_that_listens_everywhere_is_reached_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CL_SERVER_DIR", str(tmp_path))
    monkeypatch.setenv("CL_SERVER_HOST", "0.0.0.0")

    assert find_server(store_url=None, auth_url=None).auth_url == "http://127.0.0.1:8000"


def test_a_sign_in_ends_by_this_machines_clock() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"iat": 10, "exp": 70}).encode()).decode()
    server = find_server(store_url=None, auth_url=None)

    made = make_sign_in(server, "me", f"x.{claims.rstrip('=')}.y")

    assert made.expires_at - made.issued_at == 60_000
    assert abs(made.issued_at - time.time() * 1000) < 60_000
