"""The key of a function: one digest of its text and, transitively, of all that it names in project code.

The functions, classes and constants that are reached form a graph. They are numbered in the order in which the text
names them, from the function itself, so that the digest knows who uses what under which name, and nothing about files,
lines or modules' names. ClearML's rule (its hash of the script is replaced by this): what is the same work has one key.

What an import *inside* the code brings is read from the file on disk, and never imported to be looked at: that is what
the step will get in its own process, whether or not this process happens to have imported the module. Only a module
without a file is taken from `sys.modules`. All other names count as they are now, by value.
"""

from __future__ import annotations

import ast
import enum
import functools
import importlib.util
import logging
import os
import re
import sys
import threading
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from minipipe import closure, hashing
from minipipe.closure import StaticModule, Use, is_project_module

__all__ = ["CodeKey", "CodePart", "code_key", "is_project_module"]

_FORMAT = "1"
_INNER = "__minipipe_component__"
_MISSING = object()
_OWN_NAMES = frozenset({"__name__", "__file__", "__doc__", "__package__", "__spec__", "__loader__", "__builtins__", "__class__"})
_REMEMBERED = 512  # functions whose keys are kept


@dataclass(frozen=True, slots=True)
class CodePart:
    """One thing that a key covers.

    Attributes:
        name: as a person would write it: bare in the function's own module, else with the module; unique in its key.
        kind: "function", "class", "constant" or "module".
        digest: of this thing alone; "" for a constant that has no stable digest.
        file: for people, never in a digest.
        line: for people, never in a digest.
    """

    name: str
    kind: str
    digest: str
    file: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class CodeKey:
    """What the code of a function is.

    Attributes:
        digest: 64 hexadecimal digits.
        parts: the function itself first, the others in order of first use.
        source: the function as written, dedented; "" if unknown.
        imports: installed and standard modules that the code and its project functions name, in order of first use.
        files: absolute paths of the project files that the parts come from, without ``__main__``.
        unstable: names of constants without a stable digest; the key does not cover them.
    """

    digest: str
    parts: tuple[CodePart, ...]
    source: str
    imports: tuple[str, ...]
    files: tuple[str, ...]
    unstable: tuple[str, ...]


def code_key(function: Callable[..., Any], *, helpers: Sequence[Callable[..., Any]] = ()) -> CodeKey:
    """The key of a function and of the project code that it names.

    Covered: functions, classes with their bases, user decorators, defaults, module constants and closure values by
    value, what is used of project modules. Not covered: comments, docstrings, formatting, annotations (but those in the
    body of a class), unused imports, installed packages beyond their name, files, lines, the module's name; attributes
    reached by ``getattr`` with a computed name; what a `Path` constant points to. Where no text is known (``exec``, an
    edited file) the bytecode counts, and with it the minor version of Python.

    A call is repeated cheaply (microseconds) while every name that was looked up still holds the identical object;
    mutable constants are digested again each time.

    Args:
        function: any callable; of a decorated step, the function inside counts.
        helpers: further functions that the code calls without naming them (ClearML's ``helper_functions``).
    """
    identity = (_identity(function), *map(_identity, helpers)) if helpers else _identity(function)
    memo = _memos.get(identity)
    if memo is not None and memo.holds():
        return memo.key
    walk = _Walk((function, *helpers))
    key = walk.key()
    while len(_memos) >= _REMEMBERED:
        _memos.pop(next(iter(_memos)), None)
    _memos[identity] = walk.memo(key)
    return key


def _identity(function: Any) -> Any:
    if type(function) is MethodType:  # a new object at each access
        return id(function.__func__), id(function.__self__)
    return id(function)


# -- memo --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Memo:
    """A key with all that must not have changed for it to be used again; keeps the objects, and so their ids, alive."""

    key: CodeKey
    roots: tuple[Any, ...]
    names: list[tuple[Callable[[str, object], object], str, object]]
    cells: list[tuple[CellType, object]]
    functions: list[tuple[FunctionType, CodeType, Any, Any]]
    files: list[tuple[str, object]]
    values: list[tuple[object, str, str]]

    def holds(self) -> bool:
        missing = _MISSING
        for function, code, defaults, keywords in self.functions:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if function.__kwdefaults__ is not keywords:
                return False
        for get, name, value in self.names:
            if get(name, missing) is not value:
                return False
        for cell, value in self.cells:
            if _content(cell) is not value:
                return False
        for file, stamp in self.files:
            if closure.stamp_of(file) != stamp:
                return False
        return all(_Values(home).digest(value) == digest for value, home, digest in self.values)


