"""The key of a function: one digest of its text and, transitively, of all that it names in project code.

The functions, classes and constants that are reached form a graph. They are numbered in the order in which the code
names them, from the function itself, so that the digest knows who uses what under which name, and nothing about files,
lines or modules' names. ClearML's rule (its hash of the script is replaced by this): what is the same work has one key.

Names count as they are now, by value. A module of the project that an import *inside* the code brings counts as a whole,
by its file on disk, with the modules that it imports: that is what the step will get in its own process, and nothing is
imported to be looked at.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from pathlib import PurePath
from types import CellType, FunctionType, MappingProxyType, MethodType
from typing import Any

from minipipe import hashing, modules, source
from minipipe.modules import CACHED, is_project_module, kind_of

__all__ = ["CodeKey", "CodePart", "code_key", "is_project_module"]

_FORMAT = "1"
_INNER = "__minipipe_component__"
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

    Covered: functions, classes with their bases, user decorators, defaults, module constants and closure values by value,
    what is used of project modules. Not covered: comments, docstrings, formatting, annotations outside of classes, unused
    imports, installed packages beyond their name, names of files and modules, attributes reached by ``getattr``, what a
    `Path` constant points to. Where no text is known (``exec``, an edited file) the bytecode counts.

    A call is repeated in microseconds while every name that was looked up still holds the identical object.

    Args:
        function: any callable; of a decorated step, the function inside counts.
        helpers: further functions that the code calls without naming them (ClearML's ``helper_functions``).
    """
    identity = (id(function), *map(id, helpers))
    memo = _memos.get(identity)
    if memo is not None and memo.holds():
        return memo.key
    walk = _Walk((function, *helpers))
    key = walk.key()
    while len(_memos) >= _REMEMBERED:
        _memos.pop(next(iter(_memos)), None)
    _memos[identity] = _Memo(key, walk.roots, tuple(walk.same.values()), tuple(walk.equal))
    return key


# -- memo --------------------------------------------------------------------------------------------------------------

_Watch = tuple[Callable[[Any], object], Any, object]
"""A question, what it is asked about, and the answer when the key was made."""


@dataclass(frozen=True, slots=True)
class _Memo:
    """A key with all that must not have changed for it to be used again; keeps the objects, and so their ids, alive."""

    key: CodeKey
    roots: tuple[Any, ...]
    same: tuple[_Watch, ...]
    equal: tuple[_Watch, ...]

    def holds(self) -> bool:
        for ask, about, answer in self.same:
            if ask(about) is not answer:
                return False
        return all(ask(about) == answer for ask, about, answer in self.equal)


_memos: dict[tuple[int, ...], _Memo] = {}


# -- values ------------------------------------------------------------------------------------------------------------

_FIXED = (type(None), bool, int, float, complex, str, bytes, range, PurePath, enum.Enum, re.Pattern)
# Objects of one process that say nothing about results; a module with a lock must have a key.
_LOCAL = (logging.Logger, threading.local, threading.Event, threading.Condition, type(threading.Lock()), type(threading.RLock()))


def _is_fixed(value: Any) -> bool:
    """True if the object cannot come to hold anything else."""
    return all(map(_is_fixed, value)) if type(value) in (tuple, frozenset) else issubclass(type(value), _FIXED)


def _own(value: object) -> dict[str, Any]:
    """The object's own dict, without running code of its class: a lazy result would fetch its value."""
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found


def _inner(value: Any) -> Any:
    """The function inside a decorated step, anything else as it is."""
    return _own(value).get(_INNER, value)


