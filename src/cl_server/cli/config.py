"""`cl-server config`: each setting and where it comes from."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer

from cl_server.cli.failures import FAILED
from cl_server.cli.output import AsJson, print_json, print_table
from cl_server_shared.config import Config, Setting
from cl_server_shared.errors import InvalidSetting

HIDDEN = "(hidden)"
MASK = "***"


def main(as_json: AsJson = False) -> None:
    """Show each setting and where it comes from.

    Secrets are hidden. Exit code 1 when a setting is malformed.
    """
    rows = [_row(name, setting) for name, setting in Config.settings().items()]
    malformed = [row for row in rows if row["error"] and row["source"] == "environment"]
    if as_json:
        print_json({"settings": rows})
    else:
        print_table(
            ("setting", "value", "source", "what it is"),
            [(row["name"], _shown(row), row["source"], row["description"]) for row in rows],
            wrap_last=True,
        )
        for row in malformed:
            print(f"cl-server: {row['error']}", file=sys.stderr)
    if malformed:
        raise typer.Exit(FAILED)


def _row(name: str, setting: Setting[Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "value": None,
        "source": setting.source,
        "description": setting.description,
        "error": None,
    }
    try:
        row["value"] = _without_secrets(setting, getattr(Config, name))
    except InvalidSetting as error:
        row["error"] = str(error)
    return row


def _without_secrets(setting: Setting[Any], value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        return mask_password(value)
    return HIDDEN if setting.secret and value is not None else value


def mask_password(url: str) -> str:
    """Return a URL with its password hidden, before the host and in the query."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    credentials, at, host = authority.rpartition("@")
    user, colon, _password = credentials.partition(":")
    if at and colon:
        authority = f"{user}:{MASK}@{host}"
    path = re.sub(r"([?&]password=)[^&]*", rf"\g<1>{MASK}", path)
    return f"{scheme}{separator}{authority}{slash}{path}"


def _shown(row: dict[str, Any]) -> str:
    value = row["value"]
    if row["error"]:
        if row["source"] == "environment":
            return "(malformed)"
        return "(not set)" if row["name"] == "CL_SERVER_DIR" else "(needs CL_SERVER_DIR)"
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)
