"""The documentation is true: its commands run and print what it says, and it names everything."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from cli_stack import plain_environment
from documents import DOCUMENTS, ROOT, Command, Shell, commands_of, prints

from cl_server.cli.main import COMMANDS
from cl_server_shared.config import Config
from ports import free_port

START_SECONDS = 60.0


def checkout_in(folder: Path) -> Path:
    """A reader's checkout: the files of this one, and what runs these tests as its `.venv`."""
    checkout = folder / "checkout"
    venv = checkout / ".venv"
    venv.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, checkout)
    shutil.copytree(ROOT / "examples", checkout / "examples")
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".installed"):
            (venv / entry.name).symlink_to(entry)
    (venv / ".installed").touch()  # for `make`: newer than pyproject.toml
    return checkout


@contextmanager
def running_server(command: Command, checkout: Path, environment: dict[str, str]) -> Iterator[None]:
    """Start what a `console server` block starts, wait for what it prints, and end it."""
    log = checkout / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command.line}"],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        give_up = time.monotonic() + START_SECONDS
        while not prints(command.expected, log.read_text()):
            assert server.poll() is None, f"{command.line} has ended:\n{log.read_text()}"
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        # As Ctrl-C in the reader's terminal does: to the whole group.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=30)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("on_terminal", [True, False])
def test_the_readmes_tour_prints_what_it_says(tmp_path: Path, on_terminal: bool) -> None:
    ports = {"8000": str(free_port()), "8001": str(free_port())}
    # A reader's shell knows nothing of the `make` that may run these tests.
    inherited = plain_environment(tmp_path)
    environment = {
        **{name: value for name, value in inherited.items() if not name.startswith("MAKE")},
        "AUTH_PORT": ports["8000"],
        "STORE_PORT": ports["8001"],
        "MQTT_PORT": str(free_port()),
        "WORKER_CONCURRENCY": "1",
        "CAPABILITY_CACHE_TIMEOUT": "0",
    }

    def local(text: str) -> str:
        return re.sub(r"127\.0\.0\.1:(8000|8001)", lambda m: f"127.0.0.1:{ports[m[1]]}", text)

    server, *commands = commands_of(ROOT / "README.md")
    assert server.is_server
    server.expected = [local(line) for line in server.expected]
    checkout = checkout_in(tmp_path)
    with running_server(server, checkout, environment):
        shell = Shell(checkout, environment, on_terminal=on_terminal)
        for command in commands:
            _, printed = shell.run(local(command.line))
            assert prints([local(line) for line in command.expected], printed), (
                f"$ {command.line}\n{printed}"
            )
        shell.close()


# What `python3 -m venv` does on a Debian without python3-venv.
WITHOUT_VENV = """#!/bin/sh
mkdir -p .venv/bin
ln -s /bin/true .venv/bin/python
exit 1
"""


def test_a_virtual_environment_that_could_not_be_made_is_made_again(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "python"
    python.write_text(WITHOUT_VENV)
    python.chmod(0o755)
    target = ".venv/bin/python"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    for _ in range(2):
        made = subprocess.run(
            ["make", target, f"PYTHON={python}"],
            cwd=tmp_path, env=clean, capture_output=True, text=True,
        )  # fmt: skip
        assert made.returncode == 2
        assert "Python's venv module is missing" in made.stdout
        assert not (tmp_path / target).is_symlink()


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    assert [name for name in Config.settings() if f"`{name}`" not in text] == []


def test_every_command_is_documented() -> None:
    text = "".join(document.read_text() for document in DOCUMENTS)
    public = [name for name, command in COMMANDS.items() if not command.hidden]
    assert [name for name in public if f"cl-server {name}" not in text] == []


def typed_commands() -> list[str]:
    """The lines of all fenced blocks that call `cl-server`, without their comments."""
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```[^\n]*\n(.*?)^```$", document.read_text(), re.M | re.S):
            lines += re.findall(r"(?:^|[ /$])cl-server ([a-z][^#|>\n]*)", block, re.M)
    return sorted({line.strip() for line in lines})


@cache
def help_of(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "cl_server", *command, "--help"],
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout


@pytest.mark.parametrize("line", typed_commands())
def test_what_is_typed_exists(line: str) -> None:
    words = shlex.split(line)
    command = [word for word in words[:2] if re.fullmatch("[a-z]+", word)]
    if words[0] in ("run", "worker", "up", "auth", "store", "config", "login", "logout"):
        command = words[:1]
    help_text = help_of(*command)
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    assert help_text
    assert [option for option in options if option not in help_text] == []


def test_every_link_leads_somewhere() -> None:
    dead = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                dead.append(f"{document.name}: {target}")
    assert dead == []
