"""The module and the test that `docs/compute-authors.md` shows, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cl_ml_tools.tasks.image_conversion import ImageConversionParams
from cl_ml_tools.tasks.image_resize import ImageResizeParams

LIST_TASKS = """
import sys
from importlib.metadata import EntryPoint
module = EntryPoint(*sys.argv[1:], group="cl_ml_tools.tasks").load()()
print(*module.supported_task_types)
"""

DOC = (Path(__file__).parent.parent / "docs" / "compute-authors.md").read_text(encoding="utf-8")


def test_the_module_and_its_test_work_as_printed(tmp_path: Path) -> None:
    module, later, test, program = re.findall(r"```python\n(.*?)```", DOC, re.S)
    (tmp_path / "word_count.py").write_text(f"{module}\n\n{program}")
    (tmp_path / "word_count_later.py").write_text(later)
    (tmp_path / "test_word_count.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    usage = subprocess.run(
        [sys.executable, "word_count.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert usage.returncode == 2
    assert "--job-id" in usage.stderr


def test_the_package_as_printed_brings_the_task(tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    (text,) = re.findall(r"```toml\n(.*?)```", DOC, re.S)
    package = tomllib.loads(text)
    (modules,) = package["tool"]["setuptools"].values()
    points = package["project"]["entry-points"]["cl_ml_tools.tasks"]
    (tmp_path / f"{modules[0]}.py").write_text(re.findall(r"```python\n(.*?)```", DOC, re.S)[0])

    ((name, target),) = points.items()
    listed = subprocess.run(
        [sys.executable, "-c", LIST_TASKS, name, target],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert listed.stdout.split() == ["word_count"], listed.stderr


def test_every_parameter_of_the_built_in_tasks_is_documented() -> None:
    for model, task_type in (
        (ImageResizeParams, "image_resize"),
        (ImageConversionParams, "image_conversion"),
    ):
        section = DOC.split(f"## `{task_type}`")[1].split("\n## ")[0]
        for name in model.model_fields:
            assert f"`{name}`" in section, f"{name} of {task_type}"
