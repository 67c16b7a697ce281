"""Run by the Python of the real ClearML's environment: prints its public signatures as JSON. Imports nothing of minipipe.

It reads from standard input a JSON object: ``{"classes": [full names], "functions": [full names], "modules": {path: [names]}}``.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import sys
from typing import Any


def text(value: Any) -> Any:
    """A default as text; sequences item by item, members of an enum as their values, functions and classes by name."""
    if isinstance(value, (list, tuple)):
        return [text(one) for one in value]
    if isinstance(value, enum.Enum):
        return str(value.value)
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if type(value) is object:
        return "object()"
    return str(value)


def parameters(function: Any) -> list[list[Any]]:
    """``[name, kind, [default] or null]`` of each parameter."""
    found = inspect.signature(function).parameters.values()
    return [[one.name, one.kind.name, None if one.default is one.empty else [text(one.default)]] for one in found]


def member(owner: type, name: str) -> dict[str, Any]:
    """What kind of thing a class holds under a name, and how it is called."""
    static = inspect.getattr_static(owner, name)
    if isinstance(static, property):
        return {"kind": "property"}
    function = getattr(static, "__func__", static)
    if inspect.isclass(static):
        return {"kind": "class"}
    if not callable(function):
        return {"kind": "value"}
    bound = isinstance(static, (classmethod, staticmethod))
    return {"kind": "classmethod or staticmethod" if bound else "method", "parameters": parameters(getattr(owner, name))}


def public(owner: type) -> list[str]:
    """Names that users may call, and the constructor."""
    return [name for name in dir(owner) if not name.startswith("_") or name == "__init__"]


def find(path: str) -> Any:
    """A thing by its full name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def main() -> None:
    """Print what was asked for."""
    asked = json.load(sys.stdin)
    modules = {path: importlib.import_module(path) for path in asked["modules"]}
    found = {
        "version": find("clearml.version.__version__"),
        "classes": {path: {name: member(find(path), name) for name in public(find(path))} for path in asked["classes"]},
        "functions": {path: parameters(find(path)) for path in asked["functions"]},
        "modules": {path: [name for name in names if hasattr(modules[path], name)] for path, names in asked["modules"].items()},
    }
    print("READ:" + json.dumps(found))


if __name__ == "__main__":
    main()
