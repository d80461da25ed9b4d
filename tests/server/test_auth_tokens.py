"""Signing in, and which tokens are accepted."""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from argon2 import PasswordHasher
from auth_harness import ADMIN_PASSWORD, RunningAuth, assert_problem, bearer, running_auth
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt as second_opinion
from joserfc.jwk import ECKey, KeySet

from cl_server.auth.repository import open_users


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[RunningAuth]:
    with running_auth(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAuth]:
    """For tests that change nothing."""
    with running_auth(tmp_path_factory.mktemp("auth")) as running:
        yield running


def test_a_form_and_json_sign_in_alike(shared_auth: RunningAuth) -> None:
    fields = {"username": "admin", "password": ADMIN_PASSWORD}
    for answer in (
        shared_auth.client.post("/auth/token", data=fields),
        shared_auth.client.post("/auth/token", json=fields),
        shared_auth.client.post(
            "/auth/token", data={**fields, "grant_type": "password", "scope": ""}
        ),
        shared_auth.client.post(
            "/auth/token", files={name: (None, v) for name, v in fields.items()}
        ),
    ):
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"access_token", "token_type"}
        assert answer.json()["token_type"] == "bearer"


def test_the_token_says_what_clients_and_services_read(auth: RunningAuth) -> None:
    user = auth.add_user("ada", permissions=["media_store_read", "others_use_this"])
    token = auth.sign_in("ada", "ada's password")

    keys = KeySet.import_key_set(auth.client.get("/.well-known/jwks.json").json())
    checked = second_opinion.decode(token, keys, algorithms=["ES256"])

    assert checked.header["typ"] == "at+jwt"
    assert checked.header["kid"] == keys.keys[0].kid
    claims = checked.claims
    assert claims.keys() == {
        *("iss", "sub", "aud", "exp", "iat", "jti", "client_id"),
        *("id", "permissions", "is_admin"),
    }
    assert claims["sub"] == claims["id"] == str(user["id"])
    assert claims["permissions"] == ["media_store_read", "others_use_this"]
    assert claims["is_admin"] is False
    assert claims["exp"] - claims["iat"] == 1800


def test_the_key_is_published_as_pem_and_as_jwk(shared_auth: RunningAuth) -> None:
    published = shared_auth.client.get("/auth/public-key").json()
    assert published["algorithm"] == "ES256"
    assert published["public_key"] == Path(shared_auth.settings.public_key_path).read_text()

    answer = shared_auth.client.get("/.well-known/jwks.json")
    assert answer.headers["cache-control"] == "max-age=600"
    (jwk,) = answer.json()["keys"]
    assert "d" not in jwk
    assert jwk["kid"] == ECKey.import_key(published["public_key"]).thumbprint()


def forged(auth: RunningAuth, how: str) -> str:
    """A token that differs from a good one in one respect."""
    good = auth.sign_in("admin", ADMIN_PASSWORD)
    header = jwt.get_unverified_header(good)
    claims = jwt.decode(good, options={"verify_signature": False})
    ours: Any = Path(auth.settings.private_key_path).read_text()
    public_pem = Path(auth.settings.public_key_path).read_bytes()
    other = ec.generate_private_key(ec.SECP256R1())
    match how:
        case "alg none":
            return jwt.encode(claims, None, "none", {**header, "alg": "none"})
        case "HS256 with the public key as secret":
            return hs256(claims, {**header, "alg": "HS256"}, public_pem)
        case "another key under our kid":
            return jwt.encode(claims, other, "ES256", header)
        case "another key without a kid":
            return jwt.encode(claims, other, "ES256", {"typ": "at+jwt"})
        case "an unknown kid":
            return jwt.encode(claims, ours, "ES256", {**header, "kid": "other"})
        case "expired":
            return jwt.encode({**claims, "exp": int(time.time()) - 1}, ours, "ES256", header)
        case "another audience":
            return jwt.encode({**claims, "aud": "other"}, ours, "ES256", header)
        case "another issuer":
            return jwt.encode({**claims, "iss": "other"}, ours, "ES256", header)
        case "no expiry":
            del claims["exp"]
            return jwt.encode(claims, ours, "ES256", header)
        case "no access token":
            return jwt.encode(claims, ours, "ES256", {**header, "typ": "JWT"})
        case "jku" | "x5u" | "jwk":
            return jwt.encode(claims, ours, "ES256", {**header, how: "https://example.com/key"})
        case "crit":
            return jwt.encode(claims, ours, "ES256", {**header, "crit": ["exp"]})
        case "brackets in brackets":
            return f"{base64.urlsafe_b64encode(b'[' * 30_000).decode()}.e30.e30"
        case "changed claims":
            head, _, signature = good.split(".")
            return f"{head}.{encoded({**claims, 'sub': '2'})}.{signature}"
        case _:
            return how


def hs256(claims: dict[str, Any], header: dict[str, Any], secret: bytes) -> str:
    """By hand: no library signs with a public key as the secret."""
    import hashlib
    import hmac

    signed = f"{encoded(header)}.{encoded(claims)}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "how",
    [
        "alg none",
        "HS256 with the public key as secret",
        "another key under our kid",
        "another key without a kid",
        "an unknown kid",
        "expired",
        "another audience",
        "another issuer",
        "no expiry",
        "no access token",
        "jku",
        "x5u",
        "jwk",
        "crit",
        "changed claims",
        "brackets in brackets",
        "garbage",
        "a.b.c",
    ],
)
def test_a_token_that_does_not_hold_is_401(shared_auth: RunningAuth, how: str) -> None:
    answer = shared_auth.client.get("/users/me", headers=bearer(forged(shared_auth, how)))
    problem = assert_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert problem["detail"].startswith("the token is not accepted: ")


