"""One reference run for all tests that only look at it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe.store.home import Store
from tests.report import reference

Reference = tuple[Store, sqlite3.Row]


@pytest.fixture(scope="session")
def reference_run(copy_store: Callable[[Path], Store], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """The reference run and its store."""
    store = copy_store(tmp_path_factory.mktemp("reference") / "store")
    yield store, reference.fill(store)
    store.close()
