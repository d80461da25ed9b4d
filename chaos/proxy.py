"""A proxy before PostgreSQL that cuts connections after a commit, before its answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

READ_BYTES = 65536


class CuttingProxy:
    """Forwards connections on a port of its own, and cuts some when it is told to.

    Args:
        target: The server's address, or the path of its socket.
    """

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self._target = target
        self._cuts = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, how_many: int = 3) -> bool:
        """Swallow the next answers, each with its connection: what they answer has happened."""
        with self._lock:
            self._cuts = how_many
        return True

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(
                    target=self._forward, args=(source, sink, answers), daemon=True
                ).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, Path):
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            return server
        return socket.create_connection(self._target)

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(READ_BYTES):
                if answers and self._takes_cut(chunk):
                    break
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _takes_cut(self, answer: bytes) -> bool:
        """Return whether this answer is to be swallowed: one that says that a command is complete."""
        with self._lock:
            # `C` begins PostgreSQL's CommandComplete; the tags of what changes something follow.
            if not self._cuts or not any(
                tag in answer for tag in (b"COMMIT", b"INSERT", b"SELECT")
            ):
                return False
            self._cuts -= 1
            return True
