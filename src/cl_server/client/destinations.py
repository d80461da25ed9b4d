"""Which local file each result becomes: never one that is there, never the same one twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cl_ml_tools.errors import ToolError
from cl_ml_tools.names import unique_path
from cl_ml_tools.registry import load_task, validate_params
from cl_ml_tools.workspace import check_relative_path
from cl_server.client.errors import ClientError, FileInTheWay

__all__ = ["Destinations", "expected_outputs"]


class Destinations:
    """The names in one directory that a batch of jobs has given away.

    Args:
        directory: Where results go.
        overwrite: Whether a file that was there before may be replaced.
    """

    def __init__(self, directory: Path, *, overwrite: bool) -> None:
        self.directory = directory
        self.overwrite = overwrite
        self._taken: set[str] = set()

    def reserve(self, output_path: str) -> Path:
        """Return where a result goes; the second one with a name gets ` (2)`.

        Args:
            output_path: As the job names it: `output/a.jpg`.

        Raises:
            FileInTheWay: A file is there, and `overwrite` is not set.
            ClientError: The path leads out of the directory.
        """
        try:
            path = check_relative_path(output_path)
        except ValueError as error:
            raise ClientError(f"the server names a result {output_path!r}: {error}") from error
        below = path.relative_to("output") if path.parts[0] == "output" else path
        name = unique_path(str(below), self._taken)
        self._taken.add(name)
        destination = self.directory / name
        if not self.overwrite and destination.exists():
            raise FileInTheWay(destination)
        return destination


def expected_outputs(
    task_type: str, files: Sequence[Path], text_params: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return what a job's results will be called, where that can be known before it is sent.

    Args:
        task_type: The task; it is known where its module is installed on this machine too.
        files: The job's input files.
        text_params: Its parameters, each as often as it was given.

    Returns:
        Paths as the job will name them; none where only the server knows.
    """
    taken: list[str] = []
    for file in files:
        taken.append(unique_path(f"input/{file.name}", taken))
    params = {name: v[0] if len(v) == 1 else list(v) for name, v in text_params.items()}
    try:
        module = load_task(task_type)
        filled = validate_params(module, task_type, {**params, "input_paths": taken})
    except ToolError:  # not installed here, or refused: the server has the last word on both
        return []
    return list(filled["output_paths"])
