"""Who may do what, and that it is decided before the body is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from auth_harness import ADMIN_PASSWORD, assert_problem, bearer, running_auth
from fastapi import APIRouter, Request
from http_harness import PEOPLE, small_service
from pydantic import BaseModel
from starlette.testclient import TestClient
from starlette.types import Message

from cl_server.http.access import (
    ANYONE,
    SIGNED_IN,
    AccessPolicy,
    CurrentIdentity,
    find_identity,
    requires,
)
from cl_server.http.errors import Unauthorized, Unavailable
from cl_server.http.fields import fields_of
from cl_server.http.tokens import TokenVerifier

EVERYONE = [None, *PEOPLE]

# Which status each gets, by what the route needs.
EXPECTED = {
    "anyone": dict.fromkeys(EVERYONE, 200),
    "signed-in": {**dict.fromkeys(EVERYONE, 200), None: 401},
    "media_store_read": {**dict.fromkeys(EVERYONE, 200), None: 401, "nothing": 403},
    "media_store_write": {
        None: 401,
        "reader": 403,
        "writer": 200,
        "admin": 200,
        "star": 200,
        "nothing": 403,
    },
    "admin": {
        None: 401,
        "reader": 403,
        "writer": 403,
        "admin": 200,
        "star": 200,
        "nothing": 403,
    },
}
NEEDS: dict[str, Any] = {"anyone": ANYONE, "signed-in": SIGNED_IN}


class Anything(BaseModel):
    """Takes every body."""


def router_with_every_need() -> APIRouter:
    router = APIRouter()
    for name in EXPECTED:

        @router.post(f"/{name}")
        @requires(NEEDS.get(name, name))
        async def answer(
            request: Request, _fields: Annotated[Anything, fields_of(Anything)]
        ) -> str | None:
            identity = find_identity(request)
            return identity.sub if identity else None

    return router


def headers_of(person: str | None) -> dict[str, str]:
    return bearer(person) if person else {}


@pytest.mark.parametrize("need", EXPECTED)
@pytest.mark.parametrize("person", EVERYONE)
def test_each_route_as_each_role(need: str, person: str | None) -> None:
    client = TestClient(small_service(router_with_every_need()))
    answer = client.post(f"/{need}", headers=headers_of(person))
    assert answer.status_code == EXPECTED[need][person]
    if answer.status_code == 200:
        is_known = person is not None and need != "anyone"
        assert answer.json() == (PEOPLE[str(person)].sub if is_known else None)
    else:
        assert_problem(answer, EXPECTED[need][person])


@pytest.mark.parametrize("need", EXPECTED)
@pytest.mark.parametrize("person", [*EVERYONE, "a bad token"])
def test_auth_disabled_opens_all(need: str, person: str | None) -> None:
    app = small_service(router_with_every_need(), policy=AccessPolicy(auth_disabled=True))
    answer = TestClient(app).post(f"/{need}", headers=headers_of(person))
    assert (answer.status_code, answer.json()) == (200, "0")


def test_guest_mode_opens_the_reading_of_media_alone() -> None:
    is_on = True
    policy = AccessPolicy(guest_mode=lambda: is_on)
    client = TestClient(small_service(router_with_every_need(), policy=policy))

    for person in (None, "nothing", "a bad token"):
        assert client.post("/media_store_read", headers=headers_of(person)).status_code == 200
    for need in ("signed-in", "media_store_write", "admin"):
        assert_problem(client.post(f"/{need}"), 401)

    is_on = False
    assert_problem(client.post("/media_store_read"), 401)


def test_a_bad_token_is_named_where_one_is_needed() -> None:
    client = TestClient(small_service(router_with_every_need()))
    problem = assert_problem(client.post("/signed-in", headers=bearer("forged")), 401)
    assert "not accepted" in problem["detail"]


def test_a_route_that_declares_nothing_is_refused() -> None:
    router = APIRouter()

    @router.get("/forgotten")
    def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match=r"/forgotten.* declares no access"):
        small_service(router)


def test_one_router_serves_several_applications_each_with_its_own_policy() -> None:
    router = router_with_every_need()
    closed = TestClient(small_service(router))
    opened = TestClient(small_service(router, policy=AccessPolicy(auth_disabled=True)))
    assert opened.post("/admin").status_code == 200
    assert closed.post("/admin").status_code == 401


def test_a_guest_is_nobody_where_somebody_is_needed() -> None:
    router = APIRouter()

    @router.get("/mine")
    @requires("media_store_read")
    def mine(identity: CurrentIdentity) -> str:
        return identity.sub

    client = TestClient(small_service(router, policy=AccessPolicy(guest_mode=lambda: True)))
    assert_problem(client.get("/mine"), 401)


@pytest.mark.parametrize(("person", "status"), [(None, 401), ("reader", 403)])
async def test_no_byte_of_the_body_is_read_before_the_answer(
    person: str | None, status: int
) -> None:
    app = small_service(router_with_every_need())
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/media_store_write",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", b"1000000000"),
            *([(b"authorization", f"Bearer {person}".encode())] if person else []),
        ],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == status


def test_a_service_that_starts_before_auth_says_so_then_works(tmp_path: Path) -> None:
    verifier = TokenVerifier(tmp_path / "public_key.pem")
    with pytest.raises(Unavailable, match="no keys yet"):
        verifier.verify("any token")
    with running_auth(tmp_path) as auth:
        assert verifier.verify(auth.sign_in("admin", ADMIN_PASSWORD)).is_admin


def test_new_keys_are_taken_up_without_a_restart(tmp_path: Path) -> None:
    verifier = TokenVerifier(tmp_path / "public_key.pem")
    with running_auth(tmp_path) as auth:
        before = auth.sign_in("admin", ADMIN_PASSWORD)
        verifier.verify(before)
    for name in ("private_key.pem", "public_key.pem"):
        (tmp_path / name).unlink()
    with running_auth(tmp_path) as auth:
        verifier.verify(auth.sign_in("admin", ADMIN_PASSWORD))
        with pytest.raises(Unauthorized, match="not ours"):
            verifier.verify(before)