_memos: dict[Any, _Memo] = {}


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return _MISSING


# -- values ------------------------------------------------------------------------------------------------------------

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
_FIXED = (*_PLAIN, type(...), range, PurePath, enum.Enum, re.Pattern, FunctionType, type, ModuleType, type(len))
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
_CACHED: type = type(functools.lru_cache(lambda: None))
# Objects of one process that say nothing about results; a module with a logger must have a key.
_LOCAL = (
    *(logging.Logger, logging.LoggerAdapter, logging.Handler, threading.local, threading.Event, threading.Condition),
    *(type(threading.Lock()), type(threading.RLock()), typing.TypeVar, typing.ParamSpec),
)


def _is_fixed(value: Any) -> bool:
    """True if the object cannot come to hold anything else."""
    if type(value) in (tuple, frozenset):
        return all(map(_is_fixed, value))
    return issubclass(type(value), _FIXED)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """True for numbers, texts and containers of such."""
    if type(value) in _PLAIN or depth > 8 or type(value) not in _CONTAINERS:
        return type(value) in _PLAIN
    inner = (*value, *value.values()) if type(value) is dict else value
    return all(_is_plain(each, depth + 1) for each in inner)


def _attributes(value: object) -> dict[str, Any]:
    """The object's own dict, without running code of its class: a lazy result would fetch its value."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _inner(value: Any) -> Any:
    """The function inside a decorated step, anything else as it is."""
    if type(value) in _PLAIN or type(value) in _CONTAINERS or _is_lazy(value):
        return value
    own = _attributes(value)
    if _INNER in own:
        return own[_INNER]
    return getattr(value, _INNER, value) if not isinstance(value, type) and hasattr(type(value), _INNER) else value


def _is_lazy(value: object) -> bool:
    return type(value).__name__ == "LazyEvalWrapper"


def _is_project_function(function: FunctionType) -> bool:
    # Not `__module__`: functools.wraps copies that of the wrapped function.
    return is_project_module(function.__globals__.get("__name__") or "__main__")


def _is_project_class(kind: type) -> bool:
    if kind.__module__ == "builtins":  # also what a class says that was made by exec, without a module
        return bool(kind.__flags__ & _HEAP_TYPE)
    return is_project_module(getattr(kind, "__module__", None) or "__main__")


def _installed_name(value: Any) -> str:
    """Package and name: where exactly a package keeps a thing may change with its version."""
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{str(module).partition('.')[0]}:{getattr(value, '__qualname__', type(value).__qualname__)}"


def _wrapped_by(function: Any, seen: set[int] | None = None) -> list[Any]:
    """The project's things inside a function that a package made (a cache, a retry)."""
    seen = set() if seen is None else seen
    if id(function) in seen or _installed_name(function).startswith(("minipipe:", "clearml:")):
        return []
    seen.add(id(function))
    inside = [_attributes(function).get("__wrapped__")]
    for cell in getattr(function, "__closure__", None) or ():
        content: Any = _content(cell)
        inside.extend(content.values() if type(content) is dict else [content])  # functools.singledispatch
    things: list[Any] = []
    for each in map(_inner, inside):
        if type(each) is FunctionType and not _is_project_function(each):
            things.extend(_wrapped_by(each, seen))
            continue
        made_here = issubclass(type(each), type) and _is_project_class(each)
        if made_here or type(each) in (FunctionType, MethodType, functools.partial, _CACHED):
            things.append(each)
    return list({id(each): each for each in things}.values())


