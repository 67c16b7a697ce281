"""Randomness that is the user's: every run of the same code draws the same numbers (ClearML's rule, seed 1337).

Unlike `minipipe.chance`, which never touches it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from typing import Any

DEFAULT = 1337  # ClearML's

_SEEDERS: dict[str, Callable[[Any, int], object]] = {
    "random": lambda module, value: module.seed(value),
    "numpy.random": lambda module, value: module.seed(value % 2**32),
    "torch": lambda module, value: module.manual_seed(value),
}


def sow(seed: int | None) -> None:
    """Seed `random`, `numpy` and `torch`: those that are imported now, the others when they are.

    An attempt draws the same numbers in a warm host as in a fresh interpreter (ClearML's `Task.set_random_seed`). The host's own
    state never counts: `random` reseeds itself after a fork, numpy does not, and two children drew the same numbers
    (pytorch/pytorch#5059).

    Args:
        seed: any integer; None draws one from the system.
    """
    value = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    for name, seeder in _SEEDERS.items():
        if name in sys.modules:
            seeder(sys.modules[name], value)
    sys.meta_path[:] = [_Later(value), *(finder for finder in sys.meta_path if not isinstance(finder, _Later))]


class _Later:
    """Seeds these modules when they are imported."""

    def __init__(self, value: int) -> None:
        self.value = value

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let the other finders find the module and run our seeding after its own code."""
        if name not in _SEEDERS or name in sys.modules:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            _SEEDERS[name](module, self.value)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
