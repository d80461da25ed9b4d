"""The store as its tests use it: in this process, with tokens by a key pair of the test."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import jwt
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from cl_ml_tools.protocols import ClaimedJob, Completion
from cl_ml_tools.workspace import publish_attempt, start_attempt
from cl_server.http.tokens import ALGORITHM, AUDIENCE, ISSUER, TOKEN_TYPE
from cl_server.store.app import create_app
from cl_server.store.settings import StoreSettings
from cl_server_shared import FileStorageService, SQLAlchemyJobRepository
from cl_server_shared.engine import create_database_engine, create_session_factory, sqlite_module

MAX_UPLOAD_BYTES = 3_000_000
MEDIA = ("media_store_read", "media_store_write")
COMPUTE = ("ai_inference_support",)


class Signer:
    """Makes tokens, and the key file that verifies them."""

    def __init__(self, directory: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public_key_path = directory / "public_key.pem"
        self.public_key_path.write_bytes(
            self._key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def bearer(self, sub: str, *permissions: str, is_admin: bool = False) -> dict[str, str]:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": sub,
            "iat": now,
            "exp": now + 600,
            "jti": uuid.uuid4().hex,
            "client_id": "tests",
            "permissions": list(permissions),
            "is_admin": is_admin,
        }
        token = jwt.encode(claims, self._key, ALGORITHM, headers={"typ": TOKEN_TYPE})
        return {"Authorization": f"Bearer {token}"}


@dataclass
class RunningStore:
    client: httpx2.Client
    settings: StoreSettings
    signer: Signer
    app: FastAPI
    stop: Callable[[], None] = lambda: None
    admin: dict[str, str] = field(init=False)
    ann: dict[str, str] = field(init=False)
    bob: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.admin = self.signer.bearer("1", "*", is_admin=True)
        self.ann = self.signer.bearer("2", *MEDIA, *COMPUTE)
        self.bob = self.signer.bearer("3", *MEDIA, *COMPUTE)

    def upload(self, content: bytes, name: str = "a.jpg", **fields: Any) -> httpx2.Response:
        data = {"is_collection": "false", **fields}
        return self.client.post(
            "/entities", files={"media_file": (name, content)}, data=data, headers=self.ann
        )

    def add_collection(self, **fields: Any) -> int:
        data = {"is_collection": "true", **fields}
        answer = self.client.post("/entities", data=data, headers=self.ann)
        assert answer.status_code == 201, answer.text
        entity_id: int = answer.json()["id"]
        return entity_id

    def add_job(self, **options: Any) -> dict[str, Any]:
        """A job of Ann's that resizes one picture."""
        data = {"width": "32", "height": "24", **options}
        answer = self.client.post(
            "/compute/jobs/image_resize",
            data=data,
            files={"file": ("a.jpg", picture())},
            headers=self.ann,
        )
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job_folders(self) -> list[str]:
        return sorted(path.name for path in (self.settings.compute_dir / "jobs").glob("*"))

    def media_files(self) -> list[str]:
        files = (path for path in self.settings.media_dir.rglob("*") if path.is_file())
        return sorted(path.name for path in files if not path.name.startswith("."))

    @cached_property
    def worker(self) -> SimulatedWorker:
        return SimulatedWorker(self.settings)


class SimulatedWorker:
    """What a worker does to the database and the workspaces, step by step."""

    def __init__(self, settings: StoreSettings) -> None:
        self.engine = create_database_engine(settings.database_url, module=sqlite_module())
        self.repository = SQLAlchemyJobRepository(create_session_factory(self.engine))
        self.storage = FileStorageService(settings.compute_dir)

    def register(self, capabilities: dict[str, Any], concurrency: int = 1) -> None:
        self.repository.register_instance("tests", capabilities, concurrency)

    def claim(self, task_type: str = "image_resize") -> ClaimedJob:
        (claimed,) = self.repository.fetch_next_jobs([task_type], 1)
        return claimed

    def write_output(self, claimed: ClaimedJob, name: str, content: bytes) -> None:
        folder = start_attempt(self.storage.get_job_path(claimed.job.job_id), claimed.attempt)
        (folder / name).write_bytes(content)

    def complete(self, claimed: ClaimedJob, *, publish: bool = True, **output: Any) -> None:
        self.repository.complete_jobs([Completion(claimed.claim, output)])
        if publish:
            publish_attempt(self.storage.get_job_path(claimed.job.job_id), claimed.attempt)

    def close(self) -> None:
        self.repository.release_instance()
        self.engine.dispose()


def settings_in(directory: Path, signer: Signer, **changes: Any) -> StoreSettings:
    settings = StoreSettings(
        database_url=f"sqlite:///{directory}/media_store.db",
        media_dir=directory / "media",
        compute_dir=directory / "compute",
        public_key_path=signer.public_key_path,
        max_upload_bytes=MAX_UPLOAD_BYTES,
        capability_cache_seconds=0,
    )
    return replace(settings, **changes)


@contextmanager
def running_store(directory: Path, **changes: Any) -> Iterator[RunningStore]:
    """The application itself, without a socket."""
    signer = Signer(directory)
    settings = settings_in(directory, signer, **changes)
    app = create_app(settings)
    with TestClient(app) as client:
        yield from _with_worker(RunningStore(client, settings, signer, app))


@contextmanager
def served_store(directory: Path, **changes: Any) -> Iterator[RunningStore]:
    """The application behind a real socket, for streams and for clients that go away."""
    signer = Signer(directory)
    settings = settings_in(directory, signer, **changes)
    app = create_app(settings)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=5)
    )
    loop = asyncio.new_event_loop()

    def stop() -> None:
        """As `serve` does at a signal."""
        server.should_exit = True
        if not loop.is_closed():
            loop.call_soon_threadsafe(app.state.stopping.set)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield from _with_worker(RunningStore(client, settings, signer, app, stop))
    finally:
        stop()
        thread.join(10)
    assert not thread.is_alive()


def _with_worker(store: RunningStore) -> Iterator[RunningStore]:
    try:
        yield store
    finally:
        if "worker" in vars(store):
            store.worker.close()


def picture(
    width: int = 64, height: int = 48, *, colour: str = "red", orientation: int = 1
) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    output = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(output, "JPEG", exif=exif)
    return output.getvalue()


def assert_problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    return problem


def wrong_values(answer: httpx2.Response) -> list[str]:
    """The names of what a 422 lists."""
    return [str(error["loc"][1]) for error in assert_problem(answer, 422)["errors"]]


def wait_until(condition: Callable[[], Any], timeout_seconds: float = 10) -> Any:
    deadline = time.monotonic() + timeout_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def as_json(value: Any) -> str:
    return json.dumps(value)
