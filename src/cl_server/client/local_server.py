"""The note that `cl-server up` leaves for the command line on the same machine.

One JSON file with mode 0600 in the user's config directory: whoever can read it is the user, so
its token needs no sign-in. `up` writes it, renews it before the token ends, and removes it when
it stops; a note whose process is gone (SIGKILL, loss of power) is not believed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cl_server.client.private_file import write_private_file

__all__ = ["LocalServer", "read_local_server", "remove_local_server", "write_local_server"]

FILE_NAME = "local-server.json"


@dataclass(frozen=True)
class LocalServer:
    """A server that runs on this machine, for this user.

    Attributes:
        auth_url: The auth service's address.
        store_url: The store's address.
        compute_url: The store's compute address.
        mqtt_url: The broker's address; empty without a broker.
        server_dir: The directory that holds its data, absolute.
        pid: The process whose life is the server's: that of `cl-server up`.
        token: An access token of the admin, without admin rights.
    """

    auth_url: str
    store_url: str
    compute_url: str
    mqtt_url: str
    server_dir: str
    pid: int
    token: str


def write_local_server(config_dir: Path, server: LocalServer) -> Path:
    """Write or renew the note, readable for this user only, in one step.

    Args:
        config_dir: `Config.CL_USER_CONFIG_DIR`; made where it is missing.
        server: What to say.

    Returns:
        The file.

    Raises:
        OSError: The directory cannot be made or written to.
    """
    return write_private_file(config_dir / FILE_NAME, json.dumps(asdict(server), indent=2))


def read_local_server(config_dir: Path) -> LocalServer | None:
    """Return the server that runs on this machine; `None` without a note, or if its process is gone.

    A note that is cut off or of another version counts as none: it is `up`'s to write again.
    """
    try:
        values = json.loads((config_dir / FILE_NAME).read_text())
        server = LocalServer(**{field.name: values[field.name] for field in fields(LocalServer)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return server if _is_alive(server.pid) else None


def remove_local_server(config_dir: Path, *, pid: int) -> bool:
    """Remove the note if it is that of process `pid`; say whether it was.

    Another `up`, with another directory, may have written its own since.
    """
    path = config_dir / FILE_NAME
    try:
        if json.loads(path.read_text())["pid"] != pid:
            return False
        path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there, but another user's
        return True
    except (OverflowError, TypeError):
        return False
    return pid > 0
