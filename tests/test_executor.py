"""Running one job: what a module gets, and how each way to end is named."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from pydantic import Field

from cl_ml_tools import BaseJobParams, ComputeModule, FinalError, Job, Later
from cl_ml_tools.executor import Outcome, execute


class Size(str, Enum):
    SMALL = "small"
    LARGE = "large"


class Params(BaseJobParams):
    width: int = Field(default=5, ge=1)
    size: Size = Size.SMALL

    def default_output_path(self, input_path: str) -> Optional[str]:
        return f"output/sub/small_{Path(input_path).name}"


class Module(ComputeModule):
    """Answers what it is told to, and keeps what it was given."""

    def __init__(self, answer: Any = None, *, model: Optional[type[BaseJobParams]] = None) -> None:
        self.answer = {"status": "ok", "task_output": {"a": 1}} if answer is None else answer
        self.model = model
        self.params: dict[str, Any] = {}

    @property
    def supported_task_types(self) -> list[str]:
        return ["t"]

    def params_model(self, task_type: str) -> type[BaseJobParams]:
        return self.model or super().params_model(task_type)

    async def process(
        self,
        job_id: str,
        task_type: str,
        params: dict[str, Any],
        progress_callback: Optional[Callable[[int], None]] = None,
    ) -> dict[str, Any]:
        self.params = params
        if progress_callback is not None:
            progress_callback(50)
        if isinstance(self.answer, BaseException):
            raise self.answer
        answer: dict[str, Any] = self.answer
        return answer


async def run(module: Module, tmp_path: Path, **params: Any) -> Outcome:
    return await execute(
        module,
        Job(job_id="j", task_type="t", params=params),
        job_path=tmp_path,
        output_path=tmp_path / "attempts" / "1",
        progress_callback=None,
    )


async def test_success_carries_the_output(tmp_path: Path) -> None:
    outcome = await run(Module(), tmp_path)

    assert outcome == Outcome(ok=True, task_output={"a": 1})


@pytest.mark.parametrize("answer", [{"status": "ok"}, {"status": "ok", "task_output": None}])
async def test_success_needs_no_output(answer: dict[str, Any], tmp_path: Path) -> None:
    assert await run(Module(answer), tmp_path) == Outcome(ok=True, task_output={})


async def test_paths_are_made_absolute_and_their_folders_exist(tmp_path: Path) -> None:
    module = Module(model=Params)
    await run(module, tmp_path, input_paths=["input/a.jpg"], output_paths=["output/deep/b.jpg"])

    assert module.params["input_paths"] == [str(tmp_path / "input" / "a.jpg")]
    assert module.params["output_paths"] == [str(tmp_path / "attempts" / "1" / "deep" / "b.jpg")]
    assert (tmp_path / "attempts" / "1" / "deep").is_dir()


async def test_output_paths_that_were_left_out_are_named(tmp_path: Path) -> None:
    module = Module(model=Params)
    await run(module, tmp_path, input_paths=["input/1/a.jpg", "input/2/a.jpg"])

    folder = tmp_path / "attempts" / "1" / "sub"
    assert module.params["output_paths"] == [
        str(folder / "small_a.jpg"),
        str(folder / "small_a (2).jpg"),
    ]


async def test_absolute_paths_are_kept(tmp_path: Path) -> None:
    module = Module()
    there = str(tmp_path / "elsewhere" / "a.jpg")
    await run(module, tmp_path, input_paths=[there])

    assert module.params["input_paths"] == [there]


async def test_the_job_itself_keeps_its_relative_paths(tmp_path: Path) -> None:
    job = Job(job_id="j", task_type="t", params={"input_paths": ["input/a"]})
    await execute(Module(), job, job_path=tmp_path, output_path=tmp_path / "o")

    assert job.params == {"input_paths": ["input/a"]}


async def test_parameters_are_plain_json_with_the_defaults(tmp_path: Path) -> None:
    module = Module(model=Params)
    await run(module, tmp_path, size="large")

    assert module.params == {"input_paths": [], "output_paths": [], "width": 5, "size": "large"}
    assert type(module.params["size"]) is str


async def test_without_a_model_every_parameter_is_kept(tmp_path: Path) -> None:
    module = Module()
    await run(module, tmp_path, anything={"nested": [1]})

    assert module.params["anything"] == {"nested": [1]}


@pytest.mark.parametrize(
    "params",
    [
        {"width": 0},
        {"width": "wide"},
        {"input_paths": ["a", "a"]},
        {"input_paths": ["a"], "output_paths": ["b", "c"]},
        {"input_paths": ["../a"]},
        {"output_paths": ["output/../../a"]},
        {"input_paths": ["a\0"]},
        {"input_paths": ["/a\0"]},
        {"output_paths": ["/a\0/b"]},
    ],
)
async def test_bad_parameters_are_final_and_nothing_runs(
    params: dict[str, Any], tmp_path: Path
) -> None:
    module = Module(model=Params)
    outcome = await run(module, tmp_path, **params)

    assert (outcome.ok, outcome.retryable, module.params) == (False, False, {})
    assert outcome.error


async def test_an_input_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "input").symlink_to(tmp_path)

    outcome = await run(Module(), workspace, input_paths=["input/a"])
    assert (outcome.ok, outcome.retryable) == (False, False)


async def test_an_exception_costs_an_attempt_and_is_described(tmp_path: Path) -> None:
    outcome = await run(Module(KeyError("no such\n  key")), tmp_path)

    assert (outcome.ok, outcome.retryable) == (False, True)
    assert outcome.error == "KeyError: 'no such\\n key'"
    assert outcome.traceback is not None and "in process" in outcome.traceback


async def test_an_exception_without_words_has_its_name(tmp_path: Path) -> None:
    assert (await run(Module(MemoryError()), tmp_path)).error == "MemoryError"


async def test_a_final_error_is_final(tmp_path: Path) -> None:
    outcome = await run(Module(FinalError("not an image")), tmp_path)

    assert outcome == Outcome(ok=False, error="not an image", retryable=False)


async def test_a_final_error_without_words_says_so(tmp_path: Path) -> None:
    outcome = await run(Module(FinalError()), tmp_path)

    assert outcome == Outcome(ok=False, error="the module gave no reason", retryable=False)


@pytest.mark.parametrize("seconds", [0, 0.5, 30 * 24 * 3600])
async def test_later_is_no_failure(tmp_path: Path, seconds: float) -> None:
    outcome = await run(Module(Later(seconds)), tmp_path)

    assert (outcome.ok, outcome.delay_seconds, outcome.traceback) == (False, seconds, None)


@pytest.mark.parametrize("seconds", [-1, 30 * 24 * 3600 + 1, float("inf"), float("nan")])
def test_a_delay_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="delay_seconds"):
        Later(seconds)


@pytest.mark.parametrize(
    ("answer", "error", "retryable"),
    [
        ({"status": "error", "error": "no"}, "no", True),
        ({"status": "error", "error": "no", "retryable": False}, "no", False),
        ({"status": "error", "error": "no", "task_output": {"x": 1}}, "no", True),
        ({"status": "error"}, "the module gave no reason", True),
    ],
)
async def test_a_returned_error_is_one(
    answer: dict[str, Any], error: str, retryable: bool, tmp_path: Path
) -> None:
    outcome = await run(Module(answer), tmp_path)

    assert (outcome.ok, outcome.error, outcome.retryable) == (False, error, retryable)


@pytest.mark.parametrize(
    "answer",
    [
        7,
        "ok",
        [],
        {"status": "fine"},
        {},
        {"status": "ok", "task_output": [1]},
        {"status": "ok", "task_output": "text"},
        {"status": "ok", "task_output": {"a": object()}},
        {"status": "ok", "task_output": {"a": float("nan")}},
    ],
)
async def test_an_answer_that_is_none_costs_an_attempt(answer: Any, tmp_path: Path) -> None:
    outcome = await run(Module(answer), tmp_path)

    assert (outcome.ok, outcome.retryable) == (False, True)
    assert outcome.error is not None and "module" in outcome.error


async def test_progress_reaches_the_callback(tmp_path: Path) -> None:
    reported: list[int] = []
    await execute(
        Module(),
        Job(job_id="j", task_type="t"),
        job_path=tmp_path,
        output_path=tmp_path,
        progress_callback=reported.append,
    )

    assert reported == [50]
