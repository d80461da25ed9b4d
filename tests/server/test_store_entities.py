"""Media files and collections: taking them in, finding them, handing them out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_harness import (
    MAX_UPLOAD_BYTES,
    RunningStore,
    assert_problem,
    picture,
    running_store,
    wrong_values,
)

ENTITY_KEYS = {
    "id",
    "is_collection",
    "label",
    "description",
    "parent_id",
    "added_date",
    "updated_date",
    "create_date",
    "is_deleted",
    "is_indirectly_deleted",
    "children_count",
    "added_by",
    "updated_by",
    "file_size",
    "height",
    "width",
    "duration",
    "mime_type",
    "type",
    "extension",
    "md5",
    "sha256",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path) as store:
        yield store


def test_a_photo_becomes_an_entity_that_knows_what_its_bytes_say(store: RunningStore) -> None:
    content = picture(64, 48, orientation=6)

    answer = store.upload(content, "IMG_1.JPG", label="Sunset", description="over the sea")

    assert answer.status_code == 201
    entity = answer.json()
    assert answer.headers["location"] == f"/entities/{entity['id']}"
    assert entity.keys() == ENTITY_KEYS
    assert (entity["width"], entity["height"]) == (48, 64)  # upright, as it is shown
    assert entity["mime_type"] == "image/jpeg"
    assert entity["type"] == "image"
    assert entity["extension"] == "jpg"
    assert entity["create_date"] == 1577934245000
    assert entity["file_size"] == len(content)
    assert entity["md5"] == hashlib.md5(content).hexdigest()
    assert entity["sha256"] == hashlib.sha256(content).hexdigest()
    assert (entity["label"], entity["description"]) == ("Sunset", "over the sea")
    assert (entity["added_by"], entity["updated_by"]) == ("2", "2")
    assert entity["parent_id"] is None
    assert not entity["is_collection"]
    assert store.client.get(answer.headers["location"], headers=store.ann).json() == entity


def test_the_field_image_is_a_file_too(store: RunningStore) -> None:
    answer = store.client.post(
        "/entities",
        files={"image": ("a.jpg", picture())},
        data={"is_collection": "false", "label": "", "parent_id": ""},
        headers=store.ann,
    )
    assert answer.status_code == 201
    assert answer.json()["label"] is None


def test_the_same_bytes_again_are_the_entity_that_is_there(store: RunningStore) -> None:
    first = store.upload(picture(), "a.jpg", label="first")
    second = store.upload(picture(), "b.jpg", label="second")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert store.media_files() == [first.json()["sha256"]]


def test_uploads_of_the_same_bytes_at_once_become_one_entity(store: RunningStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.upload(picture()), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(store.media_files()) == 1


@pytest.mark.parametrize(
    ("content", "mime_type", "kind"),
    [
        (b"just a text, whatever its name says", "text/plain", "text"),
        (picture()[:300], "image/jpeg", "image"),
        (bytes(range(256)), "application/octet-stream", "other"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml", "other"),
    ],
)
def test_what_is_no_picture_that_can_be_read_is_kept_without_a_size(
    store: RunningStore, content: bytes, mime_type: str, kind: str
) -> None:
    answer = store.upload(content, "fake.jpg")
    assert answer.status_code == 201
    entity = answer.json()
    assert (entity["mime_type"], entity["type"]) == (mime_type, kind)
    assert (entity["width"], entity["height"]) == (None, None)


def test_a_file_is_needed_and_a_collection_has_none(store: RunningStore) -> None:
    without = store.client.post("/entities", data={"is_collection": "false"}, headers=store.ann)
    assert wrong_values(without) == ["media_file"]
    assert wrong_values(store.upload(picture(), is_collection="true")) == ["media_file"]
    assert wrong_values(store.upload(b"")) == ["media_file"]
    assert store.media_files() == []


def test_a_collection_can_be_made_with_a_form_and_with_json(store: RunningStore) -> None:
    store.add_collection(label="Trip")
    answer = store.client.post(
        "/entities", json={"is_collection": True, "label": "Trip"}, headers=store.ann
    )
    assert answer.status_code == 201
    assert answer.json()["type"] is None


def test_a_collection_counts_what_it_holds(store: RunningStore) -> None:
    trip = store.add_collection(label="Trip")
    store.add_collection(parent_id=trip)
    store.upload(picture(), parent_id=trip)
    assert store.client.get(f"/entities/{trip}", headers=store.ann).json()["children_count"] == 2


def test_an_entity_goes_only_into_a_collection(store: RunningStore) -> None:
    photo = store.upload(picture()).json()["id"]
    for parent_id in (photo, photo + 1, 0, "x"):
        refused = store.upload(picture(colour="blue"), parent_id=parent_id)
        assert wrong_values(refused) == ["parent_id"]
    in_json = {"is_collection": True, "label": "Trip", "parent_id": True}
    refused = store.client.post("/entities", json=in_json, headers=store.ann)
    assert wrong_values(refused) == ["parent_id"]
    assert len(store.media_files()) == 1


@pytest.mark.parametrize(("field", "limit"), [("label", 255), ("description", 10_000)])
def test_a_text_that_is_too_long_is_told_in_characters(
    store: RunningStore, field: str, limit: int
) -> None:
    refused = store.upload(picture(), **{field: "x" * (limit + 1)})

    assert_problem(refused, 422)
    assert refused.json()["detail"] == f"{field}: String should have at most {limit} characters"
    assert store.upload(picture(), **{field: "x" * limit}).status_code == 201


@pytest.mark.parametrize("field", ["media_file", "image"])
def test_a_file_that_is_sent_as_text_is_told_so(store: RunningStore, field: str) -> None:
    data = {"is_collection": "false", "parent_id": "x", field: "the bytes"}

    refused = store.client.post("/entities", data=data, headers=store.ann)

    assert wrong_values(refused) == [field, "parent_id"]
    assert f"{field}: this is text, not a file" in refused.json()["detail"]


def test_there_are_ten_levels(store: RunningStore) -> None:
    parent = store.add_collection()
    for _ in range(8):
        parent = store.add_collection(parent_id=parent)
    assert store.upload(picture(), parent_id=parent).status_code == 201
    deepest = store.add_collection(parent_id=parent)
    assert wrong_values(store.upload(picture(colour="blue"), parent_id=deepest)) == ["parent_id"]


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "/etc/a.jpg",
        "..",
        "con.jpg",
        "a" * 300 + ".jpg",
        "C:a.jpg",
        "sub/../../a.jpg",
        "a%00.jpg",
    ],
)
def test_a_bad_file_name_is_refused_and_nothing_is_left(store: RunningStore, name: str) -> None:
    assert wrong_values(store.upload(picture(), name)) == ["media_file"]
    assert store.media_files() == []


def test_a_bad_value_is_named(store: RunningStore) -> None:
    refused = store.upload(picture(), label="x" * 256, is_collection="perhaps")
    assert sorted(wrong_values(refused)) == ["is_collection", "label"]
    assert wrong_values(store.upload(picture(), description="a\0b")) == ["description"]
    assert wrong_values(store.upload(picture(), lable="x", tags="y")) == ["lable", "tags"]
    assert wrong_values(store.upload(picture(), is_collection="")) == ["is_collection"]
    without = store.client.post("/entities", files={"image": ("a.jpg", b"x")}, headers=store.ann)
    assert wrong_values(without) == ["is_collection"]
    two = [("media_file", ("a.jpg", picture())), ("image", ("b.jpg", picture()))]
    assert wrong_values(store.client.post("/entities", files=two, headers=store.ann)) == ["image"]
    other = {"attachment": ("a.jpg", picture())}
    assert wrong_values(store.client.post("/entities", files=other, headers=store.ann)) == [
        "attachment"
    ]
    assert store.media_files() == []


def test_a_file_over_the_limit_is_refused_and_nothing_is_left(store: RunningStore) -> None:
    assert_problem(store.upload(b"x" * (MAX_UPLOAD_BYTES + 1)), 413)
    assert store.media_files() == []
    assert store.upload(b"x" * MAX_UPLOAD_BYTES).status_code == 201


def test_a_body_that_is_cut_off_or_no_form_is_refused(store: RunningStore) -> None:
    def post(content_type: str, body: bytes) -> int:
        headers = {**store.ann, "content-type": content_type}
        answer = store.client.post("/entities", content=body, headers=headers)
        assert_problem(answer, answer.status_code)
        return answer.status_code

    begun = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\nabc'
    assert post("multipart/form-data; boundary=b", begun) == 400
    assert post("multipart/form-data", begun) == 400
    assert post("application/xml", b"<a/>") == 415
    assert post("application/json", b"[1]") == 422
    assert post("application/json", b"{") == 422
    assert store.media_files() == []


def test_a_file_name_that_is_no_utf_8_is_told_in_our_words(store: RunningStore) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="\xe9.jpg"\r\n\r\na\r\n--b--\r\n'
    headers = {**store.ann, "content-type": "multipart/form-data; boundary=b"}
    problem = assert_problem(store.client.post("/entities", content=body, headers=headers), 400)
    assert "header failed to decode" in problem["detail"]
    assert "UnicodeDecodeError" not in problem["detail"]


def test_entities_are_listed_newest_first_and_page_by_page(store: RunningStore) -> None:
    ids = [store.upload(b"file %d" % number).json()["id"] for number in range(5)]

    answer = store.client.get("/entities?page=2&page_size=2", headers=store.ann).json()

    assert [entity["id"] for entity in answer["items"]] == ids[::-1][2:4]
    assert answer["pagination"] == {
        "page": 2,
        "page_size": 2,
        "total_items": 5,
        "total_pages": 3,
        "has_next": True,
        "has_prev": True,
    }
    assert store.client.get("/entities?page=9", headers=store.ann).json()["items"] == []
    for query in ("page_size=101", "page_size=0", "page=0", "page=x"):
        assert_problem(store.client.get(f"/entities?{query}", headers=store.ann), 422)


def test_entities_are_found_by_md5_and_by_label(store: RunningStore) -> None:
    wanted = store.upload(b"wanted", label="Sunset").json()
    store.upload(b"other", label="Sunset at sea")
    for query in (f"md5={wanted['md5'].upper()}", "label=Sunset"):
        answer = store.client.get(f"/entities?{query}", headers=store.ann).json()
        assert [entity["id"] for entity in answer["items"]] == [wanted["id"]]
        assert answer["pagination"]["total_items"] == 1


def test_an_empty_filter_is_not_given(store: RunningStore) -> None:
    ids = [store.upload(b"1", label="Sunset").json()["id"], store.upload(b"2").json()["id"]]
    for query in ("label=", "md5=", "label=&md5="):
        answer = store.client.get(f"/entities?{query}", headers=store.ann).json()
        assert [entity["id"] for entity in answer["items"]] == ids[::-1]


def test_an_id_that_is_not_there_is_not_found(store: RunningStore) -> None:
    for path in ("/entities/99", "/entities/0", "/entities/99/media"):
        assert_problem(store.client.get(path, headers=store.ann), 404)
    assert_problem(store.client.get(f"/entities/{2**64}", headers=store.ann), 422)


def test_the_bytes_come_back_as_they_went_in(store: RunningStore) -> None:
    content = picture()
    entity = store.upload(content, "Sonne ä.jpg").json()
    path = f"/entities/{entity['id']}/media"

    answer = store.client.get(path, headers=store.ann)

    assert answer.content == content
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["etag"] == f'"{entity["sha256"]}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''Sonne%20%C3%A4.jpg"
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    head = store.client.head(path, headers=store.ann)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content))
    for part in ("bytes=0-1", "bytes=999999-"):  # of GET only: RFC 9110, 14.2
        head = store.client.head(path, headers={**store.ann, "Range": part})
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))


def test_openapi_has_no_ranges_for_head(store: RunningStore) -> None:
    paths = store.client.get("/openapi.json").json()["paths"]["/entities/{entity_id}/media"]

    assert {"206", "416"} <= paths["get"]["responses"].keys()
    assert not {"206", "416"} & paths["head"]["responses"].keys()


def test_parts_of_a_file_and_nothing_where_it_is_known(store: RunningStore) -> None:
    content = bytes(range(256)) * 4
    entity = store.upload(content, "a.bin").json()
    etag = f'"{entity["sha256"]}"'

    def get(**headers: str) -> tuple[int, bytes]:
        sent = {**store.ann, **{name.replace("_", "-"): text for name, text in headers.items()}}
        answer = store.client.get(f"/entities/{entity['id']}/media", headers=sent)
        return answer.status_code, answer.content

    assert get(range="bytes=10-19") == (206, content[10:20])
    assert get(range="bytes=-4") == (206, content[-4:])
    assert get(range="bytes=1020-") == (206, content[1020:])
    assert get(range="bytes=10-19", if_range=etag) == (206, content[10:20])
    assert get(range="bytes=10-19", if_range='"other"') == (200, content)
    assert get(range="bytes=9999-", if_range='"other"') == (200, content)
    for nonsense in ("bytes=19-10", "lines=1-2", "bytes=a-b", "bytes="):
        assert get(range=nonsense) == (200, content)
    assert get(range="bytes=1024-")[0] == 416
    assert get(range="bytes=0-1, 5-6")[0] == 206
    assert get(range="bytes=2-3,9999-") == (206, content[2:4])
    assert get(range="bytes=9999-,-0, 2-3") == (206, content[2:4])
    assert get(range="bytes=9999-,-0")[0] == 416
    assert get(if_none_match=etag) == (304, b"")
    assert get(if_none_match=f'"x", W/{etag}') == (304, b"")
    assert get(if_none_match='"x"') == (200, content)


@pytest.mark.parametrize(
    "content", [b"<!doctype html><script>1</script>", b'<svg xmlns="http://www.w3.org/2000/svg"/>']
)
def test_what_may_run_scripts_is_only_downloaded(store: RunningStore, content: bytes) -> None:
    entity = store.upload(content, "x.jpg").json()
    answer = store.client.get(f"/entities/{entity['id']}/media", headers=store.ann)
    assert answer.headers["content-disposition"] == 'attachment; filename="x.jpg"'
    assert "sandbox" in answer.headers["content-security-policy"]


def test_a_collection_has_no_bytes(store: RunningStore) -> None:
    trip = store.add_collection()
    assert_problem(store.client.get(f"/entities/{trip}/media", headers=store.ann), 400)


def test_a_media_file_that_is_gone_is_an_outage_and_comes_back_with_its_bytes(
    store: RunningStore,
) -> None:
    entity = store.upload(picture()).json()
    digest = entity["sha256"]
    (store.settings.media_dir / digest[:2] / digest[2:4] / digest).unlink()
    assert_problem(store.client.get(f"/entities/{entity['id']}/media", headers=store.ann), 503)
    assert store.upload(picture()).status_code == 200
    answer = store.client.get(f"/entities/{entity['id']}/media", headers=store.ann)
    assert answer.content == picture()
