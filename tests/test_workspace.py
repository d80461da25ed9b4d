"""Paths that a client names: none leads out, and what is refused is said."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cl_ml_tools.names import MAX_COMPONENT_BYTES
from cl_ml_tools.workspace import (
    attempt_path,
    check_name,
    check_relative_path,
    discard_attempt,
    publish_attempt,
    resolve_inside,
    start_attempt,
)

# What the contract refuses, whether it is a name or a path.
REFUSED = [
    "",
    " ",
    ".",
    "./",
    "..",
    "...",
    ". .",
    "../a",
    "a/../b",
    "a/..",
    "a\\..\\b",
    "..\\a",
    "/",
    "/etc/passwd",
    "\\etc",
    "//server/share",
    "\\\\server\\share",
    "C:",
    "c:\\a",
    "C:/a",
    "./C:/a",
    ".\\C:",
    "a\0b",
    "\0",
    "a\nb",
    "a\x7fb",
    "\ud800",
    "CON",
    "con",
    "nul.txt",
    "NUL .txt",
    "Aux.tar.gz",
    "a/COM1",
    "COM¹",
    "lpt9.jpg",
    "CONIN$",
    "nul:",
    "x" * 241,
    "ü" * 121,
    "a/" + "x" * 300,
    "x" * 300,
    "/".join(["x" * 200] * 30),
]

ACCEPTED = {
    "a.jpg": "a.jpg",
    "subdir/a.jpg": "subdir/a.jpg",
    "subdir\\a.jpg": "subdir/a.jpg",
    "./a.jpg": "a.jpg",
    "a//b.jpg": "a/b.jpg",
    "...a": "...a",
    "a..b": "a..b",
    "console.txt": "console.txt",
    "com10": "com10",
    "日本 🦆.jpg": "日本 🦆.jpg",
    "x" * 240: "x" * 240,
}

SEGMENTS = st.sampled_from(["..", ".", "a", "nul", "C:", "", "~", "%2e%2e", "．．", "link"])
PATHS = st.one_of(
    st.text(max_size=40),
    st.lists(st.one_of(SEGMENTS, st.text(max_size=5)), max_size=6).map("/".join),
    st.lists(st.one_of(SEGMENTS, st.text(max_size=5)), max_size=6).map("\\".join),
)


@pytest.mark.parametrize("text", REFUSED, ids=[ascii(text)[:30] for text in REFUSED])
def test_an_unsafe_path_is_refused(text: str, tmp_path: Path) -> None:
    for check in (check_relative_path, check_name, lambda path: resolve_inside(tmp_path, path)):
        with pytest.raises(ValueError):
            check(text)


@pytest.mark.parametrize(("text", "path"), list(ACCEPTED.items()))
def test_a_safe_path_is_kept(text: str, path: str) -> None:
    assert check_relative_path(text) == PurePosixPath(path)


@pytest.mark.parametrize("text", ["a/b", "a\\b", "a/", "./a"])
def test_a_name_is_a_single_component(text: str) -> None:
    with pytest.raises(ValueError, match="single name"):
        check_name(text)


@given(text=PATHS)
@example(text="a/../../b")
@example(text="link/../..")
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_path_ever_leads_outside(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    link = folder / "link"
    if not link.is_symlink():
        link.symlink_to(tmp_path)
    try:
        path = resolve_inside(folder, text)
    except ValueError:
        return
    assert path.is_absolute()
    assert folder.resolve() in path.resolve().parents
    assert all(len(part.encode()) <= MAX_COMPONENT_BYTES for part in path.relative_to(folder).parts)


@given(text=PATHS)
@settings(max_examples=200)
def test_a_path_that_was_checked_is_accepted_again(text: str) -> None:
    try:
        path = check_relative_path(text)
    except ValueError:
        return
    assert check_relative_path(path.as_posix()) == path


@pytest.mark.parametrize("target", ["..", "/", "../other", "../../nowhere"])
def test_a_link_that_points_out_is_refused(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").symlink_to(target)

    for text in ("out", "out/a.jpg"):
        with pytest.raises(ValueError, match="outside"):
            resolve_inside(folder, text)


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert resolve_inside(tmp_path, "link/a") == tmp_path / "link" / "a"


def test_a_folder_that_is_itself_a_link_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert resolve_inside(tmp_path / "link", "a") == tmp_path / "link" / "a"


# Attempts.


def test_an_attempt_starts_empty(tmp_path: Path) -> None:
    (start_attempt(tmp_path, 1) / "left.txt").write_text("from a crash")

    assert list(start_attempt(tmp_path, 1).iterdir()) == []


@pytest.mark.parametrize("output", ["absent", "empty", "full"])
def test_the_published_attempt_becomes_the_output(tmp_path: Path, output: str) -> None:
    if output != "absent":
        (tmp_path / "output").mkdir()
    if output == "full":
        (tmp_path / "output" / "a").write_text("old")
    start_attempt(tmp_path, 1).joinpath("lost").write_text("by another attempt")
    written = start_attempt(tmp_path, 2)
    (written / "sub").mkdir()
    (written / "a").write_text("new")
    (written / "sub" / "b").write_text("deep")

    publish_attempt(tmp_path, 2)
    publish_attempt(tmp_path, 2)  # a reader may finish what a crash left

    assert (tmp_path / "output" / "a").read_text() == "new"
    assert (tmp_path / "output" / "sub" / "b").read_text() == "deep"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["a", "sub"]


def test_a_discarded_attempt_is_gone(tmp_path: Path) -> None:
    start_attempt(tmp_path, 1).joinpath("a").write_text("x")

    discard_attempt(tmp_path, 1)
    discard_attempt(tmp_path, 1)

    assert not attempt_path(tmp_path, 1).exists()
