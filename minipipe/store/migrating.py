"""sqlite-utils for a migration, without numpy and pandas: it imports both where they are installed, half a second for nothing.

A first run makes a store, so that is the half second that a newcomer sees. Only this thread is told that they are not there; and what
was imported so is forgotten afterwards, so that `Store.db` gets the whole library.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HEAVY = ("numpy", "pandas")


class _Hidden(MetaPathFinder):
    """Tells one thread that modules are not installed."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None, or an ImportError."""
        if name in _HEAVY and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@contextlib.contextmanager
def sqlite_utils() -> Iterator[tuple[Any, Any]]:
    """The modules ``sqlite_utils`` and ``sqlite_utils.migrations``, for as long as the context lasts."""
    there = "sqlite_utils" in sys.modules
    finder = _Hidden()
    sys.meta_path.insert(0, finder)
    try:
        found = importlib.import_module("sqlite_utils"), importlib.import_module("sqlite_utils.migrations")
    finally:
        sys.meta_path.remove(finder)
    try:
        yield found
    finally:
        if not there:
            for name in [name for name in sys.modules if name.partition(".")[0] == "sqlite_utils"]:
                del sys.modules[name]
