"""The start of the command line: its help, its refusals, and what it does not import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from answering_server import answering, with_body
from cli_stack import plain_environment, run_command

import cl_server
from cl_ml_tools import __version__
from cl_server.cli.main import COMMANDS
from ports import free_port

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


def test_a_new_password_waits_for_no_web_framework(tmp_path: Path) -> None:
    shown = python(
        "import sys; sys.argv[1:] = ['users', 'passwd', 'admin']\n"
        "from cl_server.__main__ import main; main(); print(sorted(sys.modules))",
        tmp_path,
        CL_SERVER_DIR=str(tmp_path),
    )

    assert "start the server once" in shown.stderr
    assert "sqlalchemy" in shown.stdout
    for framework in ("fastapi", "starlette", "httpx2", "uvicorn", "alembic"):
        assert f"'{framework}'" not in shown.stdout


URL_EXPECTED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME is expected"
NO_FOLDER = "sqlite:////proc/x/y.db"


@pytest.mark.parametrize(
    ("command", "variable", "url", "shown", "problem"),
    [
        ("auth", "AUTH_DATABASE_URL", "nonsense", "nonsense", URL_EXPECTED),
        ("auth", "AUTH_DATABASE_URL", "mysql://me:secret@x/y", "mysql://me:***@x/y", URL_EXPECTED),
        (
            "store",
            "DATABASE_URL",
            "postgresql://me@x:port/y",
            "postgresql://me@x:port/y",
            URL_EXPECTED,
        ),
        ("store", "STORE_DATABASE_URL", NO_FOLDER, NO_FOLDER, "there is no directory /proc/x"),
        ("worker", "WORKER_DATABASE_URL", "nonsense", "nonsense", URL_EXPECTED),
        ("worker", "STORE_DATABASE_URL", "nonsense", "nonsense", URL_EXPECTED),
        ("up", "WORKER_DATABASE_URL", NO_FOLDER, NO_FOLDER, "there is no directory /proc/x"),
    ],
)
def test_a_database_that_cannot_be_is_named_in_one_line(
    command: str, variable: str, url: str, shown: str, problem: str, tmp_path: Path
) -> None:
    refused = run_command(
        command,
        environment={
            **plain_environment(tmp_path), "CL_SERVER_DIR": str(tmp_path), variable: url
        },
        cwd=tmp_path,
    )  # fmt: skip

    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"cl-server: {variable}={shown!r}: {problem}"]


@pytest.mark.parametrize("command", ["auth", "store", "worker"])
def test_a_service_without_a_directory_says_so_before_it_waits_for_a_database(
    command: str, tmp_path: Path
) -> None:
    url = f"postgresql://127.0.0.1:{free_port()}/x"
    environment = {**plain_environment(tmp_path), "DATABASE_URL": url}
    refused = run_command(command, environment=environment, cwd=tmp_path)

    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("cl-server: CL_SERVER_DIR is not set")


@pytest.mark.parametrize(
    ("command", "kind", "folder", "problem"),
    [
        ("up", "media", "/proc/x", "No such file or directory"),
        ("store", "compute", "file", "File exists"),
    ],
)
def test_a_storage_folder_that_cannot_be_made_is_named_in_one_line(
    command: str, kind: str, folder: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    variable, path = f"{kind.upper()}_STORAGE_DIR", tmp_path / folder
    refused = run_command(
        command,
        environment={
            **plain_environment(tmp_path),
            "CL_SERVER_DIR": str(tmp_path),
            "AUTH_PORT": str(free_port()),
            "STORE_PORT": str(free_port()),
            "BROADCAST_TYPE": "none",
            "LOG_LEVEL": "ERROR",
            variable: str(path),
        },
        cwd=tmp_path,
    )

    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"cl-server: the {kind} folder {path} cannot be used ({problem}): "
        f"{variable} names another one"
    ]


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@nowhere.invalid/db", "sqlite:////proc/y.db"]
)
@pytest.mark.parametrize("command", ["auth", "store"])
def test_a_database_that_does_not_answer_is_named_in_one_line(
    command: str, url: str, tmp_path: Path
) -> None:
    variable = f"{command.upper()}_DATABASE_URL"
    refused = run_command(
        command,
        "--port",
        "0",
        environment={
            **plain_environment(tmp_path),
            "CL_SERVER_DIR": str(tmp_path),
            "BROADCAST_TYPE": "none",
            "LOG_LEVEL": "ERROR",
            variable: url,
        },
        cwd=tmp_path,
    )

    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "cannot be used" in line and variable in line
    assert url.partition("@")[2] in line and "secret" not in line


@pytest.mark.parametrize("document", ["[]", '{"status": "ok"}', "null"])
@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "list"),
        ("jobs", "show", "1"),
        ("jobs", "stats"),
        ("tasks", "list"),
        ("workers", "list"),
        ("run", "image_resize", __file__),
    ],
    ids=" ".join,
)
def test_another_program_at_the_address_is_told_in_one_line(
    command: tuple[str, ...], document: str, tmp_path: Path
) -> None:
    with answering(with_body(200, document, "application/json")) as url:
        environment = {**plain_environment(tmp_path), "CL_STORE_URL": url}
        refused = run_command(*command, environment=environment, cwd=tmp_path)

    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"cl-server: what answers at {url}/compute/")
    assert line.endswith("check the address (CL_STORE_URL)")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--version", "--help", "config"])
def test_output_that_cannot_be_written_is_told_in_one_line(
    command: str, unbuffered: str, tmp_path: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "cl_server", command],
            env={**plain_environment(tmp_path), "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert ran.returncode == 1
    assert ran.stderr == ("cl-server: what was to be written cannot be: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_failure_to_talk_about(
    unbuffered: str, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ran = subprocess.run(
            [sys.executable, "-m", "cl_server", "config"],
            env={**plain_environment(tmp_path), "PYTHONUNBUFFERED": unbuffered},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert (ran.returncode, ran.stderr) == (1, "")


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


@pytest.mark.parametrize("command", ["config", "--version"])
def test_another_package_named_cl_ml_tools_is_said_in_one_line(
    tmp_path: Path, command: str
) -> None:
    foreign = tmp_path / "foreign" / "cl_ml_tools"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("__version__ = '0.2.0'\n")

    refused = run_command(
        command,
        environment={**plain_environment(tmp_path), "PYTHONPATH": str(foreign.parent)},
        cwd=tmp_path,
    )

    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "another package named cl_ml_tools is in the way" in refused.stderr
