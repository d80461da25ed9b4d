"""Importing each module of a package as the first one of ours: else another could hide a circle."""

from __future__ import annotations

import subprocess
import sys

IMPORT_EACH = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [each.name for each in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    if name.endswith(("__main__", "migrations.env")) or ".versions" in name:
        continue
    for loaded in [each for each in sys.modules if each.startswith("cl_")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


def import_each_first(package: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own."""
    command = [sys.executable, "-c", IMPORT_EACH, package]
    return subprocess.run(command, capture_output=True, text=True)
