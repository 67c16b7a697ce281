"""One line on stderr for what is accepted and recorded but has no effect here: said once per process and name."""

from __future__ import annotations

import sys

_said: set[str] = set()


def recorded(name: str, why: str) -> None:
    """Say that `name` is recorded without effect, and why; once."""
    _once(name, f"{name} is recorded, without effect: {why}")


def say(name: str, words: str) -> None:
    """Say something else about `name`; once."""
    _once(name, f"{name}: {words}")


def _once(name: str, line: str) -> None:
    if name not in _said:
        _said.add(name)
        print(f"note: {line}", file=sys.stderr)
