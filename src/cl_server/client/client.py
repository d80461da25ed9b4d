"""`Client`: auth and store as typed calls."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from cl_server.client.control import ControlCalls
from cl_server.client.downloads import place_file, temporary_beside, write_download
from cl_server.client.errors import ClientError, FileInTheWay
from cl_server.client.events import EventStream
from cl_server.client.models import (
    FINISHED,
    Capabilities,
    Entity,
    EntityPage,
    Event,
    Job,
    JobFile,
    JobPage,
    JobStatistics,
    Task,
    TaskList,
    Token,
    User,
    Worker,
    WorkerList,
)
from cl_server.client.paths import path_of, segment
from cl_server.client.tokens import TokenSource
from cl_server.client.transport import Transport
from cl_server.client.upload import FileUpload

__all__ = ["Client"]

POLL_SECONDS = 0.5

# What is kept comes at once; a pause of this length is its end, also on a busy machine.
PAST_SECONDS = 5.0


class Client(ControlCalls):
    """A connection to one CL Server; threads may share it.

    Args:
        store_url: The store's address, such as `http://127.0.0.1:8001`.
        auth_url: The auth service's; only signing in and `me` need it.
        token: An access token, or a function that returns one and is called before each request.
        compute_url: The compute address; the store's `/compute` without it.
        timeout_seconds: How long the server may stay silent.
    """

    def __init__(
        self,
        store_url: str,
        auth_url: str | None = None,
        *,
        token: str | TokenSource | None = None,
        compute_url: str | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.store_url = store_url.rstrip("/")
        self.auth_url = auth_url.rstrip("/") if auth_url else None
        self.compute_url = (compute_url or f"{self.store_url}/compute").rstrip("/")
        addresses = {self.auth_url: "CL_AUTH_URL"} if self.auth_url else {}
        addresses[self.store_url] = "CL_STORE_URL"
        if compute_url:
            addresses[self.compute_url] = "CL_COMPUTE_URL"
        self._token: str | None = token if isinstance(token, str) else None
        self._transport = Transport(
            addresses,
            token=token if callable(token) else lambda: self._token,
            timeout_seconds=timeout_seconds,
        )

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Signing in

    def sign_in(self, username: str, password: str) -> Token:
        """Get a token, and use it from here on.

        Raises:
            SignInNeeded: The name or the password is wrong.
        """
        fields = {"username": username, "password": password}
        return self._keep(
            self._transport.json("POST", self._auth("/auth/token"), Token, data=fields)
        )

    def refresh(self) -> Token:
        """Get a new token for the one in use, and use it from here on.

        Raises:
            SignInNeeded: The one in use is no longer good.
        """
        return self._keep(self._transport.json("POST", self._auth("/auth/token/refresh"), Token))

    def me(self) -> User:
        """Return the account that the token belongs to."""
        return self._transport.json("GET", self._auth("/users/me"), User)

    # Media

    def create_entity(
        self,
        path: Path,
        *,
        label: str | None = None,
        description: str | None = None,
        parent_id: int | None = None,
    ) -> tuple[Entity, bool]:
        """Send a media file.

        Args:
            path: The file; it is streamed from disk.
            label: What people call it; the file's name without one.
            description: More about it.
            parent_id: The collection that it goes into.

        Returns:
            The entity, and whether it is new: the same bytes are kept once.
        """
        fields = _fields(
            is_collection=False,
            label=label or path.name,
            description=description,
            parent_id=parent_id,
        )
        url = f"{self.store_url}/entities"
        response = self._transport.request(
            "POST",
            url,
            data=fields,
            files=[("media_file", (path.name, cast(IO[bytes], FileUpload(path))))],
        )
        return self._transport.document(url, response, Entity), response.status_code == 201

    def create_collection(
        self, label: str, *, description: str | None = None, parent_id: int | None = None
    ) -> Entity:
        """Make a collection."""
        fields = _fields(
            is_collection=True, label=label, description=description, parent_id=parent_id
        )
        # As multipart, which is how the server takes an entity.
        parts = [(name, (None, value)) for name, value in fields.items()]
        return self._transport.json("POST", f"{self.store_url}/entities", Entity, files=parts)

    def get_entity(self, entity_id: int) -> Entity:
        """Return one entity."""
        return self._transport.json("GET", self._entity_url(entity_id), Entity)

    def list_entities(
        self, *, page: int = 1, page_size: int = 20, **filters: str | int | bool
    ) -> EntityPage:
        """Return a page of entities, newest first; `filters` are those of the HTTP surface."""
        params = {"page": page, "page_size": page_size, **filters}
        return self._transport.json("GET", f"{self.store_url}/entities", EntityPage, params=params)

    def download_media(self, entity_id: int, destination: Path, *, overwrite: bool = False) -> Path:
        """Save an entity's file, and return `destination`.

        Raises:
            FileInTheWay: `destination` is there and `overwrite` is not set.
        """
        url = f"{self._entity_url(entity_id)}/media"
        return self._download(url, destination, overwrite=overwrite)

    # Compute

    def create_job(
        self,
        task_type: str,
        files: Sequence[Path] = (),
        params: Mapping[str, Any] | None = None,
        *,
        text_params: Mapping[str, Sequence[str]] | None = None,
        entity_ids: Sequence[int] = (),
        priority: int | None = None,
        max_retries: int | None = None,
        timeout_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job.

        Args:
            task_type: Which task; `tasks()` lists them.
            files: Input files; they are streamed from disk.
            params: The task's parameters.
            text_params: Parameters as a person types them, each as often as it was given; the
                server reads them as the task's schema says. Instead of `params`.
            entity_ids: Media of the store that are inputs as well.
            priority: 0-10, higher is more urgent.
            max_retries: How often a failed attempt is run again, 0-50.
            timeout_seconds: How long one attempt may take.
            idempotency_key: Made up for this call, 1 to 200 visible characters of ASCII: calling
                again with it, after an answer was lost, returns the job that is there already.

        Raises:
            NotFound: There is no such task.
            Conflict: The key stands for a job with other content.
            InvalidRequest: Parameters that the task refuses; names each.
        """
        fields = _fields(
            priority=priority,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
            entity_ids=json.dumps(list(entity_ids)) if entity_ids else None,
            params=json.dumps(dict(params)) if params else None,
        )
        parts: list[tuple[str, Any]] = [(name, (None, text)) for name, text in fields.items()]
        for name, values in (text_params or {}).items():
            parts += [(name, (None, text)) for text in values]
        parts += [("file", (path.name, FileUpload(path))) for path in files]
        url = f"{self.compute_url}/jobs/{segment(task_type)}"
        body: dict[str, Any] = {"files": parts} if parts else {"json": {}}
        if idempotency_key is not None:
            body["headers"] = {"Idempotency-Key": idempotency_key}
        return self._transport.json("POST", url, Job, **body)

    def get_job(self, job_id: str) -> Job:
        """Return one job."""
        return self._transport.json("GET", self._job_url(job_id), Job)

    def list_jobs(
        self,
        *,
        status: str | None = None,
        task_type: str | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """Return jobs, newest first; `next_cursor` leads to those before."""
        params = _fields(status=status, task_type=task_type, cursor=cursor)
        return self._transport.json("GET", f"{self.compute_url}/jobs", JobPage, params=params)

    def delete_job(self, job_id: str) -> None:
        """Delete a job with its files; one that waits or runs is cancelled first.

        Raises:
            Conflict: It runs and did not end in time; it has been asked to.
        """
        self._transport.request("DELETE", self._job_url(job_id))

    def download_job_file(
        self, job_id: str, file: JobFile, destination: Path, *, overwrite: bool = False
    ) -> Path:
        """Save one of a job's files, checked against its size and digest; return `destination`.

        Raises:
            FileInTheWay: `destination` is there and `overwrite` is not set.
            DamagedDownload: The bytes are not the announced ones.
        """
        url = f"{self._job_url(job_id)}/files/{path_of(file['path'])}"
        return self._download(url, destination, overwrite=overwrite, announced=file)

    def wait_for_job(self, job_id: str, *, timeout_seconds: float = 3600.0) -> Job:
        """Return the job once it has completed, failed or was cancelled.

        Raises:
            TimeoutError: It did not end in time; it goes on.
        """
        deadline = time.monotonic() + timeout_seconds
        while (job := self.get_job(job_id))["status"] not in FINISHED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {job['status']}")
            time.sleep(POLL_SECONDS)
        return job

    def tasks(self) -> list[Task]:
        """Return each task that the server knows."""
        return self._transport.json("GET", f"{self.compute_url}/tasks", TaskList)["items"]

    def capabilities(self) -> Capabilities:
        """Return how many workers there are, and the idle ones per task."""
        return self._transport.json("GET", f"{self.compute_url}/capabilities", Capabilities)

    def statistics(self, *, minutes: int = 60) -> JobStatistics:
        """Return what waits and runs per task type, and what ended.

        Args:
            minutes: How far back what ended is counted, 1 to 1440.
        """
        url = f"{self.compute_url}/statistics"
        return self._transport.json("GET", url, JobStatistics, params={"minutes": minutes})

    def workers(self) -> list[Worker]:
        """Return the workers that live."""
        return self._transport.json("GET", f"{self.compute_url}/workers", WorkerList)["items"]

    def events(self, *, job_id: str | None = None, last_event_id: str | None = None) -> EventStream:
        """Return the server's events as an iterator that reconnects by itself.

        Args:
            job_id: One job's only.
            last_event_id: Start after this one; `"0"`: with all that is kept.
        """
        return EventStream(
            self._transport,
            f"{self.store_url}/events",
            job_id=job_id,
            last_event_id=last_event_id,
        )

    def past_events(self, job_id: str) -> Generator[Event]:
        """Yield the events of one job that are kept, oldest first, and wait for no new ones.

        The server does not say where they end: the last one is followed by a pause of
        `PAST_SECONDS`, which who knows it need not wait for.
        """
        stream = EventStream(
            self._transport,
            f"{self.store_url}/events",
            job_id=job_id,
            last_event_id="0",
            silence_seconds=PAST_SECONDS,
        )
        return stream.replay()

    def _auth(self, path: str) -> str:
        if self.auth_url is None:
            raise ClientError("the auth service's address is not known: give `auth_url`")
        return self.auth_url + path

    def _entity_url(self, entity_id: int) -> str:
        return f"{self.store_url}/entities/{segment(str(entity_id))}"

    def _keep(self, token: Token) -> Token:
        self._token = token["access_token"]
        return token

    def _download(
        self, url: str, destination: Path, *, overwrite: bool, announced: JobFile | None = None
    ) -> Path:
        if destination.exists() and not overwrite:  # said before the bytes are fetched
            raise FileInTheWay(destination)
        temporary = temporary_beside(destination)
        try:
            with self._transport.stream("GET", url, headers={"Accept": "*/*"}) as response:
                write_download(
                    self._transport.iterate_bytes(response),
                    temporary,
                    expected_size_bytes=announced["size"] if announced else None,
                    expected_sha256=announced["sha256"] if announced else None,
                )
            place_file(temporary, destination, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)
        return destination


def _fields(**values: Any) -> dict[str, str]:
    """Return form fields: what is `None` is left out, what is true reads `true`."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }
