"""Finding installed modules: through entry points of any distribution on the path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from cl_ml_tools import BaseJobParams, ComputeModule
from cl_ml_tools.compute import with_output_paths
from cl_ml_tools.errors import DuplicateTask, InvalidParams, UnknownTask
from cl_ml_tools.registry import find_tasks, load_task, validate_params

MODULE = """
from cl_ml_tools import ComputeModule

class Module(ComputeModule):
    supported_task_types = {task_types!r}

    async def process(self, job_id, task_type, params, progress_callback=None):
        return {{"status": "ok", "task_output": {{}}}}
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes a distribution with modules, as pip would leave it."""

    def make(name: str, source: str, entry: str = "", folder: str = "site") -> None:
        site = tmp_path / folder
        site.mkdir(exist_ok=True)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        points = entry or f"{module} = {module}:Module"
        (info / "entry_points.txt").write_text(f"[cl_ml_tools.tasks]\n{points}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return make


def test_the_built_in_tasks_are_found() -> None:
    tasks = find_tasks()

    assert {"image_resize", "image_conversion"} <= set(tasks.by_type)
    assert tasks["image_resize"].distribution == "cl-server-shared"
    assert tasks.broken == []
    assert list(tasks.by_type) == sorted(tasks.by_type)


def test_a_module_of_any_distribution_is_found(install: Install) -> None:
    install("fake-one", MODULE.format(task_types=["fake_a", "fake_b"]))
    tasks = find_tasks()

    assert tasks["fake_a"].distribution == "fake-one"
    assert tasks["fake_a"].module is tasks["fake_b"].module
    assert isinstance(load_task("fake_b"), ComputeModule)


def test_two_modules_with_one_task_type_name_both_distributions(install: Install) -> None:
    install("fake-one", MODULE.format(task_types=["fake_same"]))
    install("fake-two", MODULE.format(task_types=["fake_same"]))

    with pytest.raises(DuplicateTask) as raised:
        find_tasks()
    assert "'fake_same'" in str(raised.value)
    assert "'fake-one'" in str(raised.value) and "'fake-two'" in str(raised.value)


def test_two_modules_of_one_distribution_are_told_apart(install: Install) -> None:
    source = MODULE.format(task_types=["fake_same"])
    install(
        "fake-one",
        source + "\nclass Other(Module): ...\n",
        "a = fake_one:Module\nb = fake_one:Other",
    )

    with pytest.raises(DuplicateTask) as raised:
        find_tasks()
    assert "fake_one.Module" in str(raised.value) and "fake_one.Other" in str(raised.value)


def test_a_built_in_task_is_not_replaced_in_silence(install: Install) -> None:
    install("fake-one", MODULE.format(task_types=["image_resize"]))

    with pytest.raises(DuplicateTask, match="cl-server-shared"):
        load_task("image_resize")


def test_one_module_under_two_names_is_one(install: Install) -> None:
    points = "a = fake_one:Module\nb = fake_one:Module"
    install("fake-one", MODULE.format(task_types=["fake_a"]), points)

    assert find_tasks()["fake_a"].distribution == "fake-one"


def test_a_distribution_that_is_shadowed_is_not_a_second_one(install: Install) -> None:
    install("fake-one", MODULE.format(task_types=["fake_a"]), folder="first")
    install("fake-one", MODULE.format(task_types=["fake_a"]), folder="second")

    assert "fake_a" in find_tasks().by_type


@pytest.mark.parametrize(
    ("source", "entry", "said"),
    [
        ("raise RuntimeError('boom')", "", "boom"),
        ("import not_installed_anywhere", "", "not_installed_anywhere"),
        ("raise SystemExit(3)", "", "SystemExit"),
        ("Module = dict", "", "dict"),
        ("Module = 5", "", "not callable"),
        ("", "", "Module"),
        ("x = 1", "x = fake_broken_nowhere:Module", "fake_broken_nowhere"),
        (MODULE.format(task_types=[]) + "    def __init__(self, needed): ...", "", "needed"),
        (
            MODULE.format(task_types=[]) + "    @property\n    def supported_task_types(self): 1/0",
            "",
            "ZeroDivisionError",
        ),
        (MODULE.format(task_types=["t"]).replace("process", "other"), "", "abstract"),
        (MODULE.format(task_types=["a/b"]), "", "'a/b' has a '/'"),
        (MODULE.format(task_types=["t", ""]), "", "''"),
        (MODULE.format(task_types=["t", 5]), "", "5"),
        (MODULE.format(task_types=["t", None]), "", "None"),
        (MODULE.format(task_types=["t" * 256]), "", "255"),
        (MODULE.format(task_types=["a\0b"]), "", "255"),
        (MODULE.format(task_types="resize"), "", "'resize' is not a list"),
        (MODULE.format(task_types=[]), "", "[] is not a list"),
        ("", "no equals sign", "entry points of 'fake-broken' cannot be read"),
    ],
)
def test_a_broken_module_is_named_and_the_others_work(
    install: Install, source: str, entry: str, said: str
) -> None:
    install("fake-broken", source, entry)
    install("fake-one", MODULE.format(task_types=["fake_a"]))

    tasks = find_tasks()

    assert "fake_a" in tasks.by_type and "image_resize" in tasks.by_type
    (error,) = tasks.broken
    assert "'fake-broken'" in str(error) and said in str(error)


def test_an_unknown_task_says_what_there_is() -> None:
    with pytest.raises(UnknownTask, match="image_resize") as raised:
        load_task("image_resise")

    assert isinstance(raised.value, LookupError)
    assert raised.value.task_type == "image_resise"


# Parameters.


class Params(BaseJobParams):
    width: int
    height: int = 5

    def default_output_path(self, input_path: str) -> Optional[str]:
        return f"output/{Path(input_path).name}"


class Module(ComputeModule):
    @property
    def supported_task_types(self) -> list[str]:
        return ["t"]

    def params_model(self, task_type: str) -> type[BaseJobParams]:
        return Params

    async def process(
        self, job_id: str, task_type: str, params: dict[str, Any], progress_callback: Any = None
    ) -> dict[str, Any]:
        return {"status": "ok"}


def test_parameters_are_stored_with_defaults_and_output_paths() -> None:
    given = {"input_paths": ["input/a.jpg", "input/b/a.jpg", "input/A.JPG"], "width": 3}

    assert validate_params(Module(), "t", given) == {
        **given,
        "height": 5,
        "output_paths": ["output/a.jpg", "output/a (2).jpg", "output/A (3).JPG"],
    }


def test_output_paths_that_were_given_stay() -> None:
    given = {"input_paths": ["input/a"], "output_paths": ["output/z"], "width": 3}

    assert validate_params(Module(), "t", given)["output_paths"] == ["output/z"]


def test_every_problem_is_listed() -> None:
    with pytest.raises(InvalidParams) as raised:
        validate_params(Module(), "t", {"height": "tall", "input_paths": 5})

    assert {problem["loc"][0] for problem in raised.value.problems} == {
        "width",
        "height",
        "input_paths",
    }
    assert all(set(problem) == {"loc", "msg", "type"} for problem in raised.value.problems)
    assert all(name in str(raised.value) for name in ("width", "height", "input_paths"))


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a\0", "CON", "C:\\a", "x" * 300])
@pytest.mark.parametrize("field", ["input_paths", "output_paths"])
def test_a_path_that_leads_outside_is_a_problem_of_its_field(field: str, path: str) -> None:
    with pytest.raises(InvalidParams) as raised:
        validate_params(Module(), "t", {"width": 1, field: [path]})

    (problem,) = raised.value.problems
    assert (problem["loc"], problem["type"]) == ([field, 0], "unsafe_path")


def test_paths_are_unique_and_as_many_as_there_must_be() -> None:
    for wrong in (
        {"input_paths": ["a", "a"]},
        {"output_paths": ["a", "a"]},
        {"input_paths": ["a"], "output_paths": ["b", "c"]},
    ):
        with pytest.raises(ValueError):
            BaseJobParams.model_validate(wrong)
    BaseJobParams(input_paths=["a", "b"])
    BaseJobParams(output_paths=["a", "b"])


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["output/x.jpg", "output/x.jpg/y.jpg"], "'output/x.jpg/y.jpg' lies below 'output/x.jpg'"),
        (["output/x/y/z", "output\\./x"], r"'output/x/y/z' lies below 'output\\./x'"),
        (["output/x", "output//x"], "'output/x' and 'output//x' are the same file"),
    ],
)
def test_no_output_is_the_folder_of_another(paths: list[str], says: str) -> None:
    with pytest.raises(InvalidParams) as raised:
        validate_params(Module(), "t", {"width": 1, "output_paths": paths})

    (problem,) = raised.value.problems
    assert problem["loc"] == ["output_paths"]
    assert says in problem["msg"]
    beside = ["output/x", "output/x.jpg", "output/xy/z", "output/y/x"]
    assert BaseJobParams(output_paths=beside).output_paths == beside


def test_a_task_without_a_default_writes_no_file() -> None:
    params = BaseJobParams(input_paths=["a"])

    assert params.default_output_path("a") is None
    assert with_output_paths(params) == []


@pytest.mark.parametrize("width", [True, False])
def test_a_flag_is_no_number(width: bool) -> None:
    with pytest.raises(InvalidParams) as raised:
        validate_params(
            load_task("image_resize"),
            "image_resize",
            {"width": width, "height": 5, "input_paths": ["input/a.jpg"]},
        )
    (problem,) = raised.value.problems
    assert (problem["loc"], problem["msg"]) == (
        ["width"],
        "a number is expected, not true or false",
    )
