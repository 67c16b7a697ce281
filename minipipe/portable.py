"""Would a script run on a real ClearML agent? What works here and would fail there, found in the syntax tree; nothing is executed.

An agent runs a component alone: ClearML copies the source of the function and of its `helper_functions`, the imports at the top of the
module, and nothing else. `minipipe.portable_names` looks for what is then missing, `minipipe.portable_uses` for the rest. What real
ClearML does was read from the code that its 2.1.12 generates.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from minipipe import errors

CODES = {
    "MP101": "a module's constant, class or function that a component uses does not travel",
    "MP102": "an import that an agent lacks",
    "MP103": "a variable of an enclosing function",
    "MP104": "a default value that cannot be stored",
    "MP105": "a decorator that ClearML does not take off",
    "MP106": "a result used as only minipipe allows",
    "MP107": "a reference or parameter name that ClearML does not understand",
    "MP108": "a name, argument or path of this machine",
    "MP109": "parents of a component that do not block",
    "MP110": "a plain result that defeats the cache",
}
_SILENCED = re.compile(r"#\s*minipipe:\s*ok\b(?P<codes>[^#]*)")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that would fail on an agent.

    Attributes:
        file: as it was given.
        line, column: from 1.
        code: ``MP101`` …
        message: what, and what to do about it.
        remark: only worth knowing; no reason to fail.
    """

    file: str
    line: int
    column: int
    code: str
    message: str
    remark: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """A name that an import at module level, or elsewhere, binds.

    Attributes:
        node: the statement.
        module: dotted name, without leading dots.
        level: number of leading dots.
        conditional: it stands in an ``if``, ``try`` or ``with``, or after another statement in its line.
        within: name of the function that it stands in, "" at module level.
    """

    node: ast.Import | ast.ImportFrom
    module: str
    level: int
    conditional: bool
    within: str


@dataclass(slots=True)
class Component:
    """A function that becomes a step.

    Attributes:
        node: the function.
        call: the decorator's or `add_function_step`'s call, None for a decorator without parentheses.
        helpers: names in its `helper_functions`.
        enclosing: functions around it, outermost first.
        decorated: it is a component by a decorator.
    """

    node: ast.FunctionDef | ast.AsyncFunctionDef
    call: ast.Call | None
    helpers: tuple[str, ...]
    enclosing: tuple[str, ...] = ()
    decorated: bool = True

    @property
    def has_repository(self) -> bool:
        """Its step is given a repository, so that project modules can be imported."""
        return self.call is not None and any(word.arg == "repo" for word in self.call.keywords)


@dataclass(slots=True)
class Script:
    """A script as far as it can be read without running it.

    Attributes:
        file: as it was given.
        folder: where it lies.
        tree: its syntax tree.
        table: its scopes.
        functions: name -> function at module level.
        values: names that are assigned or defined at module level -> what they are, in a word.
        imports: name -> import, wherever it stands; those at module level go before.
        components: in the order of the text.
        pipelines: functions that are pipelines.
        native: names that come from `minipipe`.
        skips_imports: a pipeline says `skip_global_imports`.
    """

    file: str
    folder: Path
    tree: ast.Module
    table: symtable.SymbolTable
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    components: list[Component] = field(default_factory=list)
    pipelines: list[ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=list)
    native: dict[str, ast.ImportFrom | ast.Import] = field(default_factory=dict)
    skips_imports: bool = False

    def finding(self, node: ast.AST, code: str, message: str, remark: bool = False) -> Finding:
        """A finding at a node."""
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        return Finding(self.file, line, column, code, message, remark)


