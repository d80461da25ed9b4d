"""The module and the test that `docs/compute-authors.md` shows, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cl_ml_tools.tasks.image_conversion import ImageConversionParams
from cl_ml_tools.tasks.image_resize import ImageResizeParams

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


def test_every_parameter_of_the_built_in_tasks_is_documented() -> None:
    for model, task_type in (
        (ImageResizeParams, "image_resize"),
        (ImageConversionParams, "image_conversion"),
    ):
        section = DOC.split(f"## `{task_type}`")[1].split("\n## ")[0]
        for name in model.model_fields:
            assert f"`{name}`" in section, f"{name} of {task_type}"