def _innermost(function: Any) -> Any:
    """The function as the user wrote it: below decorators, partial and methods."""
    function = _inner(function)
    if type(function) is functools.partial:
        return _innermost(function.func)
    if type(function) is MethodType:
        return _innermost(function.__func__)
    deeper = _own(function).get("__wrapped__") if type(function) in (FunctionType, CACHED) else None
    return function if deeper is None else _innermost(deeper)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _wrapped_by(value: Any) -> list[Any]:
    """The project's code inside a function that a package made (a cache, a retry)."""
    things: dict[int, Any] = {}
    seen: set[int] = set()
    todo = [value]
    while todo:
        each = _inner(todo.pop(0))
        how = kind_of(each)
        if how in _TEXTS or type(each) in (functools.partial, MethodType):
            things[id(each)] = each
        elif how == "installed" and id(each) not in seen and modules.root_of(each) not in modules.OURS:
            seen.add(id(each))
            todo.append(_own(each).get("__wrapped__"))
            for content in map(_content, getattr(each, "__closure__", None) or ()):
                todo += content.values() if type(content) is dict else [content]  # functools.singledispatch
    return list(things.values())


def _installed(value: Any) -> str:
    """Package and name: where exactly a package keeps a thing may change with its version."""
    return f"{modules.root_of(value)}:{getattr(value, '__qualname__', '')}"


_TEXTS: dict[str, Callable[[Any], str]] = {
    "function": lambda function: source.read_function(function).text,
    "class": lambda kind: source.read_class(kind).text,
    "module": lambda module: "",
}


def _digest(home: str, value: object, found: dict[int, tuple[str, Any]]) -> str:
    """The digest of a value, "" if there is no stable one.

    Args:
        home: the project's folder; paths below it count relative to it.
        value: any.
        found: by id, gets the code inside the value with the digest of its text, to be followed.
    """

    def relative(text: str) -> str:
        whole = text + os.sep == home
        return "<project>/" if whole else text.replace(home, "<project>/") if home else text

    def reference(each: Any) -> str | None:
        each = _inner(each)
        how, kind = kind_of(each), type(each)
        if how != "constant":
            token = hashing.combine(how, _TEXTS.get(how, _installed)(each))
            return found.setdefault(id(each), (token, each))[0]
        if issubclass(kind, PurePath):
            return hashing.combine("path", relative(str(each)))
        is_ours = modules.root_of(kind) in modules.OURS and kind.__name__ != "LazyEvalWrapper"
        return hashing.combine("local", _installed(kind)) if is_ours or issubclass(kind, _LOCAL) else None

    try:
        return hashing.value_digest(relative(value) if type(value) is str else value, reference=reference)
    except hashing.Unstable:
        return ""


# -- the walk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a value was found: what tells it from others, what people call it, and as which of which global names."""

    key: tuple[Any, ...]
    shown: str
    names: dict[str, Any]
    name: str = ""


@dataclass(slots=True, eq=False)
class _Node:
    """One thing that is reached: what it is alone, and whom it names."""

    subject: Any
    kind: str
    place: _Place
    digest: str = ""
    file: str | None = None
    line: int | None = None
    edges: list[str] = field(default_factory=list)


_FUNCTION = [attrgetter(name) for name in ("__code__", "__defaults__", "__kwdefaults__")]


