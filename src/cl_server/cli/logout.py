"""`cl-server logout`: forget the saved sign-in."""

from __future__ import annotations

from pathlib import Path

from cl_server.cli.output import AsJson, print_json
from cl_server.client.tokens import read_sign_in, remove_sign_in
from cl_server_shared.config import Config


def main(as_json: AsJson = False) -> None:
    """Forget the saved sign-in."""
    config_dir = Path(Config.CL_USER_CONFIG_DIR)
    sign_in = read_sign_in(config_dir)
    was_signed_in = remove_sign_in(config_dir)
    if as_json:
        print_json({"was_signed_in": was_signed_in})
    elif sign_in is not None:
        print(f"Signed out: the token of {sign_in.username} at {sign_in.auth_url} is forgotten.")
    else:
        print("There was no sign-in.")
