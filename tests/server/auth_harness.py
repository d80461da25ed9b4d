"""The auth service as its tests use it: in this process, on databases of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from starlette.testclient import TestClient

from cl_server.auth.app import create_app
from cl_server.auth.service import FirstAdmin
from cl_server.auth.settings import AuthSettings

ADMIN_PASSWORD = "the admin's own password"


def settings_in(directory: Path, **changes: Any) -> AuthSettings:
    settings = AuthSettings(
        database_url=f"sqlite:///{directory}/user_auth.db",
        private_key_path=str(directory / "private_key.pem"),
        public_key_path=str(directory / "public_key.pem"),
        token_lifetime_seconds=1800,
        admin_username="admin",
        admin_password=ADMIN_PASSWORD,
        auth_disabled=False,
    )
    return replace(settings, **changes)


@dataclass
class RunningAuth:
    client: TestClient
    settings: AuthSettings
    shown: list[FirstAdmin]

    def sign_in(self, username: str, password: str) -> str:
        answer = self.client.post("/auth/token", data={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def as_admin(self) -> dict[str, str]:
        return bearer(self.sign_in("admin", ADMIN_PASSWORD))

    def add_user(self, username: str, **fields: Any) -> dict[str, Any]:
        body = {"username": username, "password": f"{username}'s password", **fields}
        answer = self.client.post("/users/", json=body, headers=self.as_admin())
        assert answer.status_code == 201, answer.text
        user: dict[str, Any] = answer.json()
        return user

    def as_user(self, username: str, **fields: Any) -> dict[str, str]:
        self.add_user(username, **fields)
        return bearer(self.sign_in(username, f"{username}'s password"))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    assert ("errors" in problem) == (status == 422)
    return problem


@contextmanager
def running_auth(directory: Path, **changes: Any) -> Iterator[RunningAuth]:
    settings = settings_in(directory, **changes)
    shown: list[FirstAdmin] = []
    with TestClient(create_app(settings, show_first_admin=shown.append)) as client:
        yield RunningAuth(client, settings, shown)
