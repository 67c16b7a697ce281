"""The text of live code: found for certain, without what has no influence, with the names that the code uses.

Nothing here runs project code. A function's text counts only if compiling its file gives exactly the code object that is
loaded: a file that was edited after its import never lends its new text to the old function. What a function uses is
read from its bytecode, in which Python has already resolved which names are local.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import linecache
import os
import sys
import textwrap
import tokenize
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from minipipe import hashing, modules

_DECORATORS = frozenset({"component", "pipeline"})
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of a function, class or module.

    Attributes:
        text: normalised source, or a digest of the bytecode.
        names: dotted names that it takes from its surroundings, in order of first use: ``("helpers", "scale")``.
        imports: modules that import statements inside it name; relative ones with leading dots.
        source: as written, dedented; "" if unknown.
        file: where it stands.
        line: its first line.
        body: the code object that was read, None for a class without certain text.
    """

    text: str
    names: tuple[tuple[str, ...], ...] = ()
    imports: tuple[str, ...] = ()
    source: str = ""
    file: str | None = None
    line: int | None = None
    body: CodeType | None = None


# -- one file ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _File:
    """One text of one file: its normalised tree, and all code objects that compiling it gives."""

    name: str
    lines: list[str]
    tree: ast.Module
    codes: dict[CodeType, None]
    definitions: dict[tuple[int, str], list[_Definition]] = field(default_factory=dict)

    def read(self, code: CodeType) -> Reading | None:
        """The definition of a function or class; None if it is not certain which one it is."""
        found = self.definitions.get((code.co_firstlineno, code.co_name), [])
        if code not in self.codes or len(found) != 1:  # two lambdas in one line
            return None
        names, imports = _uses(code)
        for each in getattr(found[0], "decorator_list", ()):
            names += _uses(compile(ast.Expression(each), self.name, "eval"))[0]
        text = textwrap.dedent("".join(self.lines[code.co_firstlineno - 1 : found[0].end_lineno]))
        return Reading(ast.dump(found[0]), names, imports, text, self.name, code.co_firstlineno, code)


