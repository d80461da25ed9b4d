"""What the packages offer: their names, their marker, their types."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cl_ml_tools
import cl_server_shared
from cl_ml_tools import ComputeModule, FileStorage, JobRepository
from cl_ml_tools import errors as tool_errors
from cl_server_shared import errors as shared_errors
from importing_each import import_each_first

TOOLS = {
    "BaseJobParams",
    "ComputeModule",
    "FileStorage",
    "FinalError",
    "Job",
    "JobRepository",
    "Later",
    "MQTTBroadcaster",
    "NoOpBroadcaster",
    "get_broadcaster",
    "shutdown_broadcaster",
}
SHARED = {
    "Config",
    "FileStorageService",
    "Job",
    "QueueEntry",
    "SQLAlchemyJobRepository",
    "run_compute_job",
}
NOT_EXPORTED = ["Base", "JobRepository", "FileStorage", "create_engine", "create_database_engine"]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("package", ["cl_ml_tools", "cl_server_shared"])
def test_each_module_can_be_imported_first(package: str) -> None:
    done = import_each_first(package)

    assert done.returncode == 0, done.stderr


def test_the_toolkit_offers_what_the_contract_names() -> None:
    assert set(cl_ml_tools.__all__) == TOOLS
    for name in TOOLS:
        assert getattr(cl_ml_tools, name).__name__ == name
    assert set(dir(cl_ml_tools)) >= TOOLS


def test_the_shared_library_offers_what_the_contract_names() -> None:
    assert set(cl_server_shared.__all__) == SHARED
    for name in SHARED:
        assert getattr(cl_server_shared, name).__name__ == name
    assert set(dir(cl_server_shared)) >= SHARED


@pytest.mark.parametrize("name", NOT_EXPORTED)
def test_the_rest_is_not_exported(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(cl_server_shared, name)


def test_the_models_are_where_the_contract_says() -> None:
    from cl_server_shared.models import Base, Job, QueueEntry

    assert (Job.__tablename__, QueueEntry.__tablename__) == ("jobs", "queue_entries")
    assert {"jobs", "queue_entries", "job_events", "workers", "job_options"} <= set(
        Base.metadata.tables
    )
    assert cl_server_shared.Job is Job


def test_each_package_says_that_it_is_typed() -> None:
    for package in (cl_ml_tools, cl_server_shared):
        assert package.__file__ is not None
        assert (Path(package.__file__).parent / "py.typed").is_file()


def test_the_version_is_one() -> None:
    installed = importlib.metadata.version("cl-server-shared")

    assert cl_ml_tools.__version__ == cl_server_shared.__version__ == installed


def test_the_protocols_have_the_methods_of_the_contract_and_no_more() -> None:
    def methods(protocol: type) -> set[str]:
        return {name for name in vars(protocol) if not name.startswith("_")}

    assert methods(JobRepository) == {
        "add_job",
        "get_job",
        "update_job",
        "fetch_next_job",
        "delete_job",
    }
    assert methods(FileStorage) == {
        "create_job_directory",
        "get_job_path",
        "get_input_path",
        "get_output_path",
        "save_input_file",
        "cleanup_job",
        "get_absolute_path",
    }


def test_a_compute_module_needs_its_two_parts() -> None:
    assert ComputeModule.__abstractmethods__ == {"supported_task_types", "process"}


def test_errors_are_what_callers_catch() -> None:
    assert issubclass(tool_errors.DuplicateJob, ValueError)
    assert issubclass(tool_errors.IllegalTransition, ValueError)
    assert issubclass(tool_errors.ClaimLost, RuntimeError)
    assert issubclass(shared_errors.InvalidSetting, ValueError)


def test_another_package_of_that_name_in_the_way_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cl_ml_tools").mkdir()
    (tmp_path / "cl_ml_tools" / "__init__.py").write_text("__version__ = '0.2.0'\n")

    done = run("import cl_server_shared", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "another package named cl_ml_tools is in the way" in last
    assert str(tmp_path) in last and "pip" in last


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import cl_ml_tools, cl_server_shared", "sqlalchemy pydantic paho PIL"),
        ("from cl_ml_tools import ComputeModule, Job, JobRepository", "sqlalchemy paho PIL"),
        ("from cl_server_shared import Config, FileStorageService", "sqlalchemy paho"),
        (
            "from cl_server_shared import SQLAlchemyJobRepository, run_compute_job",
            "paho PIL psycopg",
        ),
    ],
)
def test_an_import_brings_only_what_it_needs(code: str, absent: str) -> None:
    done = run(f"import sys\n{code}\nprint(sorted(set(sys.modules) & set({absent.split()!r})))")

    assert done.stdout.strip() == "[]", done.stderr


def test_importing_starts_no_thread_and_opens_nothing(tmp_path: Path) -> None:
    code = (
        "import threading, cl_ml_tools, cl_server_shared\n"
        "from cl_ml_tools import *\nfrom cl_server_shared import *\n"
        "print(threading.active_count())"
    )

    assert run(code, CL_SERVER_DIR=str(tmp_path)).stdout.strip() == "1"
    assert list(tmp_path.iterdir()) == []
