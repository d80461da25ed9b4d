"""Serving: one or several applications, each on its port, in one process and one event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass

import uvicorn
import uvloop
from fastapi import FastAPI

from .protocol import HttpProtocol

__all__ = ["PortInUse", "Site", "serve"]

logger = logging.getLogger(__name__)

BACKLOG = 2048

# A stopping service has seven seconds in all: this long for answers that have begun.
GRACE_SECONDS = 5


class PortInUse(RuntimeError):
    """A service cannot listen where it was told to: the port is taken, or not ours to take."""


@dataclass(frozen=True)
class Site:
    """An application and where it listens.

    Attributes:
        app: What to serve.
        host: An address of this machine.
        port: 0: one that is free.
    """

    app: FastAPI
    host: str
    port: int


def serve(sites: Sequence[Site], *, on_ready: Callable[[list[str]], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then stop within seven seconds; a second signal stops at once.

    All ports are taken before any application starts. An error while one starts is raised as it
    is, when those that had started have stopped.

    Args:
        sites: What to serve, and where.
        on_ready: Called with each site's URL once all of them listen.

    Raises:
        PortInUse: A port cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for site in sites:
            sockets.append(_listen(site))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(sites, sockets, on_ready))
    except ExceptionGroup as group:
        raise _only_error(group) from group
    finally:
        for each in sockets:
            each.close()


def _only_error(group: ExceptionGroup[Exception]) -> Exception:
    """Return what a task group has wrapped: whoever starts us knows the error, not the group."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _listen(site: Site) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            site.host, site.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortInUse(f"cannot listen on {site.host}:{site.port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: of two that only bound, the second would learn of the first too late.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        is_taken = error.errno == errno.EADDRINUSE
        hint = "; stop what listens there, or choose another port" if is_taken else ""
        raise PortInUse(
            f"cannot listen on {site.host}:{site.port}: {error.strerror}{hint}"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(
    sites: Sequence[Site],
    sockets: Sequence[socket.socket],
    on_ready: Callable[[list[str]], None] | None,
) -> None:
    urls = [_url(listener) for listener in sockets]
    servers = [_Server(site.app) for site in sites]
    stop = _Stop(servers)
    with stop.on_signals():
        async with AsyncExitStack() as running:
            for site in sites:
                await running.enter_async_context(site.app.router.lifespan_context(site.app))
            if stop.requested:
                return
            async with asyncio.TaskGroup() as group:
                for server, listener in zip(servers, sockets, strict=True):
                    group.create_task(server.serve(sockets=[listener]))
                for server in servers:
                    await server.listening.wait()
                for site, url in zip(sites, urls, strict=True):
                    logger.info("the %s service listens on %s", site.app.title, url)
                if on_ready is not None:
                    on_ready(urls)


class _Stop:
    """What a signal does: the first lets answers end, the second does not."""

    def __init__(self, servers: Sequence[_Server]) -> None:
        self.requested = False
        self._servers = servers

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.request)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def request(self) -> None:
        for server in self._servers:
            server.force_exit = self.requested
            server.should_exit = True
            server.site_app.state.stopping.set()
        self.requested = True


class _Server(uvicorn.Server):
    """uvicorn, with signals and lifespans left to `serve`: it knows of one application only."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.site_app = app
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Serve until it is time to stop; close in order also where something else has failed."""
        with suppress(asyncio.CancelledError):
            await super().main_loop()
