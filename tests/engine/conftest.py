"""A shop for each test: a store, and workers that end with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe.store.home import Store
from tests.engine.real import Shop


@pytest.fixture
def shop(store: Store, tmp_path: Path, wait_for: Callable[..., None]) -> Iterator[Shop]:
    """A store without workers; whatever the test starts is ended, and the store checked."""
    made = Shop(store, tmp_path, wait_for)
    try:
        yield made
    finally:
        made.close()
    made.check()
