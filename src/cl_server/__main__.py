"""The start of `cl-server` and of `python -m cl_server`.

This file and the package's `__init__` parse on every Python that can install the distribution, so
that one that is too old, or a part that is not installed, is said in one line.
"""

from __future__ import annotations

import sys

NEEDED = (3, 11)

# The module that is missing, and the extra that brings it.
EXTRAS = {
    "alembic": "server",
    "amqtt": "broker",
    "argon2": "server",
    "cryptography": "server",
    "fastapi": "fastapi",
    "httptools": "fastapi",
    "httpx2": "cli",
    "jwt": "server",
    "multipart": "fastapi",
    "paho": "mqtt",
    "PIL": "compute",
    "psycopg": "postgres",
    "python_multipart": "fastapi",
    "rich": "cli",
    "starlette": "fastapi",
    "typer": "cli",
    "uvicorn": "fastapi",
    "uvloop": "fastapi",
}


def main() -> int:
    """Run the command line.

    Returns:
        The exit code: 0 fine, 1 failed, 2 usage or a precondition.
    """
    if sys.version_info < NEEDED:
        return _refuse(
            f"Python 3.11 or later is needed, and {sys.executable} is "
            f"{sys.version_info[0]}.{sys.version_info[1]}: make a virtual environment with a newer "
            "one (here the packages cl_ml_tools and cl_server_shared work)"
        )
    try:
        from cl_server.cli.main import run_command_line

        return run_command_line()
    except ImportError as error:
        reason = _explain(error)
        if reason is None:
            raise
        return _refuse(reason)


def _explain(error: ImportError) -> str | None:
    """Return what to do about a failed import; `None` where it is a fault of ours."""
    try:
        import cl_server_shared  # noqa: F401 - it looks for another cl_ml_tools in the way
    except ImportError as foreign:
        if not isinstance(foreign, ModuleNotFoundError):
            return str(foreign)
    if getattr(error, "extra", None):  # cl_ml_tools.errors.MissingExtra says what is needed
        return str(error)
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in EXTRAS:
        return None
    return f"this command needs {module}: pip install 'cl-server-shared[{EXTRAS[module]}]'"


def _refuse(reason: str) -> int:
    print(f"cl-server: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
