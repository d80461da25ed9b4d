"""Looking after users, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from auth_harness import RunningAuth, assert_problem, running_auth

from cl_server.auth.errors import LastAdmin
from postgresql_server import PostgresqlServer

EVERY_WAY = ["sqlite", "postgresql"]


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[RunningAuth]:
    with running_auth(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAuth]:
    """For tests that change nothing."""
    with running_auth(tmp_path_factory.mktemp("auth")) as running:
        yield running


@pytest.fixture(params=EVERY_WAY)
def auth_anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningAuth]:
    if request.param == "sqlite":
        with running_auth(tmp_path) as running:
            yield running
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        with server.database(with_tables=False) as url:
            with running_auth(tmp_path, database_url=url) as running:
                yield running


def test_users_are_made_listed_changed_and_removed(auth_anywhere: RunningAuth) -> None:
    client, admin = auth_anywhere.client, auth_anywhere.as_admin()

    made = client.post(
        "/users/", json={"username": "ada", "password": "pw", "permissions": ["a"]}, headers=admin
    )
    assert made.status_code == 201
    user = made.json()
    assert user == {
        "id": user["id"],
        "username": "ada",
        "is_admin": False,
        "is_active": True,
        "created_at": user["created_at"],
        "permissions": ["a"],
    }
    assert datetime.fromisoformat(user["created_at"]).tzinfo is not None

    path = f"/users/{user['id']}"
    assert client.get(path, headers=admin).json() == user
    assert [each["username"] for each in client.get("/users/", headers=admin).json()] == [
        "admin",
        "ada",
    ]
    for change in (client.put, client.patch):
        answer = change(path, json={"is_active": False}, headers=admin)
        assert (answer.status_code, answer.json()) == (200, {**user, "is_active": False})

    assert client.delete(path, headers=admin).status_code == 204
    for answer in (
        client.get(path, headers=admin),
        client.delete(path, headers=admin),
        client.patch(path, json={"is_active": True}, headers=admin),
    ):
        assert_problem(answer, 404)


def test_a_name_that_no_database_can_hold_is_nobodys(auth_anywhere: RunningAuth) -> None:
    answer = auth_anywhere.client.post("/auth/token", json={"username": "a\0b", "password": "x"})
    assert_problem(answer, 401)


def test_an_id_is_never_given_twice(auth_anywhere: RunningAuth) -> None:
    first = auth_anywhere.add_user("ada")["id"]
    auth_anywhere.client.delete(f"/users/{first}", headers=auth_anywhere.as_admin())
    assert auth_anywhere.add_user("ada")["id"] > first


def test_a_taken_name_is_400(auth_anywhere: RunningAuth) -> None:
    auth_anywhere.add_user("zo\u00eb")
    for same in ("zo\u00eb", "zoe\u0308"):
        answer = auth_anywhere.client.post(
            "/users/", data={"username": same, "password": "x"}, headers=auth_anywhere.as_admin()
        )
        assert "is taken" in assert_problem(answer, 400)["detail"]


def test_the_first_admin_has_every_permission(shared_auth: RunningAuth) -> None:
    me = shared_auth.client.get("/users/me", headers=shared_auth.as_admin()).json()
    assert (me["username"], me["is_admin"], me["permissions"]) == ("admin", True, ["*"])


def test_everything_is_every_admins_and_nobody_elses(auth_anywhere: RunningAuth) -> None:
    client, admin = auth_anywhere.client, auth_anywhere.as_admin()
    path = f"/users/{auth_anywhere.add_user('ada', permissions=['a'])['id']}"

    def change(**fields: Any) -> Any:
        answer = client.patch(path, json=fields, headers=admin)
        assert answer.status_code == 200, answer.text
        assert client.get(path, headers=admin).json() == answer.json()
        return answer.json()["permissions"]

    assert change(is_admin=True) == ["*", "a"]
    assert change(permissions=["b", "*"]) == ["*", "b"]
    assert change(is_admin=False) == ["b"]
    assert auth_anywhere.add_user("eve", is_admin=True)["permissions"] == ["*"]
    for answer in (
        client.patch(path, json={"permissions": ["*"]}, headers=admin),
        client.patch("/users/1", json={"is_admin": False, "permissions": ["*"]}, headers=admin),
        client.post(
            "/users/", data={"username": "x", "password": "x", "permissions": "*"}, headers=admin
        ),
    ):
        assert assert_problem(answer, 422)["errors"][0]["loc"] == ["body", "permissions"]
    assert change() == ["b"]


@pytest.mark.parametrize(
    "given",
    ['["a", "b"]', "a,b", "[a, b]", " a , b ,", "[a,b,a]"],
)
def test_permissions_in_a_form_are_read_in_every_notation(auth: RunningAuth, given: str) -> None:
    answer = auth.client.post(
        "/users/",
        data={"username": "ada", "password": "x", "permissions": given},
        headers=auth.as_admin(),
    )
    assert answer.json()["permissions"] == ["a", "b"]


def test_a_repeated_form_field_is_a_list(auth: RunningAuth) -> None:
    answer = auth.client.post(
        "/users/",
        data={"username": "ada", "password": "x", "permissions": ["a", "b"]},
        headers=auth.as_admin(),
    )
    assert answer.json()["permissions"] == ["a", "b"]


def test_an_empty_form_value_is_null_and_an_absent_one_unchanged(auth: RunningAuth) -> None:
    path = f"/users/{auth.add_user('ada', permissions=['a'])['id']}"
    admin = auth.as_admin()

    kept = auth.client.put(path, data={"is_active": "true"}, headers=admin)
    assert kept.json()["permissions"] == ["a"]
    cleared = auth.client.put(path, data={"permissions": ""}, headers=admin)
    assert cleared.json()["permissions"] == []
    auth.client.put(path, json={"permissions": ["b"]}, headers=admin)
    assert (
        auth.client.put(path, json={"permissions": None}, headers=admin).json()["permissions"] == []
    )
    problem = assert_problem(auth.client.put(path, data={"password": ""}, headers=admin), 422)
    assert problem["errors"][0]["loc"] == ["body", "password"]


def test_a_new_user_needs_no_more_than_a_name_and_a_password(auth: RunningAuth) -> None:
    answer = auth.client.post(
        "/users/",
        data={"username": "a", "password": "b", "is_admin": "", "is_active": "", "permissions": ""},
        headers=auth.as_admin(),
    )
    user = answer.json()
    assert (user["is_admin"], user["is_active"], user["permissions"]) == (False, True, [])


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"username": ""}, ["username"]),
        ({"username": "x" * 151}, ["username"]),
        ({"username": "a\nb"}, ["username"]),
        ({"username": "a\u202eb"}, ["username"]),
        ({"username": "a\x00"}, ["username"]),
        ({"username": " a"}, ["username"]),
        ({"username": "\ud800"}, ["username"]),
        ({"password": "x" * 1025}, ["password"]),
        ({"password": "\ud800"}, ["password"]),
        ({"permissions": ["a\nb"]}, ["permissions"]),
        ({"permissions": [1]}, ["permissions"]),
        ({"permissions": {"a": 1}}, ["permissions"]),
        ({"permissions": '{"a": 1}'}, ["permissions"]),
        ({"permissions": '["a'}, ["permissions"]),
        ({"permissions": '["a", "b'}, ["permissions"]),
        ({"permissions": '["a]'}, ["permissions"]),
        ({"permissions": "[a, b"}, ["permissions"]),
        ({"permissions": "a, b]"}, ["permissions"]),
        ({"permissions": "[[a], b]"}, ["permissions"]),
        ({"permissions": "[" * 100_000 + "]" * 100_000}, ["permissions"]),
        ({"permissions": [f"p{n}" for n in range(201)]}, ["permissions"]),
        ({"is_admin": "perhaps"}, ["is_admin"]),
        ({"is_amdin": True}, ["is_amdin"]),
        ({"is_admin": 7, "is_active": 7}, ["is_admin", "is_active"]),
    ],
)
def test_wrong_fields_are_each_named(
    shared_auth: RunningAuth, fields: dict[str, Any], wrong: list[str]
) -> None:
    body = json.dumps({"username": "ada", "password": "pw", **fields})
    answer = shared_auth.client.post(
        "/users/",
        content=body,
        headers={**shared_auth.as_admin(), "Content-Type": "application/json"},
    )
    problem = assert_problem(answer, 422)
    assert [error["loc"][:2] for error in problem["errors"]] == [["body", name] for name in wrong]
    assert all({"loc", "msg", "type"} == error.keys() for error in problem["errors"])


def test_the_list_comes_in_parts(auth: RunningAuth) -> None:
    for name in ("a", "b", "c"):
        auth.add_user(name)
    admin = auth.as_admin()
    part = auth.client.get("/users/?skip=1&limit=2", headers=admin).json()
    assert [user["username"] for user in part] == ["a", "b"]
    for query in ("skip=-1", "limit=0", "limit=1001", "skip=99999999999999999999", "limit=x"):
        problem = assert_problem(auth.client.get(f"/users/?{query}", headers=admin), 422)
        assert problem["errors"][0]["loc"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize(
    ("user_id", "status"), [("0", 404), ("-1", 404), (str(2**63), 404), ("9" * 60, 404), ("x", 422)]
)
def test_ids_that_cannot_be_are_no_error_of_ours(
    shared_auth: RunningAuth, user_id: str, status: int
) -> None:
    path, admin = f"/users/{user_id}", shared_auth.as_admin()
    assert_problem(shared_auth.client.get(path, headers=admin), status)
    assert_problem(shared_auth.client.delete(path, headers=admin), status)
    assert_problem(shared_auth.client.put(path, json={"is_active": True}, headers=admin), status)


def test_only_an_admin_looks_after_users(auth: RunningAuth) -> None:
    user = auth.as_user("ada", permissions=["media_store_read", "media_store_write"])
    for method, path in (
        ("GET", "/users/"),
        ("POST", "/users/"),
        ("GET", "/users/1"),
        ("PUT", "/users/1"),
        ("PATCH", "/users/1"),
        ("DELETE", "/users/1"),
    ):
        assert_problem(auth.client.request(method, path, headers=user), 403)


def test_a_demoted_admin_is_none_although_the_token_says_so(auth: RunningAuth) -> None:
    second = auth.as_user("second", is_admin=True, permissions=["*", "admin", "other"])
    path = f"/users/{auth.client.get('/users/me', headers=second).json()['id']}"

    demoted = auth.client.patch(path, json={"is_admin": False}, headers=auth.as_admin()).json()

    assert demoted["permissions"] == ["other"]
    assert_problem(auth.client.patch(path, json={"is_admin": True}, headers=second), 403)


@pytest.mark.parametrize("change", [{"is_admin": False}, {"is_active": False}, None])
def test_the_last_active_admin_stays(
    auth_anywhere: RunningAuth, change: dict[str, bool] | None
) -> None:
    client, admin = auth_anywhere.client, auth_anywhere.as_admin()
    auth_anywhere.add_user("asleep", is_admin=True, is_active=False)

    if change is None:
        answer = client.delete("/users/1", headers=admin)
    else:
        answer = client.put("/users/1", json={**change, "password": "new"}, headers=admin)

    assert "last active admin" in assert_problem(answer, 409)["detail"]
    assert client.get("/users/1", headers=auth_anywhere.as_admin()).json()["is_admin"] is True


def test_admins_who_remove_each_other_at_once_leave_one(auth_anywhere: RunningAuth) -> None:
    client, admin = auth_anywhere.client, auth_anywhere.as_admin()
    ids = [1, *(auth_anywhere.add_user(f"admin{n}", is_admin=True)["id"] for n in range(5))]
    service = client.app.state.service  # type: ignore[attr-defined]

    def demote(user_id: int) -> bool:
        try:
            if user_id % 2:
                service.users.delete_user(user_id)
            else:
                service.users.update_user(user_id, is_active=False)
        except LastAdmin:
            return False
        return True

    assert client.get("/users/", headers=admin).status_code == 200
    with ThreadPoolExecutor(len(ids)) as pool:
        done = list(pool.map(demote, ids))
    assert done.count(False) == 1
    left = service.users.find_oldest_admin()
    assert left is not None and left.id == ids[done.index(False)]
