"""The start of the command line: its help, its refusals, and what it does not import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_stack import plain_environment, run_command

import cl_server
from cl_ml_tools import __version__
from cl_server.cli.main import COMMANDS

HEAVY = ("pydantic", "sqlalchemy", "fastapi", "httpx2", "rich", "uvicorn", "starlette", "PIL")


def python(code: str, directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**plain_environment(directory), **more},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_lists_every_command_but_the_hidden_ones(tmp_path: Path) -> None:
    shown = run_command("--help", environment=plain_environment(tmp_path), cwd=tmp_path)

    assert shown.returncode == 0
    listed = {line.split()[0] for line in shown.stdout.partition("Commands:")[2].splitlines()[1:]}
    assert listed == {name for name, command in COMMANDS.items() if not command.hidden}
    assert {"web", "broker"} <= COMMANDS.keys() - listed


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cl_server", "--help"],
        env=plain_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )

    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()
    }
    assert "typer" in imported
    assert not imported & set(HEAVY)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_help(name: str, tmp_path: Path) -> None:
    shown = run_command(name, "--help", environment=plain_environment(tmp_path), cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert f"Usage: cl-server {name}" in shown.stdout
    assert "Args:" not in shown.stdout and "Raises:" not in shown.stdout


def test_an_unknown_command_is_usage_and_names_the_one_meant(tmp_path: Path) -> None:
    refused = run_command("jbos", environment=plain_environment(tmp_path), cwd=tmp_path)

    assert refused.returncode == 2
    assert "No such command 'jbos'. Did you mean 'jobs'?" in refused.stderr


def test_no_command_shows_the_help_and_is_usage(tmp_path: Path) -> None:
    refused = run_command(environment=plain_environment(tmp_path), cwd=tmp_path)

    assert refused.returncode == 2
    assert "Commands:" in refused.stderr


def test_version_is_said_for_people_and_as_json(tmp_path: Path) -> None:
    environment = plain_environment(tmp_path)

    plain = run_command("--version", environment=environment, cwd=tmp_path)
    document = run_command("--version", "--json", environment=environment, cwd=tmp_path)

    assert plain.stdout.startswith(f"cl-server {__version__} ")
    assert json.loads(document.stdout)["version"] == __version__


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_the_entry_parses_on_python_3_9(name: str) -> None:
    source = Path(cl_server.__file__).with_name(name).read_text()

    ast.parse(source, feature_version=(3, 9))


def test_a_python_that_is_too_old_is_said_in_one_line(tmp_path: Path) -> None:
    refused = python(
        "import sys; sys.version_info = (3, 9, 18, 'final', 0)\n"
        "from cl_server.__main__ import main; sys.exit(main())",
        tmp_path,
    )

    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "Python 3.11 or later is needed" in refused.stderr


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("typer", ["--help"], "cli"),
        ("httpx2", ["jobs", "list"], "cli"),
        ("uvicorn", ["auth"], "fastapi"),
        ("argon2", ["auth"], "server"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(
    missing: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    refused = python(
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments!r}\n"
        "from cl_server.__main__ import main; sys.exit(main())",
        tmp_path,
        CL_SERVER_DIR=str(tmp_path),
    )

    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"cl-server: this command needs {missing}: pip install 'cl-server-shared[{extra}]'"
    ]


def test_another_package_named_cl_ml_tools_is_said_in_one_line(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign" / "cl_ml_tools"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("VERSION = '0.2.0'\n")

    refused = run_command(
        "config",
        environment={**plain_environment(tmp_path), "PYTHONPATH": str(foreign.parent)},
        cwd=tmp_path,
    )

    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "another package named cl_ml_tools is in the way" in refused.stderr