class _Values:
    """Digests of values; code inside them counts by its text and is noted in `found`, to be followed.

    Args:
        home: folder of the project, with a separator at its end, or "". Paths below it count relative to it.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.found: dict[int, tuple[str, Any]] = {}
        self.open: set[int] = set()

    def digest(self, value: object) -> str:
        """The digest, "" if there is no stable one."""
        if type(value) is str:
            value = self.relative(value)
        try:
            return hashing.value_digest(value, reference=self.token)
        except hashing.Unstable:
            return ""

    def relative(self, text: str) -> str:
        if not self.home:
            return text
        return "<project>/" if text + os.sep == self.home else text.replace(self.home, "<project>/")

    def token(self, value: Any) -> str | None:
        """What stands for code, paths and objects of this process; None for all other values."""
        kind = type(value)
        if kind in _PLAIN or kind in _CONTAINERS:
            return None
        value = _inner(value)
        kind = type(value)
        if kind is FunctionType:
            return self.note(value, self.function) if _is_project_function(value) else self.installed(value)
        if issubclass(kind, type):
            return self.note(value, self.class_) if _is_project_class(value) else self.installed(value)
        if kind is _CACHED:
            return self.installed(value)
        if issubclass(kind, ModuleType):
            if not is_project_module(value.__name__):
                return hashing.combine("module", value.__name__)
            return self.note(value, lambda module: hashing.combine("project module"))
        if issubclass(kind, PurePath):
            return hashing.combine("path", self.relative(str(value)))
        ours = kind.__module__.partition(".")[0] in ("minipipe", "clearml") and not _is_lazy(value)
        if ours or issubclass(kind, _LOCAL):
            return hashing.combine("local", _installed_name(kind))
        return None

    def note(self, value: Any, digest: Callable[[Any], str]) -> str:
        if id(value) in self.open:
            return hashing.combine("again", value.__name__)
        self.open.add(id(value))
        token = digest(value)
        self.open.discard(id(value))
        self.found.setdefault(id(value), (token, value))
        return token

    def installed(self, value: Any) -> str:
        inside = [self.token(each) or self.digest(each) for each in _wrapped_by(value)]
        return hashing.combine("installed", _installed_name(value), *inside)

    def function(self, function: FunctionType) -> str:
        """The function alone: text and defaults."""
        defaults = self.digest((function.__defaults__, function.__kwdefaults__))
        return hashing.combine("function", closure.read_function(function).text, defaults)

    def class_(self, kind: type) -> str:
        """The class alone: text, and the plain values that its attributes have now."""
        plain = [(name, value) for name, value in vars(kind).items() if _is_class_constant(kind, name, value)]
        attributes = [part for name, value in sorted(plain) for part in (name, self.digest(value))]
        return hashing.combine("class", closure.read_class(kind).text, *attributes)


def _is_class_constant(kind: type, name: str, value: object) -> bool:
    return not name.startswith("__") and not issubclass(kind, enum.Enum) and _is_plain(value)


# -- the walk ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Node:
    """One thing that is reached: what it is alone, and whom it names."""

    subject: Any
    kind: str
    name: str
    digest: str = ""
    file: str | None = None
    line: int | None = None
    edges: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Constant:
    value: Any
    place: _Place


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a value was found: what tells it from others, what people call it, and whose name it is."""

    key: tuple[Any, ...]
    shown: str
    scope: _Scope
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Definition:
    """What a module that was not imported binds to a name."""

    module: StaticModule
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class _Scope:
    """Where the names of live code are looked up."""

    names: dict[str, Any]
    cells: Mapping[str, CellType] = field(default_factory=dict)
    owner: str = ""

    @property
    def module(self) -> str:
        return self.names.get("__name__") or "__main__"

    @property
    def package(self) -> str:
        return self.names.get("__package__") or ("" if "__path__" not in self.names else self.module)

    @property
    def home(self) -> str:
        """The folder from which the module is imported."""
        file = self.names.get("__file__")
        if not isinstance(file, str):
            return ""
        folder = os.path.dirname(os.path.abspath(file))
        for _ in self.package.split(".") if self.package else ():
            folder = os.path.dirname(folder)
        return "" if folder == os.path.dirname(folder) else folder + os.sep


