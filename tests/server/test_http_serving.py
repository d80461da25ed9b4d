"""Serving several applications in one process, and stopping them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from http_harness import small_service

from cl_server.http.serving import PortInUse, Site, serve

HERE = Path(__file__).parent

PROGRAM = f"""
import asyncio, sys
sys.path.insert(0, {str(HERE)!r})
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse
from cl_server.http.access import ANYONE, requires
from cl_server.http.serving import Site, serve
from http_harness import small_service

router = APIRouter()

@router.get("/endless")
@requires(ANYONE)
async def endless(request: Request) -> StreamingResponse:
    async def lines():
        yield b"begun\\n"
        await request.app.state.stopping.wait()
        yield b"ended\\n"
    return StreamingResponse(lines())

@router.get("/silent")
@requires(ANYONE)
async def silent() -> None:
    tell("asked")
    await asyncio.sleep(3600)

@router.get("/stuck")
@requires(ANYONE)
async def stuck() -> StreamingResponse:
    async def lines():
        yield b"begun\\n"
        await asyncio.sleep(3600)
    return StreamingResponse(lines())

def tell(what): print(what, flush=True)
sites = [Site(small_service(router, told=[tell]), "127.0.0.1", 0) for _ in range(2)]
serve(sites, on_ready=lambda urls: tell(" ".join(urls)))
tell("end")
"""


@contextmanager
def two_services() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_service_and_its_streams(number: signal.Signals) -> None:
    with two_services() as (process, urls):
        assert [httpx2.get(f"{url}/healthz").status_code for url in urls] == [200, 200]
        with httpx2.stream("GET", f"{urls[1]}/endless") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "begun"
            began = time.monotonic()
            process.send_signal(number)
            assert next(lines) == "ended"
        output, _ = process.communicate(timeout=10)
        assert time.monotonic() - began < 6
        assert output.split() == ["stopped", "stopped", "end"]
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 600_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 100_000, 431),
        (b"GET /" + b"x" * 600_000, 431),
    ],
)
def test_what_is_no_request_is_told_as_every_other_error(sent: bytes, status: int) -> None:
    with two_services() as (_, urls):
        head, _, body = answer_to(urls[0], sent).partition(b"\r\n\r\n")
    status_line, *headers = head.decode().split("\r\n")
    assert status_line.startswith(f"HTTP/1.1 {status} ")
    assert {
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "connection: close",
    } <= set(headers)
    problem = json.loads(body)
    assert {"type", "title", "status", "detail"} == problem.keys()
    assert problem["status"] == status


def test_a_large_token_and_a_long_path_are_read() -> None:
    with two_services() as (_, urls):
        headers = {"Authorization": f"Bearer {'x' * 30_000}"}
        assert httpx2.get(f"{urls[0]}/{'x' * 20_000}", headers=headers).status_code == 404


def test_a_body_that_is_no_http_is_refused_and_its_request_is_over() -> None:
    with two_services() as (process, urls):
        head = b"POST /endless HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = answer_to(urls[0], head + b"no size\r\n")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 4") == 1
    assert "Traceback" not in errors


def test_what_follows_a_body_does_not_go_on_for_ever() -> None:
    with two_services() as (_, urls):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = b"100000\r\n" + b"x" * 0x100000 + b"\r\n0\r\n"
        answer = answer_to(urls[0], head + body + b"X: " + b"x" * 600_000)
    assert answer.startswith(b"HTTP/1.1 404 ")


def answer_to(url: str, sent: bytes) -> bytes:
    """What comes back before the connection is closed."""
    address = httpx2.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.long
def test_what_does_not_end_is_cut_off_within_seven_seconds() -> None:
    with two_services() as (process, urls):
        with httpx2.stream("GET", f"{urls[0]}/stuck") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "begun"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=15)
        assert time.monotonic() - began < 7
        assert output.split() == ["stopped", "stopped", "end"]


@pytest.mark.long
def test_who_has_no_answer_yet_when_the_service_stops_is_told_to_come_again() -> None:
    with two_services() as (process, urls), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx2.get, f"{urls[0]}/silent", timeout=20)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)
        answer = asked.result(15)
        process.communicate(timeout=15)
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]


def test_a_second_signal_does_not_wait() -> None:
    with two_services() as (process, urls):
        with httpx2.stream("GET", f"{urls[0]}/stuck") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "begun"
            process.send_signal(signal.SIGTERM)
            wait_until_refused(urls[1])  # the first signal has been seen
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
        assert time.monotonic() - began < 6


def wait_until_refused(url: str) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            httpx2.get(f"{url}/healthz")
        except httpx2.TransportError:
            return
    raise AssertionError("it still answers")


def test_a_port_in_use_is_said_before_anything_starts() -> None:
    told: list[str] = []
    free = Site(small_service(told=[told.append]), "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            serve([free, Site(small_service(told=[told.append]), "127.0.0.1", port)])
    assert told == []


def test_an_error_at_the_start_is_raised_as_it_is() -> None:
    def refuse(what: str) -> None:
        if what == "started":
            raise LookupError("nothing there")

    told: list[str] = []
    sites = [
        Site(small_service(told=[told.append]), "127.0.0.1", 0),
        Site(small_service(told=[refuse]), "127.0.0.1", 0),
    ]
    with pytest.raises(LookupError, match="nothing there"):
        serve(sites)
    assert told == ["started"]


def test_an_error_of_the_callback_is_raised_as_it_is() -> None:
    told: list[str] = []

    def refuse(urls: list[str]) -> None:
        raise LookupError(*urls)

    with pytest.raises(LookupError, match=r"http://127\.0\.0\.1:\d+"):
        serve([Site(small_service(told=[told.append]), "127.0.0.1", 0)], on_ready=refuse)
    assert told[0] == "started"


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(PortInUse, match=r"cannot listen on 192\.0\.2\.1:0: [\w ]+$"):
        serve([Site(small_service(), "192.0.2.1", 0)])
