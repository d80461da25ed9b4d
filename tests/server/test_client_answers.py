"""What the client makes of answers that a good server does not give, and of none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cli_stack import free_port

from cl_server.client import Client, ClientError
from cl_server.client.errors import (
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotAServer,
    NotFound,
    ServerFailed,
    SignInNeeded,
    Unreachable,
)

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server that answers everything in one way; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_body(
    status: int,
    body: str | dict[str, object],
    kind: str = "application/problem+json",
    **headers: str,
) -> Answer:
    text = body if isinstance(body, str) else json.dumps(body)

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        request.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(text.encode())))
        request.end_headers()
        request.wfile.write(text.encode())

    return answer


def test_no_server_is_said_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with Client(url) as client, pytest.raises(Unreachable) as caught:
        client.get_job("1")

    assert str(caught.value) == f"no server answers at {url}: start one with `cl-server up`"


def test_what_is_no_address_is_said() -> None:
    with Client("127.0.0.1:8001") as client, pytest.raises(ClientError, match="is not an address"):
        client.get_job("1")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, SignInNeeded, "you are not signed in: run `cl-server login`"),
        (403, NotAllowed, "no token."),
        (404, NotFound, "no token."),
        (409, Conflict, "no token."),
    ],
)
def test_a_refusal_is_the_error_of_its_status(
    status: int, kind: type[ClientError], message: str
) -> None:
    with answering(with_body(status, {"detail": "no token."})) as url, Client(url) as client:
        with pytest.raises(kind) as caught:
            client.get_job("1")

    assert str(caught.value) == message


def test_a_token_that_is_no_longer_good_is_told_from_none() -> None:
    with answering(with_body(401, {"detail": "the token has expired"})) as url:
        with Client(url, token="old") as client, pytest.raises(SignInNeeded) as caught:
            client.get_job("1")

    assert str(caught.value) == "the token has expired: sign in again with `cl-server login`"


def test_each_wrong_value_is_a_line() -> None:
    problems = [
        {"loc": ["body", "width"], "msg": "too small", "type": "x"},
        {"loc": ["height"], "msg": "missing", "type": "x"},
    ]
    answer = with_body(422, {"detail": "2 problems", "errors": problems})

    with answering(answer) as url, Client(url) as client:
        with pytest.raises(InvalidRequest) as caught:
            client.create_job("image_resize", [], {"width": 0})

    assert caught.value.problem_lines == ["width: too small", "height: missing"]
    assert str(caught.value) == "width: too small; height: missing"


def test_a_fault_of_the_server_names_the_request() -> None:
    answer = with_body(500, {"detail": "unexpected"}, X_Request_Id="r1")

    with answering(answer) as url, Client(url) as client:
        with pytest.raises(ServerFailed, match=r"unexpected \(status 500, request r1\)"):
            client.get_job("1")


@pytest.mark.parametrize(
    "answer",
    [
        with_body(200, "<html>", "text/html"),
        with_body(404, "<html>", "text/html"),
        with_body(302, "", Location="http://elsewhere.invalid/"),
    ],
    ids=["page", "missing page", "redirect"],
)
def test_another_program_at_the_address_is_told_apart(answer: Answer) -> None:
    with answering(answer) as url, Client(url) as client:
        with pytest.raises(NotAServer, match="is not CL Server"):
            client.get_job("1")


def test_a_server_that_breaks_off_leaves_no_half_file(tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        request.wfile.write(b"x" * 1000)
        request.close_connection = True

    with answering(answer) as url, Client(url) as client:
        with pytest.raises(Unreachable, match="it broke off"):
            client.download_media(1, tmp_path / "a.jpg")

    assert list(tmp_path.iterdir()) == []


def test_a_token_is_asked_for_before_each_request() -> None:
    seen: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        with_body(200, {}, "application/json")(request)

    tokens = iter(["one", "two"])
    with answering(answer) as url, Client(url, token=lambda: next(tokens)) as client:
        client.get_job("1")
        client.get_job("1")

    assert seen == ["Bearer one", "Bearer two"]


def test_events_go_on_where_they_broke_off() -> None:
    asked: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.headers.get("Last-Event-ID"))
        number = len(asked)
        if number == 2:  # a server that is restarted
            with_body(503, {"detail": "not yet"})(request)
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        event = {"event_id": number, "job_id": "j", "event_type": "started", "progress": 0}
        text = f": connected\n\nid: {number}0\ndata: {json.dumps(event)}\n\ndata: {{}}\n\n"
        request.wfile.write(text.encode())
        request.close_connection = True

    with (
        answering(answer) as url,
        Client(url) as client,
        client.events(last_event_id="7") as events,
    ):
        stream = iter(events)
        numbers = [next(stream).get("event_id") for _ in range(4)]

    assert numbers == [1, None, 3, None]
    assert asked == ["7", "10", "10"]


def test_events_that_are_refused_are_not_asked_for_again() -> None:
    with answering(with_body(403, {"detail": "not yours"})) as url, Client(url) as client:
        with pytest.raises(NotAllowed):
            next(iter(client.events()))
