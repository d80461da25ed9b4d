"""The chaos in its short form; `make chaos` runs it for five minutes on each database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_whatever_dies_nothing_is_lost_and_nothing_done_twice(database: str) -> None:
    command = [sys.executable, "-m", "chaos", "--database", database, "--minutes", "0.12"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    outcome = json.loads(ended.stdout)
    assert outcome["jobs"] > 0
    assert outcome["broken"] == []
