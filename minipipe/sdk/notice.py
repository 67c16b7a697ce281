"""One line on stderr for what is accepted and recorded but has no effect here: said once per process and name."""

from __future__ import annotations

import sys

_said: set[str] = set()


def recorded(name: str, why: str) -> None:
    """Say that `name` is recorded without effect, and why; once."""
    if name not in _said:
        _said.add(name)
        print(f"note: {name} is recorded, without effect: {why}", file=sys.stderr)
