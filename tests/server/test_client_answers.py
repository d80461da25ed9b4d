"""What the client makes of answers that a good server does not give, and of none."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import get_type_hints

import pytest
from answering_server import Answer, answering, with_body

from cl_server.auth import schemas as auth_schemas
from cl_server.cli.follow import follow_job
from cl_server.cli.job_changes import cancel_jobs, retry_jobs
from cl_server.client import Client, ClientError, models
from cl_server.client.errors import (
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotAServer,
    NotFound,
    ServerFailed,
    SignInNeeded,
    Unreachable,
    WrongName,
    refusal,
)
from cl_server.client.models import JobFile
from cl_server.http.paging import Pagination
from cl_server.store import schemas, schemas_statistics
from ports import free_port

JOB: dict[str, object] = {
    "job_id": "j",
    "task_type": "image_resize",
    "status": "completed",
    "progress": 0,
    "params": {},
    "task_output": None,
    "error_message": None,
    "priority": 5,
    "created_at": 10,
    "updated_at": 20,
    "started_at": None,
    "completed_at": 30,
    "input_files": [],
    "output_files": [],
    "retry_count": 0,
    "max_retries": 3,
    "created_by": "1",
}


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


CALLS: dict[str, Callable[[Client], object]] = {
    "get_job": lambda client: client.get_job("1"),
    "list_jobs": lambda client: client.list_jobs(),
    "create_job": lambda client: client.create_job("image_resize"),
    "cancel_job": lambda client: client.cancel_job("1"),
    "retry_job": lambda client: client.retry_job("1"),
    "job_attempts": lambda client: client.job_attempts("1"),
    "change_jobs": lambda client: client.change_jobs("cancel", mine=True),
    "limit_task": lambda client: client.limit_task("image_resize", 1),
    "tasks": lambda client: client.tasks(),
    "workers": lambda client: client.workers(),
    "statistics": lambda client: client.statistics(),
    "capabilities": lambda client: client.capabilities(),
    "sign_in": lambda client: client.sign_in("me", "secret"),
    "me": lambda client: client.me(),
    "get_entity": lambda client: client.get_entity(1),
    "list_entities": lambda client: client.list_entities(),
    "create_entity": lambda client: client.create_entity(Path(__file__)),
    "create_collection": lambda client: client.create_collection("Trip"),
}


@pytest.mark.parametrize("document", ["[]", "5"])
def test_events_of_another_program_are_told_apart(document: str) -> None:
    answer = with_body(200, f"data: {document}\n\n", "text/event-stream")
    with answering(answer) as url, Client(url) as client:
        with pytest.raises(NotAServer, match="an event is no object"):
            next(iter(client.events()))


@pytest.mark.parametrize("document", ["[]", "null", "5", '{"status": "ok"}', '{"items": [1]}'])
@pytest.mark.parametrize("call", sorted(CALLS))
def test_json_of_another_program_is_told_apart(call: str, document: str) -> None:
    with answering(with_body(200, document, "application/json")) as url, Client(url, url) as client:
        with pytest.raises(NotAServer, match=r"is not CL Server \(its answer (is|has)") as caught:
            CALLS[call](client)

    assert "\n" not in str(caught.value)


PAIRS = [
    (models.Job, schemas.JobAnswer),
    (models.JobFile, schemas.JobFile),
    (models.JobPage, schemas.JobPage),
    (models.Attempt, schemas.Attempt),
    (models.AttemptList, schemas.AttemptList),
    (models.ChangedJobs, schemas.ChangedJobs),
    (models.Task, schemas.Task),
    (models.TaskList, schemas.TaskList),
    (models.Capabilities, schemas.Capabilities),
    (models.Entity, schemas.EntityAnswer),
    (models.EntityPage, schemas.EntityPage),
    (models.Pagination, Pagination),
    (models.TaskTypeState, schemas_statistics.TaskTypeAnswer),
    (models.EndedJobs, schemas_statistics.EndedJobs),
    (models.JobStatistics, schemas_statistics.JobStatisticsAnswer),
    (models.Worker, schemas_statistics.WorkerAnswer),
    (models.WorkerList, schemas_statistics.WorkerList),
    (models.Token, auth_schemas.Token),
]


@pytest.mark.parametrize(("expected", "given"), PAIRS, ids=lambda kind: kind.__name__)
def test_what_the_client_expects_is_what_the_server_answers(expected: type, given: type) -> None:
    plain = (int, float, str, bool, int | None, float | None, str | None)
    wanted, answered = get_type_hints(expected), get_type_hints(given)

    assert wanted.keys() <= answered.keys()
    for name in wanted:
        if answered[name] in plain:
            assert answered[name] == wanted[name] or wanted[name] == answered[name] | None


@pytest.mark.parametrize("errors", [5, [{"loc": 5}], {"loc": []}])
def test_a_refusal_of_another_shape_is_still_one(errors: object) -> None:
    with answering(with_body(422, {"detail": "no", "errors": errors})) as url:
        with Client(url) as client, pytest.raises(InvalidRequest):
            client.get_job("1")


def test_a_route_that_every_server_has_and_this_one_has_not_leads_to_the_address() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        detail = f"{request.command} {request.path.partition('?')[0]}: not found"
        with_body(404, {"detail": detail})(request)

    with answering(answer) as url:
        with Client(f"{url}/compute", url) as client:
            with pytest.raises(NotAServer) as of_store:
                client.list_jobs()
            with pytest.raises(NotAServer, match=r"check the address \(CL_AUTH_URL\)"):
                client.me()
        with Client("http://unused.invalid", compute_url=f"{url}/compute/x") as client:
            with pytest.raises(NotAServer, match=r"check the address \(CL_COMPUTE_URL\)"):
                client.tasks()

    assert str(of_store.value) == (
        f"what answers at {url}/compute/compute/jobs is not CL Server (there is no such route): "
        "check the address (CL_STORE_URL)"
    )


WRONG_IDS = ("", ".", "..", "a/b", "../tasks", "a\\b", "a\nb", "\udcff", "x" * 1001)


@pytest.mark.parametrize("wrong", WRONG_IDS)
def test_a_text_that_would_change_the_path_is_not_sent(wrong: str) -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        with_body(200, {"items": []})(request)

    file = JobFile(name="a", path=f"output/{wrong}", size=1, sha256=None)
    with answering(answer) as url, Client(url) as client:
        for call in (
            lambda: client.get_job(wrong),
            lambda: client.delete_job(wrong),
            lambda: client.cancel_job(wrong),
            lambda: client.retry_job(wrong),
            lambda: client.job_attempts(wrong),
            lambda: client.create_job(wrong),
            lambda: client.pause_task(wrong),
            lambda: client.get_entity(wrong),  # type: ignore[arg-type]
            lambda: client.download_media(wrong, Path("no")),  # type: ignore[arg-type]
        ):
            with pytest.raises(WrongName) as caught:
                call()
            assert len(str(caught.value).splitlines()) == 1
            assert len(str(caught.value)) < 200
        if "/" not in wrong:
            with pytest.raises(WrongName):
                client.download_job_file("1", file, Path("no"))

    assert asked == []


def test_a_text_that_is_not_unicode_is_not_sent(tmp_path: Path) -> None:
    name = tmp_path / "\udcff.jpg"
    name.write_bytes(b"x")
    with answering(with_body(200, {"items": []})) as url, Client(url, url) as client:
        for call in (
            lambda: client.create_job("t", [name]),
            lambda: client.create_job("t", text_params={"a": ["\udcff"]}),
            lambda: client.list_jobs(task_type="\udcff"),
            lambda: client.pause_task("t", "\udcff"),
            lambda: client.sign_in("me", "\udcff"),
        ):
            with pytest.raises(ClientError, match="is no text that can be sent"):
                call()


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
        with_body(200, {"num_workers": 0, "capabilities": {}}, "application/json")(request)

    tokens = iter(["one", "two"])
    with answering(answer) as url, Client(url, token=lambda: next(tokens)) as client:
        client.capabilities()
        client.capabilities()

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


def test_a_job_that_was_retried_is_followed_past_its_earlier_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = {**JOB, "status": "queued", "completed_at": None, "updated_at": 20}
    steps = [("failed", 10), ("queued", 20), ("started", 21), ("completed", 30)]
    events = [{"event_type": kind, "timestamp": at} for kind, at in steps]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not request.path.startswith("/events"):
            with_body(200, job)(request)
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        request.wfile.write(stream.encode())
        request.close_connection = True

    with answering(answer) as url, Client(url) as client:
        assert follow_job(client, "j", as_json=True) == "completed"

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == events


@pytest.mark.parametrize(("change", "word"), [(cancel_jobs, "ending"), (retry_jobs, "processing")])
def test_a_job_that_runs_by_now_is_ending_only_where_it_was_cancelled(
    change: Callable[..., None], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(with_body(202, {**JOB, "status": "processing"}, "application/json")) as url:
        change(["j"], store_url=url, auth_url=url)

    assert capsys.readouterr().out == f"j\t{word}\n"


@pytest.mark.parametrize(
    ("status", "places", "is_about_all"),
    [
        (422, [["body", "width"]], True),
        (422, [["body", "file"]], False),
        (422, [["body", "file"], ["body", "width"]], True),
        (422, [], True),
        (413, [], False),
        (403, [], True),
        (500, [], False),
    ],
)
def test_a_refusal_says_whether_other_files_would_meet_it(
    status: int, places: list[list[str]], is_about_all: bool
) -> None:
    problems = [{"loc": place, "msg": "no", "type": "x"} for place in places]

    assert refusal("http://x", status, {"errors": problems}).is_about_all is is_about_all
