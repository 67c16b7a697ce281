"""Command lines read by jsonargparse: recorded in section ``Args``, or replaced by what is stored (ClearML's names).

Nested keys have dots, as on the command line: ``Args/model.rate``; the chosen sub-command is ``Args/subcommand``. Where a worker runs
the task, the parser itself reads the stored values as it would read a configuration file, types checked.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from minipipe.sdk import command_line
from minipipe.sdk.auto import connection, quiet, wrap
from minipipe.sdk.auto.connection import Connection, is_wanted
from minipipe.sdk.command_line import SECTION
from minipipe.sdk.connect import storable

_parsed: list[dict[str, Any]] = []
_nesting = threading.local()


def patch(module: ModuleType) -> None:
    """Install the hook; `module` is ``jsonargparse``."""
    wrap(module.ArgumentParser, "parse_args", _parse)
    connection.listen(_begun, _parsed.clear)


def _parse(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse_args(self: Any, args: Any = None, *rest: Any, **more: Any) -> Any:
        command_line.ignore(self)
        if getattr(_nesting, "inside", False):
            return original(self, args, *rest, **more)
        _nesting.inside = True
        try:
            connected = connection.current()
            if connected is not None and connected.binding.overrides and connected.wanted and not rest and not more:
                with quiet("jsonargparse"):
                    stored = _stored(self, connected)
                    if stored:
                        return self.parse_object(stored)
            found = original(self, args, *rest, **more)
            with quiet("jsonargparse"):
                _parsed[:] = [_flat(found)]
                if connected is not None:
                    _begun(connected)
            return found
        finally:
            _nesting.inside = False

    return parse_args


def _flat(namespace: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in vars(namespace).items():
        if key.startswith("__"):
            continue
        if type(value).__name__ == "Namespace":
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _begun(connected: Connection) -> None:
    if connected.binding.overrides or not _parsed:
        return
    with quiet("jsonargparse"):
        found = {key: _plain(value) for key, value in _parsed[0].items() if is_wanted(connected.wanted, key)}
        connected.binding.write(SECTION, found)


def _plain(value: Any) -> Any:
    if storable(value):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _stored(parser: Any, connected: Connection) -> dict[str, Any]:
    """What is stored of the parser's own keys, nested."""
    known = {action.dest.partition(".")[0] for action in parser._actions}
    groups = getattr(parser, "_subcommands_action", None)
    commands = set(groups.choices) if groups is not None else set()
    defaults = _flat(parser.get_defaults())
    found: dict[str, Any] = {}
    chosen = ""
    for key, row in connected.binding.read(SECTION).items():
        value, first = json.loads(row["value"]), key.partition(".")[0]
        if value == "" and not isinstance(defaults.get(key), str):
            value = None  # a None that went through `get_parameters` and back
        if value is None or not is_wanted(connected.wanted, key) or first not in known | commands:
            continue
        if groups is not None and key == groups.dest:
            chosen = str(value)
        place, path = found, key.split(".")
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return {key: value for key, value in found.items() if key not in commands or key == chosen}
