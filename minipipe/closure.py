"""What a piece of source text says: its normalised tree, the names that it uses, and the modules behind them.

Nothing here runs project code. A live function is found in its file by line and name, and the text counts only if
compiling it gives exactly the code object that is loaded: a file that was edited after its import never lends its new
text to the old function.
"""

from __future__ import annotations
import __future__

import ast
import copy
import dis
import inspect
import linecache
import os
import sys
import sysconfig
import textwrap
import tokenize
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from minipipe import hashing

_DECORATORS = frozenset({"component", "pipeline"})
_OURS = frozenset({"minipipe", "clearml"})
_KEPT_VERSIONS = 4  # texts of one file name that are remembered: notebooks and editors change files under live functions


# -- modules -----------------------------------------------------------------------------------------------------------

_STDLIB = tuple(
    {os.path.join(os.path.normpath(sysconfig.get_path(key)), "") for key in ("stdlib", "platstdlib")}
    | {os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")}
)
_SITE = tuple(
    {os.path.join(os.path.normpath(sysconfig.get_path(key)), "") for key in ("purelib", "platlib")}
    - {os.path.join(os.path.abspath(os.curdir), "")}
)
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
    if name in ("__main__", "__mp_main__") or top in _OURS:
        return top not in _OURS
    places = _places(name)
    if places:
        found = not any(_installed(place) for place in places)
    else:
        found = top not in sys.stdlib_module_names and top not in sys.builtin_module_names
    if places or name in sys.modules:  # a module that is nowhere yet may be written later
        _known[name] = found
    return found


def _installed(place: str) -> bool:
    folders = place.split(os.sep)
    if "site-packages" in folders or "dist-packages" in folders:
        return True
    return os.path.join(place, "").startswith(_STDLIB + _SITE)


def _places(name: str) -> list[str]:
    """The file of a module, or the folders of a package without one."""
    module = sys.modules.get(name)
    if module is not None:
        file = module_file(module)
        return [file] if file else [os.path.abspath(each) for each in getattr(module, "__path__", ())]
    spec = _spec(name)
    if spec is None:
        return []
    if spec.origin and spec.has_location:
        return [os.path.abspath(spec.origin)]
    return [os.path.abspath(each) for each in spec.submodule_search_locations or ()]


def module_file(module: ModuleType) -> str | None:
    """Absolute path of the module's file, None if it has none."""
    file = vars(module).get("__file__")
    return os.path.abspath(file) if isinstance(file, str) else None


def _spec(name: str) -> Any:
    """The spec of a module; `importlib.util.find_spec` would import (run!) the packages around it."""
    path: Any = None
    spec: Any = None
    full = ""
    for part in name.split("."):
        if full and path is None:
            return None
        full = f"{full}.{part}" if full else part
        loaded = sys.modules.get(full)
        if loaded is not None and full != name and hasattr(loaded, "__path__"):
            path = loaded.__path__
            continue
        spec = _find(full, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def _find(name: str, path: Any) -> Any:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # a foreign finder that fails knows no module of ours
            continue
        if spec is not None:
            return spec
    return None


# -- names that code uses ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """A dotted name as written.

    Attributes:
        path: the name and the attributes that follow it, like ``("helpers", "scale")``.
        module: None for a name of the surroundings; else the module (with leading dots if relative) that an import
            inside the code took the name from, and `path` is what is used of it.
        statement: True for the import statement itself.
    """

    path: tuple[str, ...]
    module: str | None = None
    statement: bool = False


def uses_in(nodes: Iterable[ast.AST]) -> tuple[Use, ...]:
    """The names that the nodes use and do not define themselves, in order of first use; nested code included."""
    names = _Names()
    for node in nodes:
        names.visit(node)
    return tuple(names.found)


def imports_of(statement: ast.AST) -> Iterator[tuple[str, Use]]:
    """The names that a statement binds by importing, with what they stand for; ``*`` stands for itself."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.asname:
                yield alias.asname, Use((), alias.name)
            else:
                top = alias.name.partition(".")[0]
                yield top, Use((), top)
    elif isinstance(statement, ast.ImportFrom):
        module = "." * statement.level + (statement.module or "")
        for alias in statement.names:
            yield alias.asname or alias.name, Use((alias.name,), module)


_Scope = dict[str, list[Use | None]]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _bindings(body: Iterable[ast.AST]) -> _Scope:
    """What a scope binds itself: name -> what imports bind it to, None for any other binding."""
    bound: _Scope = {}
    outside: set[str] = set()
    todo: list[tuple[ast.AST, bool]] = [(node, False) for node in body]
    while todo:
        node, inner = todo.pop()
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            bound.setdefault(node.name, []).append(None)
            continue
        if isinstance(node, ast.Lambda):
            continue
        for name, use in imports_of(node):
            bound.setdefault(name, []).append(use)
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            outside.update(node.names)
        elif isinstance(node, ast.NamedExpr):  # binds in the function around a comprehension
            bound.setdefault(node.target.id, []).append(None)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and not inner:
            bound.setdefault(node.id, []).append(None)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.setdefault(node.name, []).append(None)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.setdefault(node.rest, []).append(None)
        inner = inner or isinstance(node, ast.comprehension)
        todo.extend((child, inner) for child in ast.iter_child_nodes(node))
    return {name: uses for name, uses in bound.items() if name not in outside}


class _Names(ast.NodeVisitor):
    """Collects the names that resolve outside of all scopes of the code, and those bound by its own imports."""

    def __init__(self) -> None:
        self.found: dict[Use, None] = {}
        self.scopes: list[tuple[_Scope, bool]] = []  # with: is it the body of a class?

    def use(self, name: str, rest: tuple[str, ...]) -> None:
        for depth, (scope, is_class) in enumerate(reversed(self.scopes)):
            bound = None if is_class and depth else scope.get(name)
            if bound is None:
                continue
            for origin in bound:
                if origin is not None:
                    self.found[Use(origin.path + rest, origin.module)] = None
            if not is_class:  # in a class body the same name may be read from outside before it is bound
                return
        self.found[Use((name, *rest))] = None

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.use(node.id, ())

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = [node.attr]
        inner = node.value
        while isinstance(inner, ast.Attribute):
            path.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self.use(inner.id, tuple(reversed(path)))
        else:
            self.visit(inner)

    def visit_Global(self, node: ast.Global) -> None:
        for name in node.names:
            self.use(name, ())

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.found[Use((), alias.name, True)] = None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            self.found[Use((alias.name,), module, True)] = None

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        arguments = node.args
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)
        body = node.body if isinstance(node.body, list) else [node.body]
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        scope = _bindings(body)
        for argument in every:
            if argument is not None:
                scope.setdefault(argument.arg, []).append(None)
        self._inside(scope, False, body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self._function(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]
    visit_Lambda = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(child)
        self._inside(_bindings(node.body), True, node.body)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        first, *others = node.generators
        self.visit(first.iter)  # evaluated outside
        targets = [name for each in node.generators for name in ast.walk(each.target)]
        scope: _Scope = {name.id: [None] for name in targets if isinstance(name, ast.Name)}
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._inside(scope, False, [first.target, *first.ifs, *others, *results])

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _inside(self, scope: _Scope, is_class: bool, nodes: Iterable[ast.AST]) -> None:
        self.scopes.append((scope, is_class))
        for node in nodes:
            self.visit(node)
        self.scopes.pop()


# -- text --------------------------------------------------------------------------------------------------------------


class _Normalise(ast.NodeTransformer):
    """Takes out, in place, what has no influence: docstrings, annotations, minipipe's own decorators.

    The annotations in the body of a class stay: dataclasses and their like read them when the program runs.
    """

    def __init__(self, tree: ast.AST) -> None:
        self.in_class = False
        self.decorators = set(_DECORATORS)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _OURS:
                self.decorators |= {each.asname for each in node.names if each.name in _DECORATORS and each.asname}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def _is_ours(self, decorator: ast.expr) -> bool:
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        return (named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")) in self.decorators

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before, self.in_class = self.in_class, False
        node.returns = node.type_comment = None
        node.decorator_list = [each for each in node.decorator_list if not self._is_ours(each)]
        self.generic_visit(node)
        self.in_class = before
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        before, self.in_class = self.in_class, True
        self.generic_visit(node)
        self.in_class = before
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = node.type_comment = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if not self.in_class:
            if node.value is None:
                return None
            plain = ast.Assign(targets=[node.target], value=node.value)
            return self.generic_visit(ast.copy_location(plain, node))
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        node.kind = None  # u"text" is "text"
        return node


@dataclass(slots=True, eq=False)
class Source:
    """One text of one file, parsed once.

    Attributes:
        file: its name.
        lines: the text.
        tree: the same, normalised.
        codes: all code objects that compiling it gives.
        functions: (first line, name) -> functions and lambdas that start there.
        classes: qualified name -> definitions.
        names: name -> the top-level statements that bind it; ``*`` -> imports of all names of a module.
    """

    file: str
    lines: list[str]
    tree: ast.Module
    codes: frozenset[CodeType]
    functions: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)
    names: dict[str, list[ast.stmt]] = field(default_factory=dict)

    def function(self, code: CodeType) -> Any:
        """The definition that a code object was compiled from, None if that is not certain."""
        if code not in self.codes:
            return None
        found = self.functions.get((code.co_firstlineno, code.co_name), [])
        if len(found) > 1:  # lambdas in one line: their columns tell
            starts = {(each[0], each[2]) for each in code.co_positions()}
            found = [each for each in found if (each.body.lineno, each.body.col_offset) in starts]
        return found[0] if len(found) == 1 else None

    def contains(self, node: Any, code: CodeType) -> bool:
        """True if the code stands inside a definition of this text."""
        return code in self.codes and bool(node.lineno <= code.co_firstlineno <= node.end_lineno)

    def text(self, code: CodeType, node: Any) -> str:
        """A function as written, with its decorators and without common indent."""
        if isinstance(node, ast.Lambda):
            return ast.get_source_segment("".join(self.lines), node) or ""
        return textwrap.dedent("".join(self.lines[code.co_firstlineno - 1 : node.end_lineno]))


def _parse(file: str, lines: list[str]) -> Source | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown when the file was loaded
            tree = ast.parse("".join(lines))
            codes = [compile(tree, file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)]
            if not os.path.isfile(file):  # a cell of a notebook: an earlier one may have set this for all later ones
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | __future__.annotations.compiler_flag
                codes.append(compile(tree, file, "exec", flags, dont_inherit=True))
        source = Source(file, lines, tree, frozenset(each for code in codes for each in _codes(code)))
        _index(source, tree, "")
        _Normalise(tree).visit(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for name, statement in _top_level(tree.body):
        source.names.setdefault(name, []).append(statement)
    return source


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _index(source: Source, node: ast.AST, prefix: str) -> None:
    for child in ast.iter_child_nodes(node):
        below = prefix
        if isinstance(child, ast.Lambda):
            source.functions.setdefault((child.lineno, "<lambda>"), []).append(child)
        elif isinstance(child, _FUNCTIONS):
            first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
            source.functions.setdefault((first, child.name), []).append(child)
            below = f"{prefix}{child.name}.<locals>."
        elif isinstance(child, ast.ClassDef):
            source.classes.setdefault(prefix + child.name, []).append(child)
            below = f"{prefix}{child.name}."
        _index(source, child, below)


def _top_level(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that the statements of a module bind, also below ``if``, ``try``, ``with`` and loops."""
    for statement in body:
        inner = [
            each
            for block in ("body", "orelse", "finalbody", "handlers")
            for part in getattr(statement, block, ())
            for each in (part.body if isinstance(part, ast.ExceptHandler) else [part])
        ]
        if not inner or isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            yield from ((name, statement) for name in _bindings([statement]))
            continue
        below = list(_top_level(inner))
        yield from below
        inside = {name for name, _ in below}
        yield from ((name, statement) for name in _bindings([statement]) if name not in inside)


_sources: dict[str, list[Source]] = {}
_files: dict[str, tuple[tuple[int, int, int], Source | None]] = {}


def source_of(file: str, surroundings: dict[str, Any], code: CodeType | None = None) -> Source | None:
    """The text behind live code, through `linecache` as it is: a file is not read again because it changed.

    Texts that were seen before are remembered, so that a function keeps its text when something else (a traceback)
    refreshes `linecache`. A file that changed between its import and the first question has no text for `code`.

    Args:
        file: as in ``co_filename``; cells of a notebook included.
        surroundings: globals of the code, for loaders that know their text (zip files).
        code: only a text that compiles to this counts.
    """
    lines = linecache.getlines(file, surroundings)
    versions = _sources.setdefault(file, [])
    if lines and not any(each.lines is lines for each in versions):
        same = next((each for each in versions if each.lines == lines), None)
        if same is not None:
            same.lines = lines
        elif (parsed := _parse(file, lines)) is not None:
            versions.insert(0, parsed)
            del versions[_KEPT_VERSIONS:]
    return next((each for each in versions if code is None or code in each.codes), None)


def stamp_of(file: str) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None if there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True, slots=True)
class StaticModule:
    """A module of the project that is read and not imported.

    Attributes:
        name: dotted.
        package: what its relative imports start from.
        source: its text on disk now.
    """

    name: str
    package: str
    source: Source


def static_module(name: str) -> StaticModule | None:
    """The module that an import would load, without loading it; None if it has no Python text."""
    spec = _spec(name)
    file = getattr(spec, "origin", None)
    if spec is None or not file or not str(file).endswith(".py"):
        return None
    stamp = stamp_of(file)
    if stamp is None:
        return None
    known = _files.get(file)
    if known is None or known[0] != stamp:
        try:
            with tokenize.open(file) as opened:
                known = stamp, _parse(file, opened.readlines())
        except (OSError, SyntaxError, UnicodeDecodeError):
            known = stamp, None
        _files[file] = known
    if known[1] is None:
        return None
    return StaticModule(name, spec.parent or "", known[1])


# -- functions and classes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of the code of a function or class.

    Attributes:
        text: normalised source, or a digest of the bytecode; without the defaults of the function itself.
        uses: names that it takes from its surroundings.
        source: where it was found, None if there is no text for it.
        node: its definition there.
    """

    text: str
    uses: tuple[Use, ...]
    source: Source | None = None
    node: Any = None


_readings: weakref.WeakKeyDictionary[FunctionType, tuple[CodeType, Reading]] = weakref.WeakKeyDictionary()
_class_readings: weakref.WeakKeyDictionary[type, Reading] = weakref.WeakKeyDictionary()


def read_function(function: FunctionType) -> Reading:
    """Read a live function; its defaults count by value and are left out here."""
    known = _readings.get(function)
    if known is None or known[0] is not function.__code__:
        known = _readings[function] = function.__code__, _read_function(function)
    return known[1]


def _read_function(function: FunctionType) -> Reading:
    code = function.__code__
    source = source_of(code.co_filename, function.__globals__, code)
    node = source.function(code) if source else None
    if node is None:
        return Reading(f"python {sys.version_info[:2]} {_code_digest(code)}", tuple(dict.fromkeys(_code_uses(code))))
    bare = copy.copy(node)
    bare.args = copy.copy(node.args)
    bare.args.defaults, bare.args.kw_defaults = [], []
    return Reading(ast.dump(bare), uses_in([bare]), source, node)


def read_class(kind: type) -> Reading:
    """Read a live class; without certain text its names count, and its methods are to be read one by one."""
    known = _class_readings.get(kind)
    if known is None:
        known = _read_class(kind)
        if known.source is not None:
            _class_readings[kind] = known
    return known


def _read_class(kind: type) -> Reading:
    surroundings, methods = surroundings_of(kind), methods_of(kind)
    files = dict.fromkeys(each.__code__.co_filename for each in methods.values())
    file = surroundings.get("__file__")
    for name in (*files, file) if isinstance(file, str) and file not in files else files:
        codes = [each.__code__ for each in methods.values() if each.__code__.co_filename == name]
        source = source_of(name, surroundings, codes[0] if codes else None)
        if source is None or not all(code in source.codes for code in codes):
            continue
        for node in reversed(source.classes.get(kind.__qualname__, [])):
            if not codes or any(source.contains(node, code) for code in codes):
                return Reading(ast.dump(node), uses_in([node]), source, node)
    annotations = sorted(vars(kind).get("__annotations__", ()))
    return Reading(" ".join(["class", kind.__qualname__, *annotations, "/", *sorted(methods)]), ())


def methods_of(kind: type) -> dict[str, FunctionType]:
    """The functions in the body of a class, unwrapped, without those that dataclasses and the like generate."""
    found = {}
    for name, value in vars(kind).items():
        inside = getattr(value, "fget", None) or getattr(value, "__func__", value)
        written = inspect.unwrap(inside) if type(inside) is FunctionType else None
        if type(written) is FunctionType and written.__code__.co_filename != "<string>":
            found[name] = inside
    return found


def surroundings_of(kind: type) -> dict[str, Any]:
    """The global names of a class: those of its methods, for a class that came by value has no module here."""
    for method in methods_of(kind).values():
        if method.__globals__.get("__name__", "builtins") == kind.__module__:
            return method.__globals__
    module = sys.modules.get(kind.__module__)
    return vars(module) if module else {}


def _code_digest(code: CodeType) -> str:
    """The digest of bytecode without docstrings and lines, for code that has no text."""
    constants = list(code.co_consts)
    if constants and isinstance(constants[0], str) and not code.co_name.startswith("<") and code.co_flags & inspect.CO_OPTIMIZED:
        constants[0] = None
    inner = [_code_digest(each) if isinstance(each, CodeType) else hashing.value_digest(each) for each in constants]
    names = (*code.co_names, "/", *code.co_varnames, "/", *code.co_freevars, "/", *code.co_cellvars)
    counts = f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
    return hashing.combine("bytecode", code.co_code, counts, *names, "/", *inner)


def _code_uses(code: CodeType) -> Iterator[Use]:
    path: tuple[str, ...] = ()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and path:
            path = (*path, step.argval)
            continue
        if path:
            yield Use(path)
            path = ()
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS"):
            path = (step.argval,)
        elif step.opname == "IMPORT_NAME":
            yield Use((), step.argval, True)
            yield Use((), step.argval)
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _code_uses(each)
