"""The client against a real `cl-server up`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_stack import LAKE, LIGHTHOUSE, PASSWORD, Stack, size_of

from cl_server.cli.connection import SavedToken, Server, make_sign_in
from cl_server.client import Client, EventStream
from cl_server.client.batch import Batch
from cl_server.client.destinations import Destinations
from cl_server.client.errors import DamagedDownload, NotFound, SignInNeeded
from cl_server.client.models import JobFile
from cl_server.client.run import Run
from cl_server.client.tokens import read_sign_in


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as signed_in:
        yield signed_in


def test_a_photo_goes_in_once_and_comes_out_the_same(client: Client, tmp_path: Path) -> None:
    collection = client.create_collection("Lakes")
    entity, is_new = client.create_entity(LAKE, label="A lake", parent_id=collection["id"])
    again, is_new_again = client.create_entity(LAKE)

    saved = client.download_media(entity["id"], tmp_path / "new" / "lake.jpg")

    assert (is_new, is_new_again, again["id"]) == (True, False, entity["id"])
    assert client.get_entity(entity["id"])["label"] == "A lake"
    assert entity["id"] in {item["id"] for item in client.list_entities(page_size=100)["items"]}
    assert saved.read_bytes() == LAKE.read_bytes()


def test_a_job_from_an_entity_ends_in_a_checked_file(client: Client, tmp_path: Path) -> None:
    entity, _is_new = client.create_entity(LIGHTHOUSE)
    assert "image_resize" in {task["task_type"] for task in client.tasks() if task["served"]}
    assert client.capabilities()["num_workers"] == 1

    job = client.create_job(
        "image_resize", params={"width": 30, "height": 20}, entity_ids=[entity["id"]], priority=9
    )
    job = client.wait_for_job(job["job_id"], timeout_seconds=30)

    assert (job["status"], job["priority"]) == ("completed", 9)
    [file] = job["output_files"]
    client.download_job_file(job["job_id"], file, tmp_path / "a.jpg")
    assert size_of(tmp_path / "a.jpg") == (30, 20)
    client.delete_job(job["job_id"])
    with pytest.raises(NotFound):
        client.get_job(job["job_id"])


def test_events_show_each_step_of_a_job(client: Client) -> None:
    with client.events().connect() as events:
        job = client.create_job("image_resize", [LAKE], {"width": 30, "height": 20})
        seen = []
        for event in events:
            if event["job_id"] == job["job_id"] and event["event_type"] != "progress":
                seen.append(event["event_type"])
            if seen and seen[-1] == "completed":
                break

    assert seen == ["queued", "started", "completed"]


def test_a_client_without_a_token_is_told_to_sign_in(stack: Stack) -> None:
    with Client(stack.store_url, stack.auth_url) as client:
        with pytest.raises(SignInNeeded, match="cl-server login"):
            client.list_jobs()
        with pytest.raises(SignInNeeded):
            client.sign_in("admin", "wrong")


# Batches


class TroubledClient(Client):
    """A client to which the server has no events to give, and whose first download is damaged."""

    downloads = 0

    def events(self, *, job_id: str | None = None, last_event_id: str | None = None) -> EventStream:
        raise NotFound("no events", status=404, detail="no events")

    def download_job_file(
        self, job_id: str, file: JobFile, destination: Path, *, overwrite: bool = False
    ) -> Path:
        self.downloads += 1
        if self.downloads == 1:
            raise DamagedDownload("damaged")
        return super().download_job_file(job_id, file, destination, overwrite=overwrite)


def test_a_batch_ends_well_without_events_and_after_a_damaged_download(
    stack: Stack, tmp_path: Path
) -> None:
    runs = [Run(inputs=[LIGHTHOUSE]), Run(inputs=[LAKE])]
    states: list[str] = []

    with TroubledClient(stack.store_url, stack.auth_url) as client:
        client.sign_in("admin", PASSWORD)
        Batch(
            client,
            "image_resize",
            runs,
            text_params={"width": ["8"], "height": ["6"]},
            destinations=Destinations(tmp_path, overwrite=False),
            on_change=lambda run: states.append(run.state),
        ).process()

    assert [run.error for run in runs] == [None, None]
    assert [size_of(result) for run in runs for result in run.results] == [(8, 6), (8, 6)]
    assert client.downloads == 3
    assert states[:2] == ["sending", "queued"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_job_that_is_deleted_meanwhile_fails_its_run(stack: Stack, tmp_path: Path) -> None:
    run = Run(inputs=[LIGHTHOUSE])

    with TroubledClient(stack.store_url, stack.auth_url) as client:
        client.sign_in("admin", PASSWORD)

        def delete(changed: Run) -> None:
            if changed.state == "fetching":
                client.delete_job(changed.job["job_id"])

        Batch(
            client,
            "image_resize",
            [run],
            text_params={"width": ["8"], "height": ["6"]},
            destinations=Destinations(tmp_path, overwrite=False),
            on_change=delete,
        ).process()

    assert run.error == "the job was deleted"
    assert list(tmp_path.iterdir()) == []


def test_a_token_past_half_of_its_life_is_renewed_and_saved(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    token = client.sign_in("admin", PASSWORD)["access_token"]
    fresh = make_sign_in(Server(stack.store_url, stack.auth_url, ""), "admin", token)
    old = replace(fresh, issued_at=fresh.issued_at - 1_000_000, expires_at=fresh.issued_at + 60_000)

    renewed = SavedToken(tmp_path, old)()

    assert renewed != token
    saved = read_sign_in(tmp_path)
    assert saved is not None and saved.token == renewed
    assert not saved.is_due(int(time.time() * 1000))