def read(source: str, file: str, folder: Path) -> Script:
    """Read a script.

    Args:
        source: its text.
        file: its name for findings.
        folder: where it lies; local modules are looked for there.

    Raises:
        UsageError: it is no Python.
    """
    try:
        tree = ast.parse(source, file)
        table = symtable.symtable(source, file, "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f"{file}:{line}" if line else file
        raise errors.UsageError(f"{place} is no Python", str(getattr(error, "msg", error))) from None
    script = Script(file, folder, tree, table)
    _read_imports(script, tree.body, conditional=False, within="")
    for statement in _module_level(tree.body):
        _read_value(script, statement)
    _read_functions(script, tree, ())
    return script


def silenced(source: str) -> dict[int, set[str] | None]:
    """Line -> codes that a comment there silences, None for all. A comment that stands alone silences the next line, too."""
    found: dict[int, set[str] | None] = {}
    for number, text in enumerate(source.splitlines(), 1):
        match = _SILENCED.search(text)
        if match:
            codes = set(re.findall(r"MP\d+", match["codes"]))
            found[number] = codes or None
            if text.lstrip().startswith("#"):
                found[number + 1] = codes or None
    return found


# -- reading ------------------------------------------------------------------------------------------------------------


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, those in ``if``, ``try``, loops and ``with`` included."""
    for statement in body:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(statement, name, None)
            if isinstance(inner, list) and not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _module_level(inner)
        for handler in getattr(statement, "handlers", ()):
            yield from _module_level(handler.body)


def _read_imports(script: Script, body: list[ast.stmt], conditional: bool, within: str) -> None:
    for statement in body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            late = conditional or (not within and statement.col_offset > 0)
            level = statement.level if isinstance(statement, ast.ImportFrom) else 0
            base = statement.module or "" if isinstance(statement, ast.ImportFrom) else ""
            for alias in statement.names:
                name = alias.asname or (alias.name if base or level else alias.name.split(".")[0])
                module = base if isinstance(statement, ast.ImportFrom) else alias.name
                if name not in script.imports or (script.imports[name].within and not within):
                    script.imports[name] = Import(statement, module, level, late, within)
                if module.split(".")[0] == "minipipe":
                    script.native.setdefault(name, statement)
            continue
        function = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
        inside = within or (statement.name if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) else "")
        for part in ("body", "orelse", "finalbody"):
            inner = getattr(statement, part, None)
            if isinstance(inner, list):
                _read_imports(script, inner, conditional or not function, inside)
        for handler in getattr(statement, "handlers", ()):
            _read_imports(script, handler.body, True, inside)


def _read_value(script: Script, statement: ast.stmt) -> None:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        script.functions.setdefault(statement.name, statement)
        script.values[statement.name] = "function"
    elif isinstance(statement, ast.ClassDef):
        script.values[statement.name] = "class"
    else:
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, (ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor)):
            targets = [statement.target]
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            targets = [item.optional_vars for item in statement.items if item.optional_vars is not None]
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    script.values.setdefault(node.id, "constant" if node.id.isupper() else "variable")


def _read_functions(script: Script, node: ast.AST, enclosing: tuple[str, ...]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for decorator in child.decorator_list:
                kind = _kind(script, decorator)
                call = decorator if isinstance(decorator, ast.Call) else None
                if kind == "component":
                    script.components.append(Component(child, call, _helpers(call), enclosing))
                elif kind == "pipeline":
                    script.pipelines.append(child)
                    script.skips_imports |= _says_true(call, "skip_global_imports")
            _read_functions(script, child, (*enclosing, child.name))
            continue
        if isinstance(child, ast.Call):
            name = child.func.attr if isinstance(child.func, ast.Attribute) else getattr(child.func, "id", "")
            if name == "add_function_step":
                _read_step(script, child, enclosing)
            elif name == "PipelineController":
                script.skips_imports |= _says_true(child, "skip_global_imports")
        _read_functions(script, child, enclosing)


def _kind(script: Script, decorator: ast.expr) -> str:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(function, ast.Attribute) and "PipelineDecorator" in ast.unparse(function.value):
        return function.attr
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        source = script.imports.get(function.value.id)
        if source is not None and _binds(source, function.value.id, "PipelineDecorator"):
            return function.attr
        if source is not None and source.module == "minipipe" and function.attr in ("component", "pipeline"):
            return function.attr
    if isinstance(function, ast.Name) and function.id in script.native:
        return _original(script.imports[function.id], function.id)
    return ""


def _original(source: Import, name: str) -> str:
    return next((alias.name for alias in source.node.names if (alias.asname or alias.name) == name), name)


def _binds(source: Import, name: str, wanted: str) -> bool:
    return _original(source, name) == wanted


def _helpers(call: ast.Call | None) -> tuple[str, ...]:
    """Names of the functions in ``helper_functions=[…]``."""
    for word in call.keywords if call is not None else ():
        if word.arg == "helper_functions":
            return tuple(node.id for node in ast.walk(word.value) if isinstance(node, ast.Name))
    return ()


def _says_true(call: ast.Call | None, name: str) -> bool:
    return call is not None and any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is True for word in call.keywords
    )


def _read_step(script: Script, call: ast.Call, enclosing: tuple[str, ...]) -> None:
    given = next((word.value for word in call.keywords if word.arg == "function"), call.args[1] if len(call.args) > 1 else None)
    if not isinstance(given, ast.Name):
        return
    node = script.functions.get(given.id) or next(
        (
            each
            for each in ast.walk(script.tree)
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name == given.id
        ),
        None,
    )
    if node is not None and all(one.node is not node for one in script.components):
        around = () if node.name in script.functions else enclosing
        script.components.append(Component(node, call, _helpers(call), around, decorated=False))
