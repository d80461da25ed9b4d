"""Requests to one server: the token put on, every failure mapped to the client's own errors."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import httpx2

from cl_server.client.errors import ClientError, NotAServer, Unreachable, refusal
from cl_server.client.shapes import find_flaw
from cl_server.client.tokens import TokenSource

__all__ = ["Transport"]

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5.0


class Transport:
    """An HTTP connection pool that threads may share.

    Args:
        addresses: Every address that will be asked, and the environment variable that names it.
        token: Called before each request.
        timeout_seconds: How long the server may stay silent.
    """

    def __init__(
        self, addresses: Mapping[str, str], *, token: TokenSource, timeout_seconds: float
    ) -> None:
        self.token = token
        self._addresses = dict(addresses)
        # Without https the authorities' certificates (a tenth of a second) are not needed.
        is_plain = all(url.startswith("http://") for url in addresses)
        self._http = httpx2.Client(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True,
            timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            # A proxy from the environment leads away from this machine.
            trust_env=not all(_is_loopback(url) for url in addresses),
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(self, method: str, url: str, **options: Any) -> httpx2.Response:
        """Return the answer to a request, read to its end.

        Raises:
            ClientError: No answer, or one that says no.
        """
        with self.stream(method, url, **options) as response, _mapped(url):
            response.read()
        return response

    def json(self, method: str, url: str, kind: type[T], **options: Any) -> T:
        """Return the JSON document that a request is answered with.

        Args:
            method: `GET`, say.
            url: What is asked.
            kind: The `TypedDict` that the answer is.
            options: As of httpx.

        Raises:
            ClientError: No answer, one that says no, or one of another kind.
        """
        return self.document(url, self.request(method, url, **options), kind)

    def document(self, url: str, response: httpx2.Response, kind: type[T]) -> T:
        """Return the JSON document of an answer that was read.

        Raises:
            NotAServer: It is no JSON, or not of that kind.
        """
        try:
            document = response.json()
        except ValueError:
            raise self.not_a_server(url, "its answer is not JSON") from None
        flaw = find_flaw(document, kind)
        if flaw is not None:
            raise self.not_a_server(url, f"its answer {flaw}")
        return cast(T, document)

    def not_a_server(self, url: str, what: str) -> NotAServer:
        """Return the error for an answer that CL Server does not give.

        Args:
            url: What was asked.
            what: What is wrong with the answer.
        """
        matching = [address for address in self._addresses if url.startswith(address)]
        return NotAServer(url, what, self._addresses[max(matching, key=len)] if matching else "")

    @contextmanager
    def stream(self, method: str, url: str, **options: Any) -> Iterator[httpx2.Response]:
        """Yield the answer to a request before its body is read.

        Raises:
            ClientError: No answer, or one that says no.
        """
        headers = {"Accept": "application/json", **options.pop("headers", {})}
        if token := self.token():
            headers["Authorization"] = f"Bearer {token}"
        with _mapped(url):
            request = self._http.build_request(method, url, headers=headers, **options)
            response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                raise self._refused(method, url, response, has_token=bool(token))
            yield response
        finally:
            response.close()

    def iterate_bytes(self, response: httpx2.Response) -> Iterator[bytes]:
        """Yield a streamed answer's body.

        Raises:
            Unreachable: The connection broke.
        """
        with _mapped(str(response.url)):
            yield from response.iter_bytes()

    def _refused(
        self, method: str, url: str, response: httpx2.Response, *, has_token: bool
    ) -> ClientError:
        if response.is_redirect:
            where = response.headers.get("location", "nowhere")
            return self.not_a_server(url, f"it redirects to {where}")
        with _mapped(url):
            response.read()
        try:
            problem = response.json()
        except ValueError:
            problem = None
        status = response.status_code
        if not isinstance(problem, dict):
            if status < 500:
                return self.not_a_server(url, f"status {status} without a problem document")
            problem = {}
        # What the server says of a route, as opposed to a job or an entity.
        if status == 404 and problem.get("detail") == f"{method} {response.url.path}: not found":
            return self.not_a_server(url, "there is no such route")
        problem.setdefault("request_id", response.headers.get("x-request-id"))
        return refusal(url, status, problem, has_token=has_token)


@contextmanager
def _mapped(url: str) -> Iterator[None]:
    """Map the library's errors at the seam."""
    address = _address(url)
    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise ClientError(
            f"{url!r} is not an address ({error}): expected one such as http://127.0.0.1:8001"
        ) from error
    except UnicodeEncodeError as error:
        raise ClientError(f"{error.object[:40]!r} is no text that can be sent") from error
    except httpx2.ConnectTimeout as error:
        raise Unreachable(address, f"no connection in {CONNECT_TIMEOUT_SECONDS:g} s") from error
    except httpx2.TimeoutException as error:
        raise Unreachable(address, "it fell silent") from error
    except httpx2.ConnectError as error:
        refused = "refused" in str(error).lower()
        raise Unreachable(address, "" if refused else str(error)) from error
    except httpx2.LocalProtocolError as error:
        raise ClientError(f"a file changed while it was sent to {address} ({error})") from error
    except httpx2.RemoteProtocolError as error:
        raise Unreachable(address, f"it broke off: {error}") from error
    except httpx2.TransportError as error:
        raise Unreachable(address, str(error) or type(error).__name__) from error


def _address(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return url
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"


def _is_loopback(url: str) -> bool:
    try:
        host = httpx2.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx2.InvalidURL, ValueError):
        return False