class _Walk:
    """Numbers what the roots reach, breadth first in the order of the code."""

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.roots = roots
        self.nodes: list[_Node] = []
        self.numbers: dict[Any, int] = {}
        self.imports: dict[str, None] = {}
        self.files: dict[str, None] = {}
        self.unstable: dict[str, None] = {}
        self.same: dict[tuple[int, object], _Watch] = {}  # answers that must stay the identical object
        self.equal: list[_Watch] = []
        self.first = _innermost(roots[0])
        self.main = modules.name_of(self.first)

    def key(self) -> CodeKey:
        """The key of the roots."""
        names = {"__name__": self.main}
        top = _Node(None, "root", _Place((), "", names))
        for number, root in enumerate((self.first, *self.roots)):
            shown = getattr(root, "__qualname__", type(root).__qualname__)
            self.thing(top, str(number), root, _Place(("root", number), shown, names), is_root=True)
        visits = {"function": self.function, "class": self.class_, "module": self.module, "constant": self.constant}
        for node in self.nodes:  # grows while it is walked
            visits[node.kind](node, node.subject)  # type: ignore[operator]  # one method per kind of subject
        digests = [hashing.combine("node", each.kind, each.digest, *each.edges) for each in (top, *self.nodes)]
        return CodeKey(
            hashing.combine("code", _FORMAT, *digests),
            tuple(self.parts()),
            source.read_function(self.first).source if type(self.first) is FunctionType else "",
            *(tuple(self.imports), tuple(self.files), tuple(self.unstable)),
        )

    def parts(self) -> Iterator[CodePart]:
        """The nodes for people, under names that differ."""
        taken: dict[str, int] = {}
        for node in self.nodes:
            name = node.place.shown
            count = taken[name] = taken.get(name, 0) + 1
            yield CodePart(name if count == 1 else f"{name} #{count}", node.kind, node.digest, node.file, node.line)

    # -- what a name leads to

    def follow(
        self, node: _Node, reading: source.Reading, names: dict[str, Any], cells: Mapping[str, CellType] = MappingProxyType({})
    ) -> None:
        """Follow all names of a piece of code: through the cells of its closure, else its globals."""
        for path in reading.names:
            name, label = path[0], ".".join(path)
            if name.startswith("__") and name.endswith("__"):
                continue  # what a module or class knows about itself
            if name in cells:
                value = self.look((id(cells[name]), ""), _content, cells[name])
                self.thing(node, label, value, _Place(("cell", id(cells[name])), f"{node.place.shown}: {name}", names))
            else:
                self.named(node, label, names, *path)
        for each in reading.imports:
            with contextlib.suppress(ImportError):  # a relative one outside of any package
                self.imported(node, importlib.util.resolve_name(each, modules.package_of(names)))

    def named(self, node: _Node, label: str, names: dict[str, Any], name: str, *rest: str) -> None:
        """Follow a global name, and attributes as long as they are those of modules of the project."""
        value = self.look((id(names), name), names.get, name)
        if rest and kind_of(value) == "module":
            self.named(node, label, vars(value), *rest)
        elif name in names:
            shown = self.shown(names.get("__name__") or "__main__", name)
            self.thing(node, label, value, _Place((id(names), name), shown, names, name))

    def look(self, key: tuple[int, object], ask: Callable[[Any], object], about: object) -> object:
        """Ask for an object that must stay the same for the key to hold."""
        answer = ask(about)
        self.same[key] = ask, about, answer
        return answer

    def imported(self, node: _Node, name: str) -> None:
        """Follow what an import inside the code names: a module, or perhaps something in one."""
        if not is_project_module(name):
            if name in sys.modules or modules.file_of(name):
                self.imports[name] = None
                node.edges.append(f"installed {name}")
        elif source.read_module(name) is not None:
            self.edge(node, name, name, "module", _Place(("module", name), name, {"__name__": name}))

    def thing(self, node: _Node, label: str, value: Any, place: _Place, is_root: bool = False) -> None:
        """Note that a node uses a value under a name."""
        value = _inner(value)
        how = "function" if is_root and type(value) is FunctionType else kind_of(value)
        if how == "installed":
            name = modules.name_of(value)
            if name != "builtins" and not is_project_module(name):
                self.imports[name] = None
            node.edges.append(f"{label}=installed {_installed(value)}")
            for number, each in enumerate(_wrapped_by(value)):
                self.thing(node, f"{label}.{number}", each, replace(place, key=(*place.key, number)))
        elif how == "module":
            self.imported(node, value.__name__)
        elif how == "constant":
            self.edge(node, label, value, how, place)
        else:
            name = value.__code__.co_qualname if how == "function" else value.__qualname__
            self.edge(node, label, value, how, _Place((id(value),), self.shown(modules.name_of(value), name), place.names))

    def edge(self, node: _Node, label: str, subject: Any, kind: str, place: _Place) -> None:
        """Note that a node uses another one, which may be new."""
        number = self.numbers.setdefault(place.key, len(self.nodes) + 1)
        if number > len(self.nodes):
            self.nodes.append(_Node(subject, kind, place))
        node.edges.append(f"{label}>{number}")

    def shown(self, module: str, name: str) -> str:
        return name if module == self.main else f"{module}.{name}"

    # -- what a thing is

    def function(self, node: _Node, function: FunctionType) -> None:
        """A function: its text, its defaults by value, what it names."""
        for ask in _FUNCTION:
            self.look((id(function), ask), ask, function)
        code, names = function.__code__, function.__globals__
        reading = source.read_function(function)
        self.locate(node, names, code.co_filename, code.co_firstlineno)
        defaults = function.__defaults__ or (), *sorted((function.__kwdefaults__ or {}).items())
        node.digest = hashing.combine("function", reading.text, self.value(node, defaults, names, " (defaults)"))
        self.follow(node, reading, names, dict(zip(code.co_freevars, function.__closure__ or (), strict=True)))

    def class_(self, node: _Node, kind: type) -> None:
        """A class: its text, the plain values that its attributes have now, its bases and what it names."""
        methods, own, names = source.methods_of(kind), vars(kind), source.globals_of(kind)
        reading = source.read_class(kind)
        self.locate(node, names, reading.file, reading.line)
        public = sorted(name for name in own if not name.startswith("__"))
        plain = tuple((name, own[name]) for name in public if type(own[name]) in _FIXED)
        node.digest = hashing.combine("class", reading.text, self.value(node, plain, names))
        for name in public:
            self.look((id(kind), name), own.get, name)
        for number, base in enumerate((*kind.__bases__, type(kind))):
            if base not in (object, type):
                self.thing(node, f"base {number}", base, node.place)
        cells: dict[str, CellType] = {}
        for name, method in methods.items():
            cells.update(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
            if reading.body is None or method.__code__ not in reading.body.co_consts:  # put there later
                self.thing(node, f"method {name}", method, node.place)
        self.follow(node, reading, names, cells)

    def constant(self, node: _Node, value: object) -> None:
        """Anything else: its value."""
        names = node.place.names
        self.locate(node, names, names.get("__file__"), source.line_of(node.place.name, names))
        node.digest = self.value(node, value, names)

    def module(self, node: _Node, name: str) -> None:
        """A module as a whole: its text on disk, and the modules that it imports."""
        reading = source.read_module(name)
        assert reading is not None
        assert reading.file is not None
        self.equal.append((source.stamp_of, reading.file, source.stamp_of(reading.file)))
        is_package = os.path.basename(reading.file) == "__init__.py"
        names = {"__name__": name, "__package__": name if is_package else name.rpartition(".")[0]}
        self.locate(node, names, reading.file, 1)
        node.digest = hashing.combine("module", reading.text)
        self.follow(node, reading, names)

    def value(self, node: _Node, value: object, names: dict[str, Any], part: str = "") -> str:
        """The digest of a value that belongs to a node; the code in it is followed, in an order that no set can change."""
        found: dict[int, tuple[str, Any]] = {}
        home = modules.home_of(names)
        digest = _digest(home, value, found)
        if not digest:
            self.unstable[node.place.shown + part] = None
        if not _is_fixed(value):
            self.equal.append((lambda each: _digest(home, each, {}), value, digest))
        for token, each in sorted(found.values(), key=itemgetter(0)):
            self.thing(node, token, each, _Place(("inside", id(each)), node.place.shown, names))
        return digest

    def locate(self, node: _Node, names: dict[str, Any], file: object, line: int | None) -> None:
        """Note where a node stands, for people."""
        if isinstance(file, str):
            node.file, node.line = file, line
            if names.get("__name__", "__main__") != "__main__" and os.path.isfile(file):
                self.files[os.path.abspath(file)] = None
