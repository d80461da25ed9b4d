"""The import contracts of pyproject.toml hold, and a wrong import is caught."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from importing_each import import_each_first

ROOT = Path(__file__).resolve().parents[2]

PLANTED = {
    "the toolkit imports the shared library": (
        "cl_ml_tools/jobs.py",
        "from cl_server_shared import config",
    ),
    "the toolkit imports a database": ("cl_ml_tools/executor.py", "import sqlalchemy"),
    "a service imports another": ("cl_server/worker/loop.py", "from cl_server.store import models"),
    "a route reaches past its service": (
        "cl_server/auth/models.py",
        "from cl_server.auth import service",
    ),
    "SQL outside of a repository": ("cl_server/store/service_jobs.py", "import sqlalchemy"),
    "paho outside of its file": ("cl_server/worker/presence.py", "import paho.mqtt.client"),
}


def check_contracts(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    return tmp_path


def test_each_module_can_be_imported_first() -> None:
    done = import_each_first("cl_server")

    assert done.returncode == 0, done.stderr


def test_the_contracts_hold(checkout: Path) -> None:
    result = check_contracts(checkout)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_wrong_import_is_caught(checkout: Path, planted: tuple[str, str]) -> None:
    name, line = planted
    module = checkout / "src" / name
    module.write_text(f"{module.read_text()}\n{line}\n")
    result = check_contracts(checkout)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout
