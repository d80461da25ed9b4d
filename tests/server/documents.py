"""Running what the documentation says: its `console` blocks, as a reader would type them.

In a block, a line that starts with `$ ` is a command and the lines below it are what it prints;
`...` stands for anything. A block fenced as ``console server`` starts what goes on running.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```(console[^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DONE = "--done-with-code-"


@dataclass
class Command:
    """One command and what it should print."""

    line: str
    expected: list[str] = field(default_factory=list)
    is_server: bool = False


def commands_of(document: Path) -> list[Command]:
    """Return the commands of a document's `console` blocks, in order."""
    commands: list[Command] = []
    for fence, body in _FENCE.findall(document.read_text()):
        for line in body.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line[2:], is_server="server" in fence.split()))
            elif commands and commands[-1].line.endswith("\\"):
                commands[-1].line += "\n" + line
            elif commands:
                commands[-1].expected.append(line)
    return commands


def prints(expected: list[str], actual: str) -> bool:
    """Return whether the output is as written; `...` is anything, also a line of its own."""
    wanted = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else _line_pattern(line)
        for line in expected
        if line.strip()
    )
    got = "".join(f"{' '.join(line.split())}\n" for line in actual.splitlines() if line.strip())
    return re.fullmatch(wanted, got) is not None


def _line_pattern(line: str) -> str:
    return ".*?".join(re.escape(part) for part in " ".join(line.split()).split("...")) + r"\n"


class Shell:
    """One bash: what a command sets holds for the next.

    Args:
        folder: Where it runs.
        environment: Its variables.
        on_terminal: Whether the commands print on a terminal, which moves no cursor; else they
            print into a pipe.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *, on_terminal: bool) -> None:
        ours, theirs = pty.openpty() if on_terminal else os.pipe()
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env={**environment, "TERM": "dumb"},
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)
        self._output = os.fdopen(ours)

    def run(self, line: str) -> tuple[int, str]:
        """Run a command and return its exit code and what it printed."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{{ {line}\n}} </dev/null\necho; echo {_DONE}$?\n")
        self._bash.stdin.flush()
        printed = list(self._until_done())
        return int(printed.pop().removeprefix(_DONE)), "".join(printed)

    def close(self) -> None:
        """End the bash."""
        self._bash.communicate("exit\n", timeout=10)
        self._output.close()

    def _until_done(self) -> Iterator[str]:
        for line in self._output:
            yield line
            if line.startswith(_DONE):
                return
        raise AssertionError("the shell has ended")
