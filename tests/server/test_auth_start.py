"""The auth service's first start, its keys, and what is done on its own machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import jwt
import pytest
from auth_harness import (
    ADMIN_PASSWORD,
    RunningAuth,
    assert_problem,
    bearer,
    running_auth,
    settings_in,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import FastAPI
from starlette.testclient import TestClient

from cl_server.auth.app import create_app
from cl_server.auth.errors import KeyFileError, UnknownUser
from cl_server.auth.keys import load_or_make_keys
from cl_server.auth.local import set_password
from cl_server.auth.local_token import issue_local_token
from cl_server.auth.service import FirstAdmin
from cl_server_shared.errors import InvalidSetting
from postgresql_server import PostgresqlServer


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[RunningAuth]:
    with running_auth(tmp_path) as running:
        yield running


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# The first administrator.


def test_a_random_password_is_shown_at_the_first_start_only(tmp_path: Path) -> None:
    with running_auth(tmp_path, admin_username="root", admin_password=None) as auth:
        (admin,) = auth.shown
        assert admin.username == "root"
        assert admin.password is not None and len(admin.password) >= 20
        auth.sign_in("root", admin.password)
    with running_auth(tmp_path, admin_username="root", admin_password=None) as auth:
        assert auth.shown == []
        auth.sign_in("root", admin.password)
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert admin.password.encode() not in kept


def test_the_operators_own_password_is_not_shown(auth: RunningAuth) -> None:
    assert auth.shown == []
    auth.sign_in("admin", ADMIN_PASSWORD)


def test_a_later_password_setting_changes_nothing(tmp_path: Path) -> None:
    with running_auth(tmp_path):
        pass
    with running_auth(tmp_path, admin_username="other", admin_password="other") as auth:
        auth.sign_in("admin", ADMIN_PASSWORD)
        refused = auth.client.post("/auth/token", data={"username": "other", "password": "other"})
        assert_problem(refused, 401)


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("admin_username", "a\tb", "ADMIN_USERNAME='a\\tb'"),
        ("admin_password", "x" * 1025, "ADMIN_PASSWORD: expected at most 1024"),
    ],
)
def test_a_first_admin_that_cannot_be_is_named(
    tmp_path: Path, setting: str, value: str, named: str
) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(named)):
        with running_auth(tmp_path, **{setting: value}):
            pass


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_services_that_start_at_once_make_one_admin_and_one_key(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    shown: list[FirstAdmin] = []

    def start(app: FastAPI) -> str:
        with TestClient(app) as client:
            return client.get("/auth/public-key").text

    def start_all(url: str) -> None:
        settings = settings_in(tmp_path, database_url=url, admin_password=None)
        apps = [create_app(settings, show_first_admin=shown.append) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            keys = set(pool.map(start, apps))
        assert len(keys) == len(shown) == 1

    if database == "sqlite":
        start_all(settings_in(tmp_path).database_url)
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        with server.database(with_tables=False) as url:
            start_all(url)


# Keys.


def test_what_is_secret_is_the_owners_only(auth: RunningAuth, tmp_path: Path) -> None:
    names = {file.name for file in tmp_path.iterdir()}
    assert {"private_key.pem", "public_key.pem", "user_auth.db"} <= names
    assert {mode_of(file) for file in tmp_path.iterdir()} == {0o600}
    assert not [name for name in names if name.startswith(".")]


def test_the_keys_stay_the_same(tmp_path: Path) -> None:
    files = [tmp_path / "private_key.pem", tmp_path / "public_key.pem"]
    load_or_make_keys(*files)
    before = [file.read_bytes() for file in files]
    load_or_make_keys(*files)
    assert [file.read_bytes() for file in files] == before


def test_a_missing_public_key_is_written_anew(tmp_path: Path) -> None:
    private, public = tmp_path / "private_key.pem", tmp_path / "public_key.pem"
    made = load_or_make_keys(private, public)
    public.unlink()
    assert load_or_make_keys(private, public).public_pem == made.public_pem
    assert public.read_text() == made.public_pem
    assert mode_of(public) == 0o600


EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("private", "public", "named"),
    [
        (b"garbage", public_pem(EC), "private_key.pem is no private key"),
        (b"", public_pem(EC), "private_key.pem is no private key"),
        (private_pem(EC), b"garbage", "public_key.pem is no public key"),
        (private_pem(EC), public_pem(OTHER), "do not belong together"),
        (private_pem(P384), public_pem(P384), "private_key.pem holds no P-256 key"),
        (private_pem(RSA), public_pem(RSA), "private_key.pem holds no P-256 key"),
        (private_pem(EC), public_pem(RSA), "public_key.pem holds no P-256 key"),
        (None, public_pem(EC), "private_key.pem is not: restore it"),
    ],
)
def test_key_files_that_cannot_be_used_stop_the_service_and_stay(
    tmp_path: Path, private: bytes | None, public: bytes, named: str
) -> None:
    files = {tmp_path / "private_key.pem": private, tmp_path / "public_key.pem": public}
    for file, content in files.items():
        if content is not None:
            file.write_bytes(content)

    with pytest.raises(KeyFileError, match=named):
        with running_auth(tmp_path):
            pass

    for file, content in files.items():
        assert (file.read_bytes() if file.exists() else None) == content


def test_a_key_file_that_cannot_be_read_stops_the_service(tmp_path: Path) -> None:
    (tmp_path / "private_key.pem").mkdir()
    with pytest.raises(KeyFileError, match="cannot be read: Is a directory"):
        with running_auth(tmp_path):
            pass


def test_a_dangling_link_is_not_taken_for_a_first_start(tmp_path: Path) -> None:
    (tmp_path / "private_key.pem").symlink_to(tmp_path / "unmounted" / "key.pem")
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_or_make_keys(tmp_path / "private_key.pem", tmp_path / "public_key.pem")
    assert not (tmp_path / "public_key.pem").exists()


# On the machine itself.


def test_a_new_password_holds_at_once(auth: RunningAuth) -> None:
    url = auth.settings.database_url
    assert set_password(url, "admin", "chosen") == "chosen"
    auth.sign_in("admin", "chosen")
    made = set_password(url, "admin")
    auth.sign_in("admin", made)
    old = auth.client.post("/auth/token", data={"username": "admin", "password": "chosen"})
    assert_problem(old, 401)


def test_a_password_for_nobody_is_refused(auth: RunningAuth, tmp_path: Path) -> None:
    with pytest.raises(UnknownUser, match="no user 'nobody'"):
        set_password(auth.settings.database_url, "nobody")
    with pytest.raises(ValueError, match="1 to 1024"):
        set_password(auth.settings.database_url, "admin", "")
    with pytest.raises(UnknownUser, match="start the server once"):
        set_password(f"sqlite:///{tmp_path}/none.db", "admin")
    assert not (tmp_path / "none.db").exists()


def test_the_local_token_is_the_admins_without_admin_rights(auth: RunningAuth) -> None:
    token = issue_local_token(auth.settings)
    claims = jwt.decode(token.access_token, options={"verify_signature": False})
    assert claims["sub"] == "1"
    assert claims["is_admin"] is False
    assert claims["permissions"] == [
        "ai_inference_support",
        "media_store_read",
        "media_store_write",
    ]
    assert token.expires_in == auth.settings.token_lifetime_seconds

    headers = bearer(token.access_token)
    assert auth.client.get("/users/me", headers=headers).json()["username"] == "admin"
    assert_problem(auth.client.get("/users/", headers=headers), 403)


def test_refreshing_the_local_token_gives_no_more_rights(auth: RunningAuth) -> None:
    headers = bearer(issue_local_token(auth.settings).access_token)
    refreshed = auth.client.post("/auth/token/refresh", headers=headers).json()["access_token"]
    assert_problem(auth.client.get("/users/", headers=bearer(refreshed)), 403)


def test_the_local_token_is_another_admins_once_the_first_is_gone(auth: RunningAuth) -> None:
    second = auth.add_user("second", is_admin=True)
    auth.client.patch("/users/1", json={"is_active": False}, headers=auth.as_admin())
    token = issue_local_token(auth.settings).access_token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == str(second["id"])


def test_the_local_token_needs_a_service_that_has_started(tmp_path: Path) -> None:
    with pytest.raises(UnknownUser, match="start the server once"):
        issue_local_token(settings_in(tmp_path))


# Without sign-in.


def test_auth_disabled_opens_all_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_auth(tmp_path, auth_disabled=True) as auth:
        assert "AUTH_DISABLED" in caplog.text
        assert auth.client.get("/healthz").json()["auth_disabled"] is True
        assert auth.client.get("/users/me").json()["username"] == "admin"
        assert len(auth.client.get("/users/").json()) == 1
        assert auth.client.post("/auth/token/refresh").status_code == 200
        added = auth.client.post("/users/", json={"username": "ada", "password": "x"})
        assert added.status_code == 201


def test_the_service_says_that_it_runs(auth: RunningAuth) -> None:
    root = auth.client.get("/").json()
    assert root["message"] == "authentication service is running"
    assert {"status", "version"} <= root.keys()
    assert auth.client.get("/healthz").json()["auth_disabled"] is False
    assert auth.client.get("/readyz").json() == {"status": "ready", "checks": {"database": "ok"}}


def test_it_is_not_ready_without_its_database(auth: RunningAuth, tmp_path: Path) -> None:
    auth.client.app.state.service.users.close()  # type: ignore[attr-defined]
    for file in tmp_path.glob("user_auth.db*"):
        file.unlink()
    (tmp_path / "user_auth.db").mkdir()
    problem = assert_problem(auth.client.get("/readyz"), 503)
    assert problem["checks"]["database"] != "ok"
    signing_in = auth.client.post("/auth/token", data={"username": "admin", "password": "x"})
    assert_problem(signing_in, 503)


def test_making_the_application_touches_nothing(tmp_path: Path) -> None:
    TestClient(create_app(settings_in(tmp_path)))
    assert list(tmp_path.iterdir()) == []


# The command.


@contextmanager
def cl_server_auth(directory: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "cl_server", "auth", "--port", environment.pop("port", "0")],
        env={**kept, "CL_SERVER_DIR": str(directory), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_it_listens(process: subprocess.Popen[str]) -> str:
    """Its address, from its log: JSON lines, since standard error is no terminal."""
    assert process.stderr is not None
    for line in process.stderr:
        message = json.loads(line)["message"]
        if "listens on" in message:
            return str(message.rpartition(" ")[2])
    raise AssertionError("it ended before it listened")


def test_the_command_shows_the_password_once_and_ends_with_sigterm(tmp_path: Path) -> None:
    shown = []
    for _ in range(2):
        with cl_server_auth(tmp_path) as process:
            url = wait_until_it_listens(process)
            assert httpx2.get(f"{url}/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=10)
            assert process.returncode == 0
            shown += re.findall(r"password +(\S+)\n", output)
    assert len(shown) == 1


def test_401_comes_before_the_body(tmp_path: Path) -> None:
    with cl_server_auth(tmp_path) as process:
        host, port = wait_until_it_listens(process).removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /users/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ADMIN_USERNAME": "a\tb"}, "ADMIN_USERNAME"),
        ({"ACCESS_TOKEN_EXPIRE_MINUTES": "soon"}, "ACCESS_TOKEN_EXPIRE_MINUTES='soon'"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL='LOUD'"),
        ({"CL_SERVER_DIR": "/nowhere"}, "CL_SERVER_DIR"),
        ({"PUBLIC_KEY_PATH": "/dev/null"}, "/dev/null is there, and"),
    ],
)
def test_what_stops_the_command_is_one_line_and_exit_code_2(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    with cl_server_auth(tmp_path, **environment) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if not line.startswith("{")]
    assert line.startswith("cl-server: ") and said in line


def test_a_port_in_use_stops_the_command_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with cl_server_auth(tmp_path, port=port) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.count("\n") == 1 and f"cannot listen on 127.0.0.1:{port}" in errors
    assert list(tmp_path.iterdir()) == []
