"""One line on stderr for what is accepted and recorded but has no effect here: said once per process and name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipipe.shown import tell

_said: set[str] = set()


def recorded(name: str, why: str) -> None:
    """Say that `name` is recorded without effect, and why; once."""
    _once(name, f"{name} is recorded, without effect: {why}")


def say(name: str, words: str) -> None:
    """Say something else about `name`; once."""
    _once(name, f"{name}: {words}")


def kept(owner: str, given: Mapping[str, tuple[Any, Any, str]]) -> dict[str, Any]:
    """Arguments that are recorded, as they can be stored: those that are not their default; each is said once.

    Args:
        owner: whose arguments they are, for the notice.
        given: name -> value, default, why it has no effect; an empty reason is one that has, and is stored to be read back.
    """
    found: dict[str, Any] = {}
    for name, (value, default, why) in given.items():
        if value is None or value == default:
            continue
        found[name] = value if isinstance(value, (str, int, float, bool, list, dict)) else _storable(value)
        if why:
            recorded(f"{owner}({name}=…)", why)
    return found


def _storable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value)


def _once(name: str, line: str) -> None:
    if name not in _said:
        _said.add(name)
        tell(f"note: {line}")
