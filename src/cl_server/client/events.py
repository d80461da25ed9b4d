"""The server's events as an iterator that reconnects by itself and misses nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, cast

import httpx2

from cl_server.client.errors import ClientError, NotAServer, ServerFailed, Unreachable
from cl_server.client.models import Event
from cl_server.client.transport import Transport

__all__ = ["EventStream"]

# The server sends a comment every 15 s; three that are missing are a dead connection.
SILENCE_SECONDS = 45.0

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class EventStream:
    """Server-Sent Events, one `Event` after the other; ends when it is closed.

    A broken connection is made again with `Last-Event-ID`, so that nothing is lost between.

    Args:
        transport: Where requests go through.
        url: The server's `/events`.
        job_id: One job's events only.
        last_event_id: Start after this one; `"0"`: with all that is kept; `None`: with what comes.
        give_up_seconds: How long it tries to connect again before it raises.
        silence_seconds: After how long without a word the connection counts as broken.
    """

    def __init__(
        self,
        transport: Transport,
        url: str,
        *,
        job_id: str | None = None,
        last_event_id: str | None = None,
        give_up_seconds: float = 60.0,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.last_event_id = last_event_id
        self._transport = transport
        self._url = url
        self._params = {"job_id": job_id} if job_id else {}
        self._give_up_seconds = give_up_seconds
        self._silence_seconds = silence_seconds
        self._closed = threading.Event()
        self._open = ExitStack()
        self._response: httpx2.Response | None = None

    def connect(self) -> Self:
        """Connect now; what happens from here on will be seen.

        Raises:
            ClientError: No answer, or one that says no.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        self._open.close()
        response = self._open.enter_context(
            self._transport.stream(
                "GET",
                self._url,
                params=self._params,
                headers=headers,
                timeout=httpx2.Timeout(self._silence_seconds, connect=5.0),
            )
        )
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            self._open.close()
            raise self._transport.not_a_server(
                self._url, f"events came as {kind or 'nothing known'}"
            )
        self._response = response
        return self

    def close(self) -> None:
        """End the stream; a thread that iterates over it ends at its next event or comment."""
        self._closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        self._open.close()

    def __iter__(self) -> Iterator[Event]:
        """Yield each event as it comes.

        Raises:
            ClientError: The server says no, or stayed away for `give_up_seconds`.
        """
        try:
            while not self._closed.is_set():
                if self._response is None:
                    self._connect_again()
                    continue
                yield from self._read(self._response)
                self._response = None
        finally:
            self._open.close()

    def replay(self) -> Generator[Event]:
        """Yield what has happened already: ends once nothing has come for `silence_seconds`.

        Raises:
            ClientError: No answer, or one that says no.
        """
        self.connect()
        assert self._response is not None
        try:
            yield from self._read(self._response)
        finally:
            self._open.close()

    def _read(self, response: httpx2.Response) -> Iterator[Event]:
        try:
            for message in httpx2.EventSource(response):
                if message.id:
                    self.last_event_id = message.id
                if message.data:
                    yield _event(self._url, message.data)
                if self._closed.is_set():
                    return
        except httpx2.TransportError:
            return  # the connection broke: it is made again

    def _connect_again(self) -> None:
        """Connect, with growing pauses, for as long as it may take."""
        pause_seconds, deadline = FIRST_PAUSE_SECONDS, time.monotonic() + self._give_up_seconds
        while not self._closed.wait(pause_seconds):
            try:
                self.connect()
            except (Unreachable, ServerFailed):
                if time.monotonic() > deadline:
                    raise
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
            else:
                return


def _event(url: str, data: str) -> Event:
    try:
        document: Any = json.loads(data)
    except ValueError as error:
        raise ClientError(f"an event from {url} is not JSON: {data[:100]!r}") from error
    if not isinstance(document, dict):
        raise NotAServer(url, "an event is no object")
    return cast(Event, document)
