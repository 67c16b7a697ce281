"""Modules that a function imports when it runs: which are not installed here, and which versions the others have."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

from minipipe import modules, source


@dataclass(frozen=True, slots=True)
class Unmet:
    """An import that cannot work in this Python.

    Attributes:
        module: top-level name.
        file, line: where it stands.
    """

    module: str
    file: str
    line: int


def unmet(function: object, folders: Iterable[str] = ()) -> Unmet | None:
    """The first import in the body of a function that will fail here; None if there is none, or its text is not known.

    Imports that the function itself guards (``try: … except ImportError``) or leaves to a condition do not count: it has thought
    of their absence.

    Args:
        function: a plain function.
        folders: where modules of the project are looked for besides ``sys.path``.
    """
    if not isinstance(function, FunctionType):
        return None
    for name, line in _imported(function.__code__, function):
        if name in sys.modules or name in sys.stdlib_module_names or name in modules.OURS:
            continue
        if _spec(name) or any(_in_folder(folder, name) for folder in folders):
            continue
        return Unmet(name, function.__code__.co_filename, line)
    return None


def _spec(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _in_folder(folder: str, name: str) -> bool:
    return importlib.machinery.PathFinder.find_spec(name, [folder]) is not None


_seen: dict[CodeType, tuple[tuple[str, int], ...]] = {}


def _imported(code: CodeType, function: FunctionType) -> tuple[tuple[str, int], ...]:
    """(top-level module, line) of the imports that always run."""
    if code not in _seen:
        reading = source.read_function(function)
        try:
            tree = ast.parse(textwrap.dedent(reading.source)) if reading.source else ast.Module([], [])
        except SyntaxError:  # a lambda inside a call
            tree = ast.Module([], [])
        found = [(name, (reading.line or 1) + line - 1) for body in _bodies(tree) for name, line in _unguarded(body)]
        _seen[code] = tuple(found)
    return _seen[code]


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in tree.body[:1]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.body


def _unguarded(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, (ast.With, ast.AsyncWith)) and "suppress" not in ast.unparse(node.items[0].context_expr):
            yield from _unguarded(node.body)


@functools.lru_cache(maxsize=1024)
def version(module: str) -> str:
    """The version of the package that a module belongs to; "" if it tells none."""
    loaded = getattr(sys.modules.get(module), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    metadata = importlib.import_module("importlib.metadata")
    try:
        return str(metadata.version(module))
    except metadata.PackageNotFoundError:
        return ""


def packages_of(source_text: str) -> list[str]:
    """``name==version`` of the installed packages that a script imports, wherever in it; nothing if it cannot be read."""
    try:
        tree = ast.parse(source_text)
    except SyntaxError:
        return []
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    tops = {name.partition(".")[0] for name in found} - modules.OURS
    metadata = importlib.import_module("importlib.metadata")
    owners: dict[str, list[str]] = metadata.packages_distributions()
    names = {owner for top in tops if top not in sys.stdlib_module_names for owner in owners.get(top, ())[:1]}
    return sorted(f"{name}=={metadata.version(name)}" for name in names)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Installed packages among modules, with their versions; the standard library and code of the project are left out."""
    tops = {name.partition(".")[0] for name in names}
    wanted = [name for name in sorted(tops) if name not in sys.stdlib_module_names and name not in modules.OURS]
    return {name: found for name in wanted if not modules.is_project_module(name) and (found := version(name))}
