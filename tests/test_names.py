"""File names: which one is free, and how long it may be."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cl_ml_tools.compute import BaseJobParams, with_output_paths
from cl_ml_tools.names import MAX_COMPONENT_BYTES, fitted_name, unique_path, unique_paths
from cl_ml_tools.workspace import check_relative_path

# Long ones often, with characters of one to four bytes.
TEXT = st.builds(
    lambda part, times, rest: part * times + rest,
    st.text(st.sampled_from("aü日🦆. "), min_size=1, max_size=3),
    st.integers(1, 120),
    st.sampled_from(["", ".jpg", ".tar.gz", "." + "x" * 100]),
)


def test_a_free_name_is_kept() -> None:
    assert unique_path("input/a.jpg", ["input/b.jpg", "a.jpg"]) == "input/a.jpg"


@pytest.mark.parametrize(
    ("wanted", "taken", "path"),
    [
        ("input/a.jpg", ["input/a.jpg"], "input/a (2).jpg"),
        ("a.jpg", ["a.jpg", "a (2).jpg"], "a (3).jpg"),
        ("a.jpg", ["A.JPG"], "a (2).jpg"),
        ("a.tar.gz", ["a.tar.gz"], "a.tar (2).gz"),
        (".a", [".a"], ".a (2)"),
        ("x" * 236 + ".jpg", ["x" * 236 + ".jpg"], "x" * 232 + " (2).jpg"),
        ("x" * 240, ["x" * 240], "x" * 236 + " (2)"),
        ("ü" * 118 + ".jpg", ["ü" * 118 + ".jpg"], "ü" * 116 + " (2).jpg"),
        ("🦆" * 59 + ".jpg", ["🦆" * 59 + ".jpg"], "🦆" * 58 + " (2).jpg"),
        # What is that long is no extension.
        ("a." + "x" * 238, ["a." + "x" * 238], "a." + "x" * 234 + " (2)"),
    ],
)
def test_a_taken_name_gets_a_number_and_keeps_its_extension(
    wanted: str, taken: list[str], path: str
) -> None:
    assert unique_path(wanted, taken) == path


def test_of_several_paths_each_gets_a_name_of_its_own() -> None:
    wanted = ["a.jpg", "A.jpg", "b.jpg", "a (2).jpg", "a.jpg", "c.jpg"]
    assert unique_paths(wanted, ["C.JPG"]) == [
        "a.jpg",
        "A (2).jpg",
        "b.jpg",
        "a (2) (2).jpg",
        "a (3).jpg",
        "c (2).jpg",
    ]


@pytest.mark.timeout(10)  # where each is compared with all others this takes minutes
def test_names_and_paths_of_very_many_files_are_found_in_no_time() -> None:
    assert unique_paths(["a.jpg"] * 20_000)[-1] == "a (20000).jpg"
    paths = [f"input/{number}.jpg" for number in range(50_000)]
    assert BaseJobParams(input_paths=paths).input_paths == paths


@given(name=TEXT)
@example(name="x" * 236 + ".jpg")
@example(name="🦆" * 60)
@example(name=". " + "x" * 238)
@settings(max_examples=200, deadline=None)
def test_a_numbered_name_is_accepted_as_the_name_was(name: str) -> None:
    try:
        check_relative_path(name)
    except ValueError:
        return
    taken = [name]
    for _ in range(11):
        taken.append(unique_path(name, taken))
        assert check_relative_path(taken[-1]).as_posix() == taken[-1]
    assert len(set(taken)) == 12


@given(stem=TEXT, suffix=st.sampled_from(["", ".jpg", "." + "y" * 239]))
def test_a_fitted_name_fits(stem: str, suffix: str) -> None:
    assert len(fitted_name(stem, suffix).encode()) <= MAX_COMPONENT_BYTES


def test_a_local_name_that_is_no_unicode_gets_a_number() -> None:
    assert unique_path("\udcff.jpg", ["\udcff.jpg"]) == "\udcff (2).jpg"


def test_outputs_of_the_longest_name_are_told_apart() -> None:
    class Params(BaseJobParams):
        def default_output_path(self, input_path: str) -> str:
            return "output/" + "x" * 236 + ".jpg"

    first, second = with_output_paths(Params(input_paths=["input/a", "input/b"]))

    assert (len(first), len(second)) == (len("output/") + 240,) * 2
    assert second.endswith("x (2).jpg")
