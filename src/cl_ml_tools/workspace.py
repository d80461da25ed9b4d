"""Paths inside a job's workspace, `{input,output}` and `attempts/{n}`: checked before they are used.

Each attempt writes into a folder of its own. Only that of the attempt whose completion was
accepted becomes `output`, so that a worker which lost its job can spoil nothing.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from .names import MAX_COMPONENT_BYTES

__all__ = [
    "attempt_path",
    "check_name",
    "check_relative_path",
    "discard_attempt",
    "job_folder",
    "make_job_folders",
    "naming",
    "prepare_upload",
    "publish_attempt",
    "resolve_inside",
    "start_attempt",
]

# Linux stops at 4,096 for the whole path; the folder above has its share of it.
MAX_PATH_BYTES = 2048

# Names that Windows opens as a device, whatever their extension: "Naming Files, Paths, and
# Namespaces", Microsoft Learn. Refused everywhere, since workspaces are shared and copied.
_DEVICE_NAMES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{name}{digit}" for name in ("com", "lpt") for digit in "0123456789¹²³"}
)

_PLAIN_NAME = re.compile(r"[0-9A-Za-z_-]{1,200}")


def check_relative_path(text: str) -> PurePosixPath:
    """Return a path that a client named, once it is certain to stay where it is put.

    A backslash counts as a separator.

    Raises:
        ValueError: It is no text, empty, absolute, has `..`, a NUL or another control character, a Windows
            drive or device name, a component that is only dots or over 240 bytes, or is over
            2,048 bytes itself.
    """
    _check_text(text)
    path = text.replace("\\", "/")
    if not path.strip():
        raise ValueError(f"the path {text!r} is empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError(f"the path {text!r} has a control character")
    if path.startswith("/"):
        raise ValueError(f"the path {text!r} is absolute")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise ValueError(f"the path {path[:40] + '...'!r} is over {MAX_PATH_BYTES} bytes")
    parts = PurePosixPath(path).parts
    if not parts:
        raise ValueError(f"the path {text!r} names nothing")
    if parts[0][1:2] == ":":  # a Windows drive
        raise ValueError(f"the path {text!r} is absolute")
    for part in parts:
        _check_component(part, text)
    return PurePosixPath(*parts)


def check_name(text: str) -> str:
    """Return a single path component that a client named (a job's id), once it is safe.

    Raises:
        ValueError: As `check_relative_path`, or it has a separator.
    """
    _check_text(text)
    if _PLAIN_NAME.fullmatch(text) and text.casefold() not in _DEVICE_NAMES:
        return text  # as nearly all are; this is on the way of every added job
    path = check_relative_path(text)
    if len(path.parts) != 1 or "/" in text or "\\" in text:
        raise ValueError(f"{text!r} is not a single name")
    return str(path)


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Put an argument's name before what a `ValueError` says about its value."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.100} is not text")


def _check_component(part: str, text: str) -> None:
    if not part.strip(". "):
        raise ValueError(f"the path {text!r} has a component that is only dots or spaces")
    try:
        size = len(part.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"the path {text!r} is not valid Unicode") from error
    if size > MAX_COMPONENT_BYTES:
        raise ValueError(
            f"the path {part[:40] + '...'!r} has a component over {MAX_COMPONENT_BYTES} bytes"
        )
    if re.split("[.:]", part)[0].rstrip(" ").casefold() in _DEVICE_NAMES:
        raise ValueError(f"the path {text!r} has the reserved name {part!r}")


def resolve_inside(folder: Path, relative: str) -> Path:
    """Return the absolute path of `relative` below `folder`.

    Raises:
        ValueError: It is unsafe, or a symlink leads out of `folder` or to itself.
    """
    return _follow(folder, check_relative_path(relative).parts)


def _follow(folder: Path, parts: Sequence[str]) -> Path:
    """Return the absolute path below `folder` that safe components lead to.

    Raises:
        ValueError: A symlink leads out of `folder` or to itself.
    """
    path = folder.absolute().joinpath(*parts)
    if not _has_link(str(folder), parts):  # as nearly always; each job asks before it begins
        return path
    relative = "/".join(parts)
    try:
        base, target = folder.resolve(), path.resolve()
        _check_no_circle(path)
    except RuntimeError as error:  # `resolve` itself, before Python 3.13
        raise ValueError(f"the path {relative!r} leads in a circle of symlinks") from error
    if base not in target.parents:
        raise ValueError(f"the path {relative!r} leads outside of its folder")
    return path


def _has_link(folder: str, parts: Sequence[str]) -> bool:
    """Return whether there may be a symlink on the way from a folder to what is below it."""
    current = folder
    for part in parts:
        current = f"{current}/{part}"
        try:
            mode = os.lstat(current).st_mode
        except FileNotFoundError:
            return False
        except OSError:
            return True
        if stat.S_ISLNK(mode):
            return True
    return False


def _check_no_circle(path: Path) -> None:
    """Raise `RuntimeError` where a symlink leads to itself."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RuntimeError(str(error)) from error


def job_folder(base_dir: Path, job_id: str, *below: str) -> Path:
    """Return the absolute path of a job's workspace, or of `below` in it.

    Raises:
        ValueError: The id is not a safe file name, or a symlink leads out of `base_dir`.
    """
    names = [check_name(name) for name in below]
    with naming("job_id"):
        return _follow(base_dir, ["jobs", check_name(job_id), *names])


def make_job_folders(base_dir: Path, job_id: str) -> Path:
    """Make a job's workspace, `input` and `output`, and return its absolute path.

    Raises:
        ValueError: As `job_folder`; nothing was touched.
    """
    for name in ("input", "output"):
        job_folder(base_dir, job_id, name).mkdir(parents=True, exist_ok=True)
    return job_folder(base_dir, job_id)


def prepare_upload(base_dir: Path, job_id: str, filename: str) -> Path:
    """Make the folders for a file that a client sends, and return where it goes unless that is taken.

    Args:
        base_dir: The folder of all workspaces.
        job_id: The job.
        filename: The client's name for the file; may have folders.

    Raises:
        ValueError: The id or the name is unsafe, and nothing was touched; or a file is where a
            folder must be.
    """
    input_path = job_folder(base_dir, job_id, "input")
    with naming("filename"):
        target = resolve_inside(input_path, filename)
    make_job_folders(base_dir, job_id)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"filename: {filename!r} has a file where a folder must be") from error
    return target


def attempt_path(job_path: Path, attempt: int) -> Path:
    """Return the folder into which one attempt writes what will be `output`."""
    return job_path / "attempts" / str(attempt)


def start_attempt(job_path: Path, attempt: int) -> Path:
    """Make the attempt's folder, empty, and return it."""
    path = attempt_path(job_path, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        shutil.rmtree(path)
        path.mkdir()
    return path


def publish_attempt(job_path: Path, attempt: int) -> None:
    """Make what the attempt wrote the job's `output`, and forget the other attempts.

    Called once its completion was accepted; calling it again changes nothing, so that a reader
    can finish what a crash left between the two.
    """
    written, output = attempt_path(job_path, attempt), job_path / "output"
    if written.is_dir():
        try:
            written.replace(output)  # an empty `output` is replaced in one step
        except OSError:
            _move_files(written, output)
    shutil.rmtree(job_path / "attempts", ignore_errors=True)


def discard_attempt(job_path: Path, attempt: int) -> None:
    """Delete what an attempt wrote."""
    shutil.rmtree(attempt_path(job_path, attempt), ignore_errors=True)


def _move_files(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            destination.mkdir(parents=True, exist_ok=True)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            path.replace(destination)
