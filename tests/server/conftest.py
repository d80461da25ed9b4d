"""What the services' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A `cl-server up` that runs, one per process of the test run."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
