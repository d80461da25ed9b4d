"""`/events`: what happens to jobs, over a real socket."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from store_harness import RunningStore, assert_problem, served_store, wait_until

from cl_server.store import event_stream


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with served_store(tmp_path) as store:
        yield store


class Reader:
    """Reads a stream in a thread: `(id or None, event)`; a comment is `(None, None)`."""

    def __init__(self, response: httpx2.Response) -> None:
        self._messages: queue.Queue[tuple[str | None, dict[str, Any] | None]] = queue.Queue()
        self.ended = threading.Event()
        threading.Thread(target=self._read, args=(response,), daemon=True).start()
        assert self.next() == (None, None)  # it says that it is connected

    def next(self) -> tuple[str | None, dict[str, Any] | None]:
        return self._messages.get(timeout=10)

    def next_event(self) -> dict[str, Any]:
        """The next one but for progress."""
        while (event := self.next()[1]) is None or event["event_type"] == "progress":
            pass
        return event

    def until(self, event_type: str) -> list[tuple[str | None, dict[str, Any] | None]]:
        found = [self.next()]
        while found[-1][1] is None or found[-1][1]["event_type"] != event_type:
            found.append(self.next())
        return found

    def _read(self, response: httpx2.Response) -> None:
        fields: dict[str, str] = {}
        try:
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    data = json.loads(fields["data"]) if "data" in fields else None
                    self._messages.put((fields.get("id"), data))
                    fields = {}
        except httpx2.HTTPError:
            pass
        self.ended.set()


@contextmanager
def following(
    store: RunningStore, who: dict[str, str], query: str = "", **headers: str
) -> Iterator[Reader]:
    sent = {**who, **{name.replace("_", "-"): value for name, value in headers.items()}}
    with store.client.stream("GET", f"/events{query}", headers=sent) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


def test_each_step_of_a_job_is_told_in_order(store: RunningStore) -> None:
    with following(store, store.ann) as reader:
        job_id = store.add_job()["job_id"]
        claimed = store.worker.claim()
        store.worker.complete(claimed, width=32)
        events = [reader.next_event() for _ in range(3)]

    assert [event["event_type"] for event in events] == ["queued", "started", "completed"]
    assert [event["status"] for event in events] == ["queued", "processing", "completed"]
    assert {event["job_id"] for event in events} == {job_id}
    assert [event["event_id"] for event in events] == sorted(event["event_id"] for event in events)
    assert events[-1]["task_output"] == {"width": 32}
    assert events[-1]["progress"] == 100


def test_the_end_of_a_job_that_is_deleted_while_it_waits_is_told(store: RunningStore) -> None:
    with following(store, store.ann) as reader:
        job_id = store.add_job()["job_id"]
        deleted = store.client.delete(f"/compute/jobs/{job_id}", headers=store.ann)
        assert deleted.status_code == 204
        events = [reader.next_event() for _ in range(2)]
    assert [event["event_type"] for event in events] == ["queued", "cancelled"]
    assert {event["job_id"] for event in events} == {job_id}


def test_a_stream_without_a_place_begins_now(store: RunningStore) -> None:
    store.add_job()
    with following(store, store.ann) as reader:
        later = store.add_job()["job_id"]
        assert reader.next_event()["job_id"] == later


def test_a_client_that_comes_back_misses_nothing_and_gets_nothing_twice(
    store: RunningStore,
) -> None:
    jobs = [store.add_job()["job_id"] for _ in range(3)]
    with following(store, store.ann, last_event_id="0") as reader:
        seen = [reader.next() for _ in range(2)]
    jobs += [store.add_job()["job_id"] for _ in range(2)]
    last_event_id = str(seen[-1][0])
    with following(store, store.ann, last_event_id=last_event_id) as reader:
        seen += [reader.next() for _ in range(3)]
    assert [event["job_id"] for _, event in seen if event] == jobs


def test_a_place_from_another_database_is_the_newest(store: RunningStore) -> None:
    store.add_job()
    with following(store, store.ann, last_event_id="999999") as reader:
        later = store.add_job()["job_id"]
        assert reader.next_event()["job_id"] == later


def test_more_events_than_are_read_at_once_all_come(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "EVENTS_AT_ONCE", 2)
    jobs = [store.add_job()["job_id"] for _ in range(5)]
    with following(store, store.ann, last_event_id="0") as reader:
        assert [reader.next_event()["job_id"] for _ in range(5)] == jobs


def test_one_sees_ones_own_jobs_and_an_admin_all(store: RunningStore) -> None:
    mine = store.add_job()["job_id"]
    data = {"width": "1", "height": "1"}
    files = {"file": ("a", b"x")}
    answer = store.client.post(
        "/compute/jobs/image_resize", data=data, files=files, headers=store.bob
    )
    other = answer.json()["job_id"]
    third = store.add_job()["job_id"]
    expected = {
        "ann": (store.ann, "", [mine, third]),
        "bob": (store.bob, "", [other]),
        "admin": (store.admin, "", [mine, other, third]),
        "by permission": (
            store.signer.bearer("9", "ai_inference_support", "admin"),
            "",
            [mine, other, third],
        ),
        "one job": (store.admin, f"?job_id={other}", [other]),
    }
    for who, query, jobs in expected.values():
        with following(store, who, query, last_event_id="0") as reader:
            assert [reader.next_event()["job_id"] for _ in jobs] == jobs


def test_progress_comes_without_an_id_and_never_after_the_end(store: RunningStore) -> None:
    job_id = store.add_job()["job_id"]
    claimed = store.worker.claim()
    with following(store, store.ann, last_event_id="0") as reader:
        started = time.monotonic()
        for progress in range(1, 60):
            store.worker.repository.report_progress(claimed.claim, progress)
            time.sleep(0.02)
        store.worker.complete(claimed)
        messages = reader.until("completed")
        seconds = time.monotonic() - started
        store.add_job()
        assert reader.next()[1]["event_type"] == "queued"  # type: ignore[index]

    told = [(place, event) for place, event in messages if event]
    progress = [(place, event) for place, event in told if event["event_type"] == "progress"]
    assert progress
    assert len(progress) <= 2 * seconds + 1
    for place, event in progress:
        assert place is None
        assert event["event_id"] is None
        assert (event["job_id"], event["status"]) == (job_id, "processing")
    values = [event["progress"] for _, event in progress]
    assert values == sorted(set(values))


def test_a_silent_stream_says_that_it_lives(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.05)
    with following(store, store.ann) as reader:
        assert reader.next() == (None, None)
        assert reader.next() == (None, None)


def test_a_stream_says_that_it_lives_also_while_others_have_news(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.5)
    with following(store, store.bob) as reader, ThreadPoolExecutor(1) as pool:
        comment = pool.submit(reader.next)
        give_up = time.monotonic() + 8
        while not comment.done() and time.monotonic() < give_up:
            store.add_job()
        assert comment.done()
        assert comment.result() == (None, None)


def test_streams_end_at_once_when_the_service_stops(tmp_path: Path) -> None:
    with served_store(tmp_path) as store:
        with following(store, store.ann) as reader:
            # As `serve` does at a signal, from within the loop.
            store.stop()
            assert reader.ended.wait(5)


def test_a_place_that_is_no_number_is_refused(store: RunningStore) -> None:
    for place in ("x", "-1", "1.5", str(2**70)):
        headers = {**store.ann, "last-event-id": place}
        assert_problem(store.client.get("/events", headers=headers), 422)


def test_a_client_that_goes_away_is_forgotten(store: RunningStore) -> None:
    feed = store.app.state.feed
    with store.client.stream("GET", "/events", headers=store.ann):
        wait_until(lambda: feed.listeners == 1)
    wait_until(lambda: feed.listeners == 0)
