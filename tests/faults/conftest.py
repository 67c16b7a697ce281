"""The same shop as for the engine; and the command in forks of one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.conftest import shop
from tests.faults.forked import Forked, served

__all__ = ["forked", "shop"]


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    """Takes commands as `tests.faults.machine.command` does, in a tenth of the time."""
    with served() as server:
        yield server