def test_our_key_without_a_kid_is_accepted(shared_auth: RunningAuth) -> None:
    good = shared_auth.sign_in("admin", ADMIN_PASSWORD)
    claims = jwt.decode(good, options={"verify_signature": False})
    key: Any = Path(shared_auth.settings.private_key_path).read_text()
    token = jwt.encode(claims, key, "ES256", {"typ": "at+jwt"})
    assert shared_auth.client.get("/users/me", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "Bearer "])
def test_a_header_that_is_no_bearer_token_is_401(shared_auth: RunningAuth, header: str) -> None:
    assert_problem(shared_auth.client.get("/users/me", headers={"Authorization": header}), 401)


def test_no_token_is_401(shared_auth: RunningAuth) -> None:
    for path in ("/users/me", "/users/", "/users/1"):
        assert_problem(shared_auth.client.get(path), 401)
    assert_problem(shared_auth.client.post("/auth/token/refresh"), 401)


def test_the_answer_does_not_tell_who_exists(auth: RunningAuth) -> None:
    auth.add_user("gone", is_active=False)
    tries = {
        "nobody": ("nobody", "x"),
        "wrong password": ("admin", "x"),
        "not active": ("gone", "gone's password"),
        "control character": ("a\x00b", "x"),
    }
    answers = {}
    for name, (username, password) in tries.items():
        answer = auth.client.post("/auth/token", data={"username": username, "password": password})
        answers[name] = assert_problem(answer, 401)
    assert len({json.dumps(problem) for problem in answers.values()}) == 1


def test_an_unknown_name_takes_as_long_as_a_wrong_password(shared_auth: RunningAuth) -> None:
    def seconds(username: str) -> float:
        began = time.perf_counter()
        shared_auth.client.post("/auth/token", data={"username": username, "password": "x"})
        return time.perf_counter() - began

    seconds("admin")
    pairs = [(seconds("admin"), seconds("nobody")) for _ in range(9)]
    known, unknown = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert unknown > known / 2


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"username": "admin"}, ["body", "password"]),
        ({"password": "x"}, ["body", "username"]),
        ({"username": "admin", "password": ""}, ["body", "password"]),
        ({"username": "admin", "password": "x" * 1025}, ["body", "password"]),
    ],
)
def test_missing_fields_are_named(
    shared_auth: RunningAuth, fields: dict[str, str], where: list[str]
) -> None:
    problem = assert_problem(shared_auth.client.post("/auth/token", data=fields), 422)
    assert [error["loc"] for error in problem["errors"]] == [where]
    assert "xxxx" not in json.dumps(problem)


def test_a_file_where_a_field_is_expected_is_named(shared_auth: RunningAuth) -> None:
    answer = shared_auth.client.post(
        "/auth/token", data={"username": "admin"}, files={"password": ("a.txt", b"secret")}
    )
    problem = assert_problem(answer, 422)
    assert [error["loc"] for error in problem["errors"]] == [["body", "password"]]


def test_long_passwords_and_accents_work(auth: RunningAuth) -> None:
    auth.add_user("zoë", password="é" * 512)
    # The same letters, typed on a keyboard that sends accents apart.
    assert auth.sign_in("zoe\u0308", "e\u0301" * 512)


def test_refresh_gives_what_the_user_may_do_now(auth: RunningAuth) -> None:
    signed_in = auth.as_user("ada", permissions=["media_store_read"])
    ada = auth.client.get("/users/me", headers=signed_in).json()
    auth.client.put(
        f"/users/{ada['id']}", data={"permissions": "media_store_write"}, headers=auth.as_admin()
    )

    answer = auth.client.post("/auth/token/refresh", headers=signed_in)

    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type"}
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert claims["permissions"] == ["media_store_write"]
    assert claims["sub"] == str(ada["id"])


@pytest.mark.parametrize("how", ["deactivated", "deleted"])
def test_who_is_no_longer_there_is_signed_out(auth: RunningAuth, how: str) -> None:
    signed_in = auth.as_user("ada")
    path = f"/users/{auth.client.get('/users/me', headers=signed_in).json()['id']}"
    if how == "deleted":
        assert auth.client.delete(path, headers=auth.as_admin()).status_code == 204
    else:
        auth.client.patch(path, json={"is_active": False}, headers=auth.as_admin())

    assert_problem(auth.client.get("/users/me", headers=signed_in), 401)
    assert_problem(auth.client.post("/auth/token/refresh", headers=signed_in), 401)
    assert_problem(
        auth.client.post("/auth/token", data={"username": "ada", "password": "ada's password"}),
        401,
    )


def test_a_hash_with_old_parameters_is_renewed_at_the_next_sign_in(auth: RunningAuth) -> None:
    user = auth.add_user("ada")
    users = open_users(auth.settings.database_url)
    try:
        old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("before")
        users.update_user(user["id"], password_hash=old)
        auth.sign_in("ada", "before")
        renewed = users.find_user(user["id"])
    finally:
        users.close()
    assert renewed is not None
    assert renewed.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    auth.sign_in("ada", "before")