def _parse(name: str, lines: list[str]) -> _File | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown when the file was loaded
            tree = ast.parse("".join(lines))
            # Cells of notebooks may await at their top.
            code = compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        file = _File(name, lines, tree, dict.fromkeys(_nested(code)))
        for node in ast.walk(tree):
            if isinstance(node, _Definition):
                first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
                file.definitions.setdefault((first, getattr(node, "name", "<lambda>")), []).append(node)
        _normalise(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return file


def _normalise(tree: ast.Module) -> None:
    """Take out, in place, what has no influence: docstrings, annotations, minipipe's own decorators.

    The annotations in the body of a class stay: dataclasses and their like read them when the program runs.
    """
    froms = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    ours = [name for each in froms if (each.module or "").partition(".")[0] in modules.OURS for name in each.names]
    decorators = _DECORATORS | {each.asname for each in ours if each.name in _DECORATORS}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.decorator_list = [each for each in node.decorator_list if _last_name(each) not in decorators]
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                kept = [each for each in (_kept(each, isinstance(node, ast.ClassDef)) for each in statements) if each]
                setattr(node, block, kept or [ast.Pass() for _ in statements[:1]])


def _last_name(decorator: ast.expr) -> str:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")


def _kept(statement: ast.stmt, in_class: bool) -> ast.stmt | None:
    """What counts of a statement."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str):
        return None
    if isinstance(statement, ast.AnnAssign) and not in_class:
        if statement.value is None:
            return None
        return ast.copy_location(ast.Assign(targets=[statement.target], value=statement.value), statement)
    return statement


# -- names that code uses ----------------------------------------------------------------------------------------------

_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"})


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)


def _uses(root: CodeType) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Names from outside of the code with the attributes that follow them, and the modules that it imports."""
    names: dict[tuple[str, ...], None] = {}
    imports: dict[str, None] = {}
    for code in _nested(root):
        path: tuple[str, ...] = ()
        level: Any = 0
        members: Any = None
        for step in dis.get_instructions(code):
            if path and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                path = (*path, step.argval)
                continue
            if path:
                names[path] = None
            is_outside = step.opname in _LOADS and ("DEREF" not in step.opname or step.argval in root.co_freevars)
            path = (step.argval,) if is_outside else ()
            if step.opname == "IMPORT_NAME":
                module = "." * level + step.argval
                dot = "" if module.endswith(".") else "."
                imports |= dict.fromkeys((module, *(f"{module}{dot}{each}" for each in members or ())))
            level, members = members, step.argval  # the two values before an import
    return tuple(names), tuple(imports)


# -- functions, classes and modules ------------------------------------------------------------------------------------

_files: dict[str, _File | None] = {}
_readings: weakref.WeakKeyDictionary[FunctionType | type, Reading] = weakref.WeakKeyDictionary()


def _file(name: object, names: dict[str, Any]) -> _File | None:
    """A file as `linecache` has it (cells of notebooks included): it is not read again because it changed on disk."""
    lines = linecache.getlines(name, names) if isinstance(name, str) else []
    if not isinstance(name, str) or not lines:
        return None
    known = _files.get(name)
    if known is None or (known.lines is not lines and known.lines != lines):
        known = _files[name] = _parse(name, lines)
    return known


def read_function(function: FunctionType) -> Reading:
    """Read a live function."""
    known = _readings.get(function)
    code = function.__code__
    if known is None or known.body is not code:
        file = _file(code.co_filename, function.__globals__)
        known = file.read(code) if file else None
        if known is None:
            text = f"python {sys.version_info[:2]} {hashing.value_digest(_plain(code))}"
            known = Reading(text, *_uses(code), body=code)
        _readings[function] = known
    return known


def _plain(code: CodeType) -> tuple[object, ...]:
    """What counts of bytecode without text."""
    constants = [_plain(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, names, constants


def read_class(kind: type) -> Reading:
    """Read a live class; without certain text only its name and fields count, and its methods are to be read one by one."""
    known = _readings.get(kind)
    if known is None:
        fallback = Reading(f"{kind.__qualname__} {sorted(vars(kind).get('__annotations__', ()))}")
        known = _readings[kind] = next(_texts_of(kind), fallback)
    return known


def _texts_of(kind: type) -> Iterator[Reading]:
    codes = [each.__code__ for each in methods_of(kind).values()]
    names = globals_of(kind)
    for name in dict.fromkeys((*(code.co_filename for code in codes), names.get("__file__"))):
        file = _file(name, names)
        for body in reversed(file.codes) if file else ():
            is_class = body.co_qualname == kind.__qualname__ and not body.co_flags & inspect.CO_OPTIMIZED
            reading = file.read(body) if file and is_class else None
            if reading and (not codes or any(code in body.co_consts for code in codes)):
                yield reading


def methods_of(kind: type) -> dict[str, FunctionType]:
    """The functions in the body of a class, unwrapped, without those that dataclasses and the like generate."""
    found = {}
    for name, each in vars(kind).items():
        inside = each.fget if type(each) is property else each.__func__ if type(each) in (classmethod, staticmethod) else each
        written = inspect.unwrap(inside) if type(inside) is FunctionType else None
        if type(written) is FunctionType and written.__code__.co_filename != "<string>":
            found[name] = written
    return found


def globals_of(kind: type) -> dict[str, Any]:
    """The global names of a class: those of its methods, for a class that came by value has no module here."""
    found = [each.__globals__ for each in methods_of(kind).values() if each.__module__ == kind.__module__]
    module = sys.modules.get(kind.__module__)
    return found[0] if found else vars(module) if module else {}


def read_module(name: str) -> Reading | None:
    """The text on disk of a module that an import would load, without loading it; None if there is none."""
    file = modules.file_of(name)
    return _module(file, stamp_of(file)) if file is not None and file.endswith(".py") else None


@functools.lru_cache
def _module(name: str, stamp: object) -> Reading | None:
    try:
        with tokenize.open(name) as opened:
            file = _parse(name, opened.readlines())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    return Reading(ast.dump(file.tree), (), _uses(next(iter(file.codes)))[1], "", name) if file else None


def line_of(name: str, names: dict[str, Any]) -> int | None:
    """The line of a module in which a name is given its value; `names` are the module's globals."""
    file = _file(names.get("__file__"), names)
    for node in file.tree.body if file else ():
        targets: Iterable[ast.AST] = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        if any(isinstance(each, ast.Name) and each.id == name for target in targets for each in ast.walk(target)):
            return node.lineno
    return None


def stamp_of(file: str) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None if there is none."""
    try:
        found = os.stat(file)
        return found.st_mtime_ns, found.st_size, found.st_ino
    except OSError:
        return None
