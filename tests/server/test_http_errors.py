"""Errors, bodies of fields, request ids, OpenAPI: what every service has."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from auth_harness import assert_problem
from fastapi import APIRouter
from http_harness import small_service
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.testclient import TestClient

from cl_server.http.access import ANYONE, requires
from cl_server.http.error_pages import problem_responses
from cl_server.http.errors import Conflict, Problem
from cl_server.http.fields import MAX_BODY_BYTES, body_of, fields_of
from cl_server.http.paging import PageQuery, Pagination, paginate
from cl_server.logs import bind_log_context, configure_logging
from cl_server_shared.errors import DatabaseBusy, InvalidSetting


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(default="unset", min_length=2)
    count: int = 1
    is_on: bool = False


def some_routes() -> APIRouter:
    router = APIRouter()

    @router.post("/fields", openapi_extra=body_of(Given))
    @requires(ANYONE)
    def fields(given: Annotated[Given, fields_of(Given)]) -> dict[str, Any]:
        return {**given.model_dump(), "sent": sorted(given.model_fields_set)}

    @router.get("/fields")
    @requires(ANYONE)
    def get_fields() -> None: ...

    @router.get("/broken")
    @requires(ANYONE)
    def broken() -> None:
        logging.getLogger("cl_server.test").info("about to break")
        raise RuntimeError("an internal secret")

    @router.get("/refused", responses=problem_responses(409))
    @requires(ANYONE)
    def refused() -> None:
        raise Conflict("not like this", extra={"hint": "otherwise"})

    @router.get("/busy")
    @requires(ANYONE)
    def busy() -> None:
        raise DatabaseBusy("held for long")

    @router.get("/pages")
    @requires(ANYONE)
    def pages(page: PageQuery, total: int) -> tuple[int, Pagination]:
        return page.offset, paginate(page, total)

    @router.get("/pages/all")
    @requires(ANYONE)
    def all_pages() -> None: ...

    @router.get("/pages/{number}")
    @router.delete("/pages/{number}")
    @requires(ANYONE)
    def one_page(number: Annotated[str, AfterValidator(refuse)]) -> None: ...

    return router


def refuse(text: str) -> str:
    raise ValueError(f"{text} is not a number")


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(small_service(some_routes())) as client:
        yield client


# Errors.


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("DELETE", "/fields", 405), ("GET", "/pages?page=0", 422)],
)
def test_the_frameworks_own_errors_are_problems_too(
    client: TestClient, method: str, path: str, status: int
) -> None:
    problem = assert_problem(client.request(method, path), status)
    assert problem["detail"]


def test_a_refused_method_is_answered_with_all_that_are_allowed(client: TestClient) -> None:
    assert client.put("/fields").headers["allow"] == "GET, POST"
    assert client.put("/pages/all").headers["allow"] == "DELETE, GET"


def test_many_wrong_values_are_listed_and_few_are_told(client: TestClient) -> None:
    problem = assert_problem(client.post("/fields", json={f"x{n}": 1 for n in range(9)}), 422)
    assert len(problem["errors"]) == 9
    assert problem["detail"].endswith("; and 4 more")


def test_a_problem_is_told_with_all_it_carries(client: TestClient) -> None:
    assert assert_problem(client.get("/refused"), 409) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "not like this",
        "hint": "otherwise",
    }


def test_an_unexpected_error_is_logged_and_tells_nothing(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/broken")
    assert "secret" not in json.dumps(assert_problem(answer, 500))
    assert "an internal secret" in caplog.text
    assert answer.headers["x-request-id"]


def test_a_database_that_is_away_is_503_with_retry_after(client: TestClient) -> None:
    answer = client.get("/busy")
    assert_problem(answer, 503)
    assert answer.headers["retry-after"]


def test_wrong_query_values_are_each_named(client: TestClient) -> None:
    problem = assert_problem(client.get("/pages?page=0&page_size=101&total=x"), 422)
    assert {tuple(error["loc"]) for error in problem["errors"]} == {
        ("query", "total"),
        ("query", "page"),
        ("query", "page_size"),
    }


def test_what_our_own_checks_say_stands_alone(client: TestClient) -> None:
    (error,) = assert_problem(client.get("/pages/one"), 422)["errors"]
    assert error == {
        "loc": ["path", "number"],
        "msg": "one is not a number",
        "type": "value_error",
    }


def test_a_status_of_its_own_keeps_a_title() -> None:
    assert Problem("x", status=507).title == "Insufficient Storage"
    assert Problem("x", status=599).title == "Error"


# Bodies of fields.


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"label": "ab", "count": 3, "is_on": True}},
        {"data": {"label": "ab", "count": "3", "is_on": "true"}},
        {"files": {"label": (None, "ab"), "count": (None, "3"), "is_on": (None, "on")}},
        {
            "content": b'{"label":"ab","count":3,"is_on":true}',
            "headers": {"content-type": "application/merge-patch+json; charset=utf-8"},
        },
    ],
)
def test_a_form_and_json_say_the_same(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/fields", **body)
    assert answer.json() == {
        "label": "ab",
        "count": 3,
        "is_on": True,
        "sent": ["count", "is_on", "label"],
    }


def test_an_empty_form_value_is_null(client: TestClient) -> None:
    answer = client.post("/fields", data={"label": ""}).json()
    assert (answer["label"], answer["sent"]) == (None, ["label"])
    assert client.post("/fields").json()["sent"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"[1]", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"[" * 9999, "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"\xff", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"label=ab", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": b"label=ab"}, 415),
        ({"files": {"label": ("a.txt", b"ab")}}, 422),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"data": {f"field{n}": "x" for n in range(201)}}, 400),
        ({"json": {"label": "x" * MAX_BODY_BYTES}}, 413),
        ({"data": {"label": "x" * MAX_BODY_BYTES}}, 413),
        ({"json": {"label": "a", "count": "many", "other": 1}}, 422),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    client: TestClient, body: dict[str, Any], status: int
) -> None:
    assert_problem(client.post("/fields", **body), status)


# Pages.


@pytest.mark.parametrize(
    ("page", "total", "offset", "pages", "has_next", "has_prev"),
    [(1, 0, 0, 0, False, False), (1, 21, 0, 3, True, False), (3, 21, 20, 3, False, True)],
)
def test_pages_are_counted(
    client: TestClient,
    page: int,
    total: int,
    offset: int,
    pages: int,
    has_next: bool,
    has_prev: bool,
) -> None:
    found, pagination = client.get(f"/pages?page={page}&page_size=10&total={total}").json()
    assert found == offset
    assert pagination == {
        "page": page,
        "page_size": 10,
        "total_items": total,
        "total_pages": pages,
        "has_next": has_next,
        "has_prev": has_prev,
    }


# Request ids, health, OpenAPI.


def test_a_request_id_goes_in_and_out(client: TestClient) -> None:
    given = client.get("/healthz", headers={"X-Request-Id": "from-the-client.1"})
    assert given.headers["x-request-id"] == "from-the-client.1"
    for unsafe in ("", "a b", "x" * 65, "a\tb"):
        made = client.get("/healthz", headers={"X-Request-Id": unsafe}).headers["x-request-id"]
        assert made != unsafe and len(made) == 32


def test_health_and_readiness_are_told() -> None:
    checks = {"database": "ok", "broker": "ok"}
    with TestClient(small_service(readiness=lambda: checks)) as client:
        assert client.get("/healthz").json() == {
            "status": "ok",
            "service": "small",
            "version": "1.2",
            "auth_disabled": False,
        }
        assert client.get("/readyz").json() == {"status": "ready", "checks": checks}
        checks["broker"] = "away"
        problem = assert_problem(client.get("/readyz"), 503)
        assert problem["detail"] == "not ready: broker: away"
        assert problem["checks"] == checks


def test_openapi_tells_every_error_and_every_body(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    fields = schema["paths"]["/fields"]["post"]
    assert set(fields["requestBody"]["content"]) == {
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    }
    assert set(fields["responses"]) == {"200", "400", "413", "415", "422", "500"}
    assert "409" in schema["paths"]["/refused"]["get"]["responses"]
    for path in schema["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"]
    assert "Problem" in schema["components"]["schemas"]


# Log lines.


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_each_line_about_a_request_carries_its_id(client: TestClient, log: io.StringIO) -> None:
    client.get("/broken", headers={"X-Request-Id": "one"})
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    ours = [line for line in lines if line["logger"].startswith("cl_server.")]
    assert [line["message"] for line in ours] == [
        "about to break",
        "a request failed unexpectedly",
        "GET /broken 500",
    ]
    assert {line["request_id"] for line in ours} == {"one"}
    assert "RuntimeError: an internal secret" in ours[1]["exception"]
    assert ours[2]["duration_ms"] >= 0


def test_ids_are_bound_for_as_long_as_they_hold(log: io.StringIO) -> None:
    logger = logging.getLogger("cl_server.test")
    with bind_log_context(request_id="r"):
        with bind_log_context(job_id="j"):
            logger.info("inside", extra={"attempt": 2})
        logger.info("between")
    logger.info("outside")
    inside, between, outside = (json.loads(line) for line in log.getvalue().splitlines())
    assert (inside["request_id"], inside["job_id"], inside["attempt"]) == ("r", "j", 2)
    assert "job_id" not in between and "request_id" not in outside


def test_a_terminal_gets_lines_for_people() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = Terminal()
    try:
        configure_logging("WARNING", stream=stream)
        with bind_log_context(job_id="j"):
            logging.getLogger("cl_server.test").info("not shown")
            logging.getLogger("cl_server.test").warning("GET /\x1b[31m\nfaked")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"WARNING cl_server.test: GET /\x1b[31m\x0afaked  job_id=j")


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(InvalidSetting, match="LOG_LEVEL='LOUD': expected one of DEBUG"):
        configure_logging("LOUD")
