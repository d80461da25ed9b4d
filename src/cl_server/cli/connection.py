"""Which server a command talks to, and with which token: the one place that decides.

In order: options, `CL_*_URL`, `CL_SERVER_DIR`, the note of a running `cl-server up`, the saved
sign-in, the default ports of this machine. A token goes only to the server that it is from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cl_server.client import Client, ClientError
from cl_server.client.local_server import LocalServer, read_local_server
from cl_server.client.tokens import (
    SignIn,
    TokenSource,
    read_sign_in,
    token_life_ms,
    write_sign_in,
)
from cl_server_shared.config import Config

__all__ = ["AuthUrl", "Server", "StoreUrl", "connect", "find_server", "make_sign_in"]

StoreUrl = Annotated[
    str | None, typer.Option("--store-url", metavar="URL", help="The store's address.")
]
AuthUrl = Annotated[
    str | None, typer.Option("--auth-url", metavar="URL", help="The auth service's address.")
]


@dataclass(frozen=True)
class Server:
    """A server's addresses, and where they were found."""

    store_url: str
    auth_url: str
    source: str


def connect(*, store_url: str | None, auth_url: str | None, prefer_sign_in: bool = False) -> Client:
    """Return a client for the server that the options, the environment or the files name.

    Args:
        store_url: The store's address, where it was given.
        auth_url: The auth service's, where it was given.
        prefer_sign_in: Whether a saved sign-in goes before the token of a running `cl-server up`,
            which may not administer.

    Raises:
        InvalidSetting: A variable is malformed.
    """
    server = find_server(store_url=store_url, auth_url=auth_url)
    return Client(
        server.store_url,
        server.auth_url,
        token=_token_source(server, prefer_sign_in=prefer_sign_in),
        compute_url=None if store_url else Config.CL_COMPUTE_URL,
    )


def find_server(*, store_url: str | None, auth_url: str | None) -> Server:
    """Return the server that is meant; see the module's docstring for the order."""
    store_given = store_url or Config.CL_STORE_URL
    auth_given = auth_url or Config.CL_AUTH_URL
    source = "options" if store_url or auth_url else "environment"
    if store_given and auth_given:
        return _server(store_given, auth_given, source)
    known = list(_known_servers())
    if not store_given and not auth_given:
        return known[0]
    # One of the two was given: the other is that of the server it belongs to, where it is known.
    for server in known:
        if store_given and server.store_url == store_given.rstrip("/"):
            return _server(store_given, server.auth_url, source)
        if auth_given and server.auth_url == auth_given.rstrip("/"):
            return _server(server.store_url, auth_given, source)
    return _server(store_given or known[0].store_url, auth_given or known[0].auth_url, source)


def make_sign_in(server: Server, username: str, token: str) -> SignIn:
    """Return a sign-in to save: its times are this machine's, whatever the server's clock says."""
    now_ms = int(time.time() * 1000)
    return SignIn(
        auth_url=server.auth_url,
        store_url=server.store_url,
        username=username,
        token=token,
        issued_at=now_ms,
        expires_at=now_ms + token_life_ms(token),
    )


def _known_servers() -> Iterator[Server]:
    """Yield each server that is known without being named, the nearest first."""
    config_dir = Path(Config.CL_USER_CONFIG_DIR)
    note = read_local_server(config_dir)
    if Config.settings()["CL_SERVER_DIR"].source == "environment":
        directory = Path(Config.CL_SERVER_DIR)
        if note is not None and Path(note.server_dir).resolve() == directory.resolve():
            yield _server(note.store_url, note.auth_url, "CL_SERVER_DIR")
        else:
            yield _default_server("CL_SERVER_DIR")
    if note is not None:
        yield _server(note.store_url, note.auth_url, "cl-server up")
    if (sign_in := read_sign_in(config_dir)) is not None:
        yield _server(sign_in.store_url, sign_in.auth_url, "sign-in")
    yield _default_server("default")


def _default_server(source: str) -> Server:
    host = Config.CL_SERVER_HOST
    if host in ("0.0.0.0", "::", ""):  # what a server listens on, not what one connects to
        host = "127.0.0.1"
    elif ":" in host:
        host = f"[{host}]"
    return _server(
        f"http://{host}:{Config.STORE_PORT}", f"http://{host}:{Config.AUTH_PORT}", source
    )


def _server(store_url: str, auth_url: str, source: str) -> Server:
    return Server(store_url.rstrip("/"), auth_url.rstrip("/"), source)


def _token_source(server: Server, *, prefer_sign_in: bool) -> TokenSource:
    config_dir = Path(Config.CL_USER_CONFIG_DIR)
    sources: list[TokenSource] = []
    note = read_local_server(config_dir)
    if note is not None and _belongs(note, server):
        sources.append(NoteToken(config_dir, note))
    sign_in = read_sign_in(config_dir)
    if sign_in is not None and _belongs(sign_in, server):
        sources.insert(0 if prefer_sign_in else len(sources), SavedToken(config_dir, sign_in))
    return sources[0] if sources else lambda: None


def _belongs(owner: LocalServer | SignIn, server: Server) -> bool:
    return (owner.store_url.rstrip("/"), owner.auth_url.rstrip("/")) == (
        server.store_url,
        server.auth_url,
    )


class NoteToken:
    """The token of a running `cl-server up`, which renews it in its note."""

    def __init__(self, config_dir: Path, note: LocalServer) -> None:
        self._config_dir = config_dir
        self._note = note

    def __call__(self) -> str:
        """Return the token that is good now."""
        note = read_local_server(self._config_dir)
        if note is not None and note.store_url == self._note.store_url:
            self._note = note
        return self._note.token


class SavedToken:
    """The token of the saved sign-in, renewed when it is past half of its life."""

    def __init__(self, config_dir: Path, sign_in: SignIn) -> None:
        self._config_dir = config_dir
        self._sign_in = sign_in
        self._lock = threading.Lock()

    def __call__(self) -> str:
        """Return the token that is good now; one that has ended is the server's to refuse."""
        now_ms = int(time.time() * 1000)
        with self._lock:
            if self._sign_in.is_due(now_ms) and not self._sign_in.is_expired(now_ms):
                self._renew()
            return self._sign_in.token

    def _renew(self) -> None:
        old = self._sign_in
        try:
            with Client(old.store_url, old.auth_url, token=old.token) as client:
                token = client.refresh()["access_token"]
        except ClientError:
            return  # the old one is still good for a while
        server = Server(old.store_url, old.auth_url, "sign-in")
        self._sign_in = make_sign_in(server, old.username, token)
        write_sign_in(self._config_dir, self._sign_in)