class _Walk:
    """Numbers what the roots reach, breadth first in the order of the text."""

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.roots = roots
        self.nodes: list[_Node] = []
        self.numbers: dict[Any, int] = {}
        self.imports: dict[str, None] = {}
        self.files: dict[str, None] = {}
        self.unstable: dict[str, None] = {}
        self.names: dict[tuple[int, str], tuple[Callable[[str, object], object], str, object]] = {}
        self.cells: list[tuple[CellType, object]] = []
        self.functions: list[tuple[FunctionType, CodeType, Any, Any]] = []
        self.stamps: dict[str, object] = {}
        self.values: list[tuple[object, str, str]] = []
        self.first = _innermost(roots[0])
        self.main = _module_of(self.first)

    def key(self) -> CodeKey:
        top = _Node(None, "root", "")
        scope = _Scope({"__name__": self.main})
        for number, root in enumerate((self.first, *self.roots)):
            if number != 1 or _inner(root) is not self.first:
                shown = getattr(root, "__qualname__", type(root).__qualname__)
                self.thing(top, str(number), root, _Place(("root", number), shown, scope), always=True)
        for node in self.nodes:  # grows while it is walked
            self.visit(node)
        described = [hashing.combine("node", each.kind, each.digest, *each.edges) for each in (top, *self.nodes)]
        return CodeKey(
            hashing.combine("code", _FORMAT, *described),
            tuple(self.parts()),
            self.source(),
            tuple(self.imports),
            tuple(self.files),
            tuple(self.unstable),
        )

    def memo(self, key: CodeKey) -> _Memo:
        return _Memo(
            *(key, self.roots, list(self.names.values()), self.cells),
            *(self.functions, list(self.stamps.items()), self.values),
        )

    # -- what a name leads to

    def follow(self, node: _Node, uses: Iterable[Use], scope: _Scope) -> None:
        for use in uses:
            if use.module is not None:
                self.imported(node, use, scope.package)
            elif use.path[0] not in _OWN_NAMES:
                self.named(node, use.path, scope)

    def named(self, node: _Node, path: tuple[str, ...], scope: _Scope) -> None:
        name = path[0]
        cell = scope.cells.get(name)
        if cell is not None:
            value = _content(cell)
            self.cells.append((cell, value))
            place = _Place(("cell", id(cell)), self.shown(scope.module, f"{scope.owner}: {name}"), scope)
        else:
            value = self.look(scope.names, name)
            place = _Place((id(scope.names), name), self.shown(scope.module, name), scope, name)
        if value is not _MISSING:
            self.reach(node, ".".join(path), value, path[1:], place)

    def look(self, names: Mapping[str, Any], name: str) -> object:
        value = names.get(name, _MISSING)
        self.names[id(names), name] = names.get, name, value
        return value

    def reach(self, node: _Node, label: str, value: Any, path: tuple[str, ...], place: _Place) -> None:
        """Follow attributes as long as they are those of modules of the project."""
        while path and issubclass(type(value), ModuleType) and is_project_module(value.__name__):
            names, name, module = vars(value), path[0], value.__name__
            value, path = self.look(names, name), path[1:]
            if value is _MISSING:
                self.imported(node, Use(path, f"{module}.{name}"), "")
                return
            place = _Place((id(names), name), self.shown(module, name), _Scope(names), name)
        if issubclass(type(value), ModuleType) and path and f"{value.__name__}.{path[0]}" in sys.modules:
            self.note_import(f"{value.__name__}.{path[0]}")
            node.edges.append(f"{label}=module {value.__name__}")
            return
        self.thing(node, label, value, place)

    def imported(self, node: _Node, use: Use, package: str) -> None:
        """Follow what an import inside the code brings, or would bring."""
        try:
            name = importlib.util.resolve_name(use.module or "", package)
        except ImportError:
            return
        if not is_project_module(name):
            deeper = ".".join((name, *use.path[:1]))
            self.note_import(deeper if deeper in sys.modules else name)
            node.edges.append(f"{name}.{'.'.join(use.path)}")
        elif not use.statement:
            module = closure.static_module(name)
            if module is not None:
                self.defined(node, module, use.path)
            elif name in sys.modules:
                scope = _Scope(vars(sys.modules[name]))
                self.reach(node, name, sys.modules[name], use.path, _Place((name,), name, scope))
            elif use.path:  # a folder without __init__.py
                self.imported(node, Use(use.path[1:], f"{name}.{use.path[0]}"), "")

    def defined(self, node: _Node, module: StaticModule, path: tuple[str, ...]) -> None:
        """Follow a name of a module that is read from its file."""
        source = module.source
        self.stamps.setdefault(source.file, closure.stamp_of(source.file))
        if not path:
            self.edge(node, module.name, ("static", module.name), module, "module", module.name)
            return
        name = path[0]
        statements = source.names.get(name, [])
        imports = [use for each in statements for bound, use in closure.imports_of(each) if bound == name]
        for use in imports:
            self.imported(node, Use(use.path + path[1:], use.module), module.package)
        if len(imports) < len(statements):
            kind = {ast.FunctionDef: "function", ast.AsyncFunctionDef: "function", ast.ClassDef: "class"}
            found = kind.get(type(statements[-1]), "constant")
            self.edge(node, name, ("static", module.name, name), _Definition(module, name), found, f"{module.name}.{name}")
        if statements:
            return
        for star in source.names.get("*", []):
            for _, use in closure.imports_of(star):
                self.imported(node, Use(path, use.module), module.package)
        if module.package == module.name:
            below = closure.static_module(f"{module.name}.{name}")
            if below is not None:
                self.defined(node, below, path[1:])

    def thing(self, node: _Node, label: str, value: Any, place: _Place, always: bool = False) -> None:
        """Note that a node uses a value under a name."""
        value = _inner(value)
        kind = type(value)
        if kind is FunctionType and (always or _is_project_function(value)):
            self.edge(node, label, (id(value),), value, "function", self.shown(_module_of(value), value.__code__.co_qualname))
        elif issubclass(kind, type) and (always or _is_project_class(value)):
            self.edge(node, label, (id(value),), value, "class", self.shown(_module_of(value), value.__qualname__))
        elif issubclass(kind, ModuleType) and is_project_module(value.__name__):
            self.edge(node, label, (id(value),), value, "module", value.__name__)
        elif issubclass(kind, ModuleType):
            self.note_import(value.__name__)
            node.edges.append(f"{label}=module {value.__name__}")
        elif issubclass(kind, (FunctionType, type, type(len), _CACHED)):
            self.note_import(value.__module__)
            node.edges.append(f"{label}=installed {_installed_name(value)}")
            for number, each in enumerate(_wrapped_by(value)):
                inside = _Place((*place.key, number), place.shown, place.scope, place.name)
                self.thing(node, f"{label}.{number}", each, inside)
        else:
            self.edge(node, label, place.key, _Constant(value, place), "constant", place.shown)

    def edge(self, node: _Node, label: str, key: tuple[Any, ...], subject: Any, kind: str, name: str) -> None:
        number = self.numbers.setdefault(key, len(self.nodes) + 1)
        if number > len(self.nodes):
            self.nodes.append(_Node(subject, kind, name))
        node.edges.append(f"{label}>{number}")

    def note_import(self, module: object) -> None:
        if isinstance(module, str) and module != "builtins" and not is_project_module(module):
            self.imports[module] = None

    # -- what a thing is

    def visit(self, node: _Node) -> None:
        subject = node.subject
        if type(subject) is FunctionType:
            self.function(node, subject)
        elif type(subject) is _Constant:
            self.constant(node, subject)
        elif type(subject) is _Definition:
            self.definition(node, subject.module, subject.module.source.names[subject.name])
        elif type(subject) is StaticModule:
            self.definition(node, subject, subject.source.tree.body)
        elif issubclass(type(subject), ModuleType):
            self.module(node, subject)
        else:
            self.class_(node, subject)

    def function(self, node: _Node, function: FunctionType) -> None:
        code = function.__code__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        scope = _Scope(function.__globals__, cells, function.__qualname__)
        values = _Values(scope.home)
        node.digest = values.function(function)
        self.locate(node, scope, code.co_filename, code.co_firstlineno)
        self.functions.append((function, code, function.__defaults__, function.__kwdefaults__))
        defaults = function.__defaults__, tuple((function.__kwdefaults__ or {}).values())
        if not _is_fixed(defaults[0] or ()) or not _is_fixed(defaults[1]):
            kept = function.__defaults__, function.__kwdefaults__
            self.watch(kept, values, f"{node.name} (defaults)")
        self.inside(node, values, scope)
        if "__wrapped__" in function.__dict__:
            self.thing(node, "wrapped", function.__dict__["__wrapped__"], _Place(("wrapped", id(function)), node.name, scope))
        self.follow(node, closure.read_function(function).uses, scope)

    def class_(self, node: _Node, kind: Any) -> None:
        names, methods = closure.surroundings_of(kind), closure.methods_of(kind)
        cells: dict[str, CellType] = {}
        for method in methods.values():
            cells.update(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
        scope = _Scope(names, cells, kind.__qualname__)
        values = _Values(scope.home)
        node.digest = values.class_(kind)
        reading = closure.read_class(kind)
        line = reading.node.lineno if reading.node else None
        self.locate(node, scope, reading.source.file if reading.source else None, line)
        own = vars(kind)
        for name, value in own.items():
            if _is_class_constant(kind, name, value) or type(value) is FunctionType:
                self.look(own, name)
                if not _is_fixed(value):
                    self.watch(value, _Values(scope.home), f"{node.name}.{name}")
        for number, base in enumerate((*kind.__bases__, type(kind))):
            if base not in (object, type):
                self.thing(node, f"base {number}", base, _Place(("base", id(kind), number), node.name, scope))
        for name, method in methods.items():
            if reading.node is None or not self.is_inside(reading, method):
                self.thing(node, f"method {name}", method, _Place(("method", id(kind), name), node.name, scope))
        self.follow(node, reading.uses, scope)

    @staticmethod
    def is_inside(reading: closure.Reading, method: FunctionType) -> bool:
        """True if the method stands in the text of its class; others were put there later."""
        assert reading.source is not None
        return reading.source.contains(reading.node, method.__code__)

    def constant(self, node: _Node, constant: _Constant) -> None:
        place = constant.place
        values = _Values(place.scope.home)
        node.digest = values.digest(constant.value)
        self.note_import(type(constant.value).__module__)
        file = place.scope.names.get("__file__")
        source = closure.source_of(file, place.scope.names) if isinstance(file, str) and place.name else None
        statements = source.names.get(place.name) if source else None
        self.locate(node, place.scope, file, statements[-1].lineno if statements else None)
        if not node.digest:
            self.unstable[node.name] = None
        if not _is_fixed(constant.value):
            self.watch(constant.value, values, node.name)
        self.inside(node, values, place.scope)

    def module(self, node: _Node, module: ModuleType) -> None:
        """A module that is used as a whole: all of its text."""
        scope = _Scope(vars(module))
        file = closure.module_file(module)
        source = closure.source_of(file, scope.names) if file else None
        self.locate(node, scope, file, None)
        if source is not None:
            self.text(node, source.tree.body)
            self.follow(node, closure.uses_in(source.tree.body), scope)
            return
        node.digest = hashing.combine("module")
        self.follow(node, [Use((name,)) for name in sorted(vars(module)) if not name.startswith("__")], scope)

    def definition(self, node: _Node, module: StaticModule, statements: Sequence[ast.stmt]) -> None:
        self.text(node, statements)
        node.file, node.line = (
            module.source.file,
            statements[0].lineno if node.kind != "module" and statements else None,
        )
        self.files[os.path.abspath(module.source.file)] = None
        for use in closure.uses_in(statements):
            if use.module is not None:
                self.imported(node, use, module.package)
            elif use.path[0] not in _OWN_NAMES:
                self.defined(node, module, use.path)

    def text(self, node: _Node, statements: Sequence[ast.stmt]) -> None:
        kept = [ast.dump(each) for each in statements if not isinstance(each, (ast.Import, ast.ImportFrom))]
        node.digest = hashing.combine("text", *kept)

    def inside(self, node: _Node, values: _Values, scope: _Scope) -> None:
        """Follow the code that was met in a value; sets have no order, so the digests give one."""
        for token, found in sorted(values.found.values(), key=lambda each: each[0]):
            self.thing(node, token, found, _Place(("inside", id(found)), node.name, scope))

    def watch(self, value: object, values: _Values, name: str) -> None:
        digest = values.digest(value)
        self.values.append((value, values.home, digest))
        if not digest:
            self.unstable[name] = None

    def locate(self, node: _Node, scope: _Scope, file: object, line: int | None) -> None:
        if isinstance(file, str):
            node.file, node.line = file, line
            if scope.module != "__main__" and os.path.isfile(file):
                self.files[os.path.abspath(file)] = None

    def shown(self, module: str, name: str) -> str:
        return name if module == self.main else f"{module}.{name}"

    def parts(self) -> Iterable[CodePart]:
        taken: dict[str, int] = {}
        for node in self.nodes:
            count = taken[node.name] = taken.get(node.name, 0) + 1
            name = node.name if count == 1 else f"{node.name} #{count}"
            yield CodePart(name, node.kind, node.digest, node.file, node.line)

    def source(self) -> str:
        if type(self.first) is not FunctionType:
            return ""
        reading = closure.read_function(self.first)
        return reading.source.text(self.first.__code__, reading.node) if reading.source else ""


def _innermost(function: Any) -> Any:
    """The function as the user wrote it: below decorators, partial and methods."""
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        function = _inner(function)
        if type(function) is functools.partial:
            function = function.func
        elif type(function) is MethodType:
            function = function.__func__
        elif type(function) in (FunctionType, _CACHED):
            function = _attributes(function).get("__wrapped__", function)
    return function


def _module_of(value: Any) -> str:
    if type(value) is FunctionType:
        return value.__globals__.get("__name__") or "__main__"
    return str(getattr(value, "__module__", None) or type(value).__module__)
