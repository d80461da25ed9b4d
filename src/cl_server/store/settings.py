"""What the store has to know, as plain values; the command line fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StoreSettings"]


@dataclass(frozen=True)
class StoreSettings:
    """What the store has to know.

    Attributes:
        database_url: Where its tables and the jobs are.
        media_dir: The folder of the media files.
        compute_dir: The folder of the job workspaces.
        public_key_path: The key that verifies tokens.
        max_upload_bytes: How large each uploaded file may be.
        capability_cache_seconds: How long a list of workers is believed.
        auth_disabled: Whether everyone may do everything.
        read_auth_enabled: Whether reading media needs a token.
    """

    database_url: str
    media_dir: Path
    compute_dir: Path
    public_key_path: Path
    max_upload_bytes: int
    capability_cache_seconds: float
    auth_disabled: bool = False
    read_auth_enabled: bool = True
