"""Reading HTTP from a connection: uvicorn's way, and the refusals that no application gets to see."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .error_pages import problem_response
from .errors import BadRequest, Problem

__all__ = ["HttpProtocol"]

# A request's line and its headers together, or what follows a body. The largest token has a few thousand.
MAX_HEAD_BYTES = 64 * 1024

# Who is refused in the middle of sending would not get to see why, were the connection cut at once.
LINGER_SECONDS = 1.0


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, which tells what is wrong as every other error is told, and keeps no endless header."""

    _kept_bytes = 0  # received, and neither handed on nor dropped by the parser yet
    _refused = False

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; refuse a head that does not end."""
        if self._refused:
            return
        self._kept_bytes += len(data)
        super().data_received(data)
        if self._kept_bytes > MAX_HEAD_BYTES and not self._refused:
            detail = f"the request's line and headers are larger than {MAX_HEAD_BYTES} bytes"
            self._refuse(Problem(detail, status=431))

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._kept_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a part of the body."""
        self._kept_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._kept_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(BadRequest("this is no HTTP/1.1 request that can be read"))

    def _refuse(self, problem: Problem) -> None:
        """Answer in the place of the application, and let go of the connection."""
        self._refused = True
        request = self.cycle
        if request is not None and not request.response_complete:
            request.disconnected = True  # what it does is as if the client had gone
            request.message_event.set()
            if request.response_started:
                self.transport.close()
                return
        answer = problem_response(problem)
        headers = [
            *self.server_state.default_headers,
            *answer.raw_headers,
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        status = STATUS_LINE[answer.status_code]
        self.transport.write(b"".join([status, *lines, b"\r\n", answer.body]))
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
