"""What is code of the project, by the file of its module; nothing is imported to find out."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

OURS = frozenset({"minipipe", "clearml"})
"""Packages that are never project code."""

_FOLDERS = [os.path.dirname(os.__file__), *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))]
_INSTALLED = tuple(os.path.join(os.path.abspath(each), "") for each in _FOLDERS)
_known: dict[str, bool] = {}


def is_project_module(name: str) -> bool:
    """True if the module is code of the project, whose text counts, and not the standard library or an installed package.

    ``__main__``, notebook cells and modules without a file are project code; minipipe and clearml are not.

    Args:
        name: dotted name; the module need not be imported, and is not imported by the question.
    """
    found = _known.get(name)
    if found is not None:
        return found
    top = name.partition(".")[0]
    if name in ("__main__", "__mp_main__") or top in OURS:
        return top not in OURS
    file = file_of(name)
    if file is not None:
        folders = file.split(os.sep)
        found = not ("site-packages" in folders or "dist-packages" in folders or file.startswith(_INSTALLED))
    else:
        found = is_project_module(name.rpartition(".")[0]) if "." in name else name not in sys.stdlib_module_names
    if file is not None or name in sys.modules:  # a module that is nowhere yet may be written later
        _known[name] = found
    return found


def file_of(name: str) -> str | None:
    """Absolute path of the file that a module came from, or would come from; None if it has none."""
    module = sys.modules.get(name)
    if module is not None:
        file = vars(module).get("__file__")
        return os.path.abspath(file) if isinstance(file, str) else None
    spec = _spec(name)
    return os.path.abspath(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _spec(name: str) -> ModuleSpec | None:
    """The spec of a module; `importlib.util.find_spec` would import (run!) the packages around it."""
    above, _, _ = name.rpartition(".")
    path: Any = None
    if above:
        holder: Any = sys.modules.get(above) or _spec(above)
        path = getattr(holder, "__path__", None) or getattr(holder, "submodule_search_locations", None)
        if path is None:
            return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # a foreign finder that fails knows no module of ours
            continue
        if spec is not None:
            return spec
    return None


def package_of(names: Mapping[str, Any]) -> str:
    """What relative imports start from, where these are the globals."""
    return names.get("__package__") or (names["__name__"] if "__path__" in names else "")


def home_of(names: Mapping[str, Any]) -> str:
    """The folder from which the module with these globals is imported, with a separator at its end; "" if unknown."""
    file, package = names.get("__file__"), package_of(names)
    if not isinstance(file, str):
        return ""
    folder = os.path.dirname(os.path.abspath(file))
    for _ in package.split(".") if package else ():
        folder = os.path.dirname(folder)
    return "" if folder == os.path.dirname(folder) else folder + os.sep


# -- whose a value is --------------------------------------------------------------------------------------------------

CACHED: type = type(functools.lru_cache(lambda: None))
"""What `functools.cache` makes of a function."""


def name_of(value: Any) -> str:
    """The module of a function, class or other object."""
    if isinstance(value, ModuleType):
        return value.__name__
    # Not `__module__` of a function: functools.wraps copies that of the wrapped function.
    if isinstance(value, FunctionType):
        return value.__globals__.get("__name__") or "__main__"
    return str(getattr(value, "__module__", None) or type(value).__module__)


def root_of(value: Any) -> str:
    """The top package of a function, class or other object."""
    return name_of(value).partition(".")[0]


def kind_of(value: Any) -> str:
    """How a value counts in a key: project code is "function", "class" or "module"; else "installed" or "constant"."""
    kind = type(value)
    if not issubclass(kind, (FunctionType, type, ModuleType, BuiltinFunctionType, CACHED)):
        return "constant"
    if kind is BuiltinFunctionType and not isinstance(value.__self__, (ModuleType, type, type(None))):
        return "constant"  # a bound method of an object
    if kind is CACHED or not is_project_module(name_of(value)):
        return "installed"
    return "function" if kind is FunctionType else "module" if issubclass(kind, ModuleType) else "class"
