"""Flags of absl: recorded in section ``TF_DEFINE``, or replaced by what is stored (ClearML's names); absl's own flags are left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from minipipe.sdk.auto import connection, quiet, wrap
from minipipe.sdk.auto.connection import Connection, is_wanted
from minipipe.sdk.connect import storable

SECTION = "TF_DEFINE"

_parsed: list[Any] = []  # the flags that were parsed last


def patch(module: ModuleType) -> None:
    """Install the hook; `module` is ``absl.flags._flagvalues``."""
    wrap(module.FlagValues, "__call__", _parse)
    connection.listen(_begun, _parsed.clear)


def _parse(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse(self: Any, argv: Any, known_only: bool = False) -> Any:
        rest = original(self, argv, known_only)
        with quiet("absl"):
            _parsed[:] = [self]
            connected = connection.current()
            if connected is not None:
                _begun(connected)
        return rest

    return parse


def _flags(values: Any) -> Iterator[Any]:
    for module, flags in values.flags_by_module_dict().items():
        if not module.startswith("absl."):
            yield from flags


def _begun(connected: Connection) -> None:
    if not _parsed or not is_wanted(connected.frameworks, "tfdefines"):
        return
    with quiet("absl"):
        stored = connected.binding.read(SECTION) if connected.binding.overrides else {}
        found = {}
        for flag in _flags(_parsed[0]):
            if flag.name in stored:
                _set(flag, json.loads(stored[flag.name]["value"]))
            else:
                found[flag.name] = flag.value if storable(flag.value) else str(flag.value)
        connected.binding.write(SECTION, found)


def _set(flag: Any, value: Any) -> None:
    if value in (None, "") and not isinstance(flag.value, str):
        return
    if isinstance(value, str):
        flag.parse(value)
    else:
        flag.value = value
    flag.using_default_value = False
