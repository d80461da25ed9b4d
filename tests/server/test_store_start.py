"""Starting and stopping: the database, the folders, what a disconnect or a missing disk leaves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from store_harness import (
    RunningStore,
    Signer,
    assert_problem,
    picture,
    running_store,
    served_store,
    settings_in,
    wait_until,
)

from cl_server.store.app import create_app
from cl_server.store.storage_folders import WrongStorageFolder
from postgresql_server import PostgresqlServer


def test_the_whole_way_of_a_photo_on_postgresql(
    tmp_path: Path, postgresql_server: PostgresqlServer
) -> None:
    with (
        postgresql_server.database(with_tables=False) as url,
        running_store(tmp_path, database_url=url) as store,
    ):
        entity = store.upload(picture(), label="Sunset").json()
        assert store.upload(picture()).status_code == 200
        listed = store.client.get("/entities?label=Sunset", headers=store.ann).json()
        assert listed["items"] == [entity]
        data = {"width": "3", "height": "2", "entity_ids": str(entity["id"])}
        answer = store.client.post("/compute/jobs/image_resize", data=data, headers=store.ann)
        assert answer.status_code == 201, answer.text
        claimed = store.worker.claim()
        store.worker.write_output(claimed, "a.jpg", b"small")
        store.worker.complete(claimed)
        job = store.client.get(answer.headers["location"], headers=store.ann).json()
        assert (job["status"], job["output_files"][0]["size"]) == ("completed", 5)
        page = store.client.get("/compute/jobs?status=completed", headers=store.ann).json()
        assert len(page["items"]) == 1
        assert store.client.get("/compute/capabilities").json()["num_workers"] == 0
        assert store.client.delete(answer.headers["location"], headers=store.ann).is_success


def test_what_is_there_is_there_after_a_restart(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        entity = store.upload(picture()).json()
        job = store.add_job()
    with running_store(tmp_path) as store:
        path = f"/entities/{entity['id']}"
        assert store.client.get(path, headers=store.ann).json() == entity
        assert store.client.get(f"/compute/jobs/{job['job_id']}", headers=store.ann).json() == job


def test_an_entity_id_is_never_given_twice(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        first = store.upload(picture()).json()["id"]
        with store.worker.engine.begin() as connection:
            connection.execute(text("DELETE FROM entities"))
        assert store.upload(picture()).json()["id"] > first


@pytest.mark.parametrize("kind", ["media", "compute"])
def test_a_disk_that_is_not_mounted_stops_the_service(tmp_path: Path, kind: str) -> None:
    with running_store(tmp_path) as store:
        store.upload(picture())
    (tmp_path / kind).rename(tmp_path / "elsewhere")
    (tmp_path / kind).mkdir()  # the empty mount point
    with pytest.raises(WrongStorageFolder, match=kind):
        with running_store(tmp_path):
            pass
    assert list((tmp_path / kind).iterdir()) == []
    shutil.rmtree(tmp_path / kind)
    (tmp_path / "elsewhere").rename(tmp_path / kind)
    with running_store(tmp_path) as store:
        assert store.client.get("/readyz").status_code == 200


def test_readiness_says_how_idle_workers_are_woken(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        assert store.client.get("/readyz").json()["wake_up"] == "inotify"


def test_a_disk_that_goes_away_is_told_and_nothing_is_written_under_it(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        job_id = store.add_job()["job_id"]
        for kind in ("media", "compute"):
            (tmp_path / kind).rename(tmp_path / f"{kind}-away")
            (tmp_path / kind).mkdir()
        checks = assert_problem(store.client.get("/readyz"), 503)["checks"]
        assert checks["database"] == "ok"
        assert "not there" in checks["media_storage"]
        assert str(tmp_path) not in str(checks)
        assert_problem(store.upload(picture()), 503)
        files = {"file": ("a.jpg", picture())}
        answer = store.client.post("/compute/jobs/image_resize", files=files, headers=store.ann)
        assert_problem(answer, 503)
        assert_problem(store.client.get(f"/compute/jobs/{job_id}", headers=store.ann), 503)
        assert list((tmp_path / "media").iterdir()) == []
        assert list((tmp_path / "compute").iterdir()) == []


def test_what_a_dead_upload_left_is_removed_a_day_later(tmp_path: Path) -> None:
    with running_store(tmp_path):
        pass
    incoming = tmp_path / "media" / "incoming"
    for name, age_seconds in (("old.part", 25 * 3600), ("young.part", 3600)):
        (incoming / name).write_bytes(b"x")
        then = (incoming / name).stat().st_mtime - age_seconds
        os.utime(incoming / name, (then, then))
    with running_store(tmp_path):
        assert [path.name for path in incoming.iterdir()] == ["young.part"]


@pytest.mark.parametrize("path", ["/entities", "/compute/jobs/image_resize"])
def test_a_client_that_goes_away_in_the_middle_leaves_nothing(tmp_path: Path, path: str) -> None:
    with served_store(tmp_path) as store:
        name = "media_file" if path == "/entities" else "file"
        begun = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            f"Authorization: {store.ann['Authorization']}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'
        )
        with socket.create_connection(
            (store.client.base_url.host, store.client.base_url.port)
        ) as s:
            s.sendall(begun.encode() + b"x" * 500_000)
            wait_until(lambda: _unfinished(store))
        wait_until(lambda: not _unfinished(store))
        assert store.client.get("/compute/jobs", headers=store.admin).json()["items"] == []


def _unfinished(store: RunningStore) -> list[Path]:
    incoming = store.settings.media_dir / "incoming"
    return [*incoming.iterdir(), *(store.settings.compute_dir / "jobs").glob("*")]


def test_the_database_away_is_told_and_comes_back(tmp_path: Path) -> None:
    with running_store(tmp_path) as store:
        with store.worker.engine.begin() as connection:
            connection.execute(text("ALTER TABLE entities RENAME TO away"))
        answer = store.client.get("/entities", headers=store.ann)
        assert_problem(answer, 503)
        assert "retry-after" in answer.headers
        with store.worker.engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO entities"))
        assert store.client.get("/entities", headers=store.ann).status_code == 200


def test_the_application_is_made_without_touching_anything(tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    signer = Signer(tmp_path)
    create_app(settings_in(tmp_path, signer))
    assert sorted(tmp_path.iterdir()) == [*before, signer.public_key_path]


def test_the_command_starts_serves_and_stops(tmp_path: Path) -> None:
    Signer(tmp_path)
    environment = {**os.environ, "CL_SERVER_DIR": str(tmp_path), "BROADCAST_TYPE": "none"}
    command = [sys.executable, "-m", "cl_server", "store", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr)
            assert any("the store service listens on http://127.0.0.1:" in line for line in lines)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert (tmp_path / "media_store.db").exists()


def test_a_database_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    with running_store(tmp_path):
        pass
    database = tmp_path / "media_store.db"
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    database.chmod(0o640)
    with running_store(tmp_path) as store:
        store.add_collection()
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("media_store.db*")}
    assert modes == {0o640}
