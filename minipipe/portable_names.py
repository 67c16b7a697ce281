"""Names that a component uses and an agent does not have: what of a module does not travel (MP101), imports (MP102), variables of
enclosing functions (MP103)."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator

from minipipe.portable import Component, Finding, Import, Script

# What ClearML's template of a step has at its top, and what it assigns before the function is called.
_TEMPLATE = frozenset(
    "Task TaskTypes PipelineDecorator inspect get_basic_type task kwargs params argspec return_section function_input_artifacts".split()
)
_BUILTIN = frozenset({*dir(builtins), "__name__", "__file__", "__doc__"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


def check(script: Script) -> Iterator[Finding]:
    """All findings about names."""
    if script.components and not script.skips_imports:
        yield from _broken_imports(script)
    for component in script.components:
        yield from _check(script, component)


def _broken_imports(script: Script) -> Iterator[Finding]:
    """Imports that, copied into a ``try`` of every step's script, make it no Python."""
    for node in script.tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.module == "__future__":
            yield script.finding(
                node,
                "MP102",
                "ClearML copies 'from __future__ …' into the middle of each step: SyntaxError on an agent; leave it out",
            )
        elif node.level and node.module is None:
            yield script.finding(
                node, "MP102", "ClearML copies 'from . import …' as 'from None import …': SyntaxError on an agent"
            )


def _check(script: Script, component: Component) -> Iterator[Finding]:
    travelling = _travelling(script, component)
    told: set[str] = set()
    for function in travelling.values():
        where = _where(component, function)
        for node, kind in _uses(script, function, component):
            name = node.id
            if name in told or name in _BUILTIN or name in _TEMPLATE or name in travelling:
                continue
            finding = _missing(script, component, node, kind, where)
            if finding is not None:
                told.add(name)
                yield finding
        yield from _local_imports(script, component, function, where)


def _travelling(script: Script, component: Component) -> dict[str, Function]:
    """The functions whose source ClearML puts into the step: the component, its helpers, and decorators that are functions here."""
    found: dict[str, Function] = {component.node.name: component.node}
    for name in component.helpers:
        if name in script.functions:
            found[name] = script.functions[name]
    work = list(found.values())
    while work:
        for decorator in work.pop().decorator_list:
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(function, ast.Name) and function.id in script.functions and function.id not in found:
                found[function.id] = script.functions[function.id]
                work.append(found[function.id])
    return found


def _where(component: Component, function: Function) -> str:
    if function is component.node:
        return ""
    word = "helper" if function.name in component.helpers else "decorator"
    return f" ({word} of component '{component.node.name}')"


def _missing(script: Script, component: Component, node: ast.Name, kind: str, where: str) -> Finding | None:
    name = node.id
    if kind == "enclosing":
        return script.finding(
            node,
            "MP103",
            f"'{name}' is a variable of an enclosing function: NameError on an agent; pass it as an argument{where}",
        )
    source = script.imports.get(name)
    if source is not None and not source.within:
        return _imported(script, component, node, source, where)
    if name in script.values:
        what = script.values[name]
        advice = {
            "function": "list it in helper_functions",
            "class": "define it in the component, or import it from a repository (repo=…)",
        }.get(what, "pass it as an argument")
        return script.finding(node, "MP101", f"'{name}' is a module {what}: NameError on an agent; {advice}{where}")
    if source is not None:
        return script.finding(
            node, "MP102", f"'{name}' is imported in {source.within}() only: NameError on an agent; import it here{where}"
        )
    return None


def _imported(script: Script, component: Component, node: ast.Name, source: Import, where: str) -> Finding | None:
    name = node.id
    if source.level and not source.module:
        return None  # told of at the import
    if source.level:
        return script.finding(
            node,
            "MP102",
            f"'{name}' comes from a relative import (line {source.node.lineno}): an agent imports it without the dots{where}",
        )
    if source.module == "__future__":
        return None
    if source.conditional:
        return script.finding(
            node,
            "MP102",
            f"'{name}' is imported in a block or late in a line (line {source.node.lineno}): an agent does not import it;"
            f" import it in the component{where}",
        )
    if script.skips_imports:
        return script.finding(
            node,
            "MP102",
            f"'{name}' is imported at module level and skip_global_imports is on: import it in the component{where}",
        )
    if is_local(script, source.module) and not component.has_repository:
        return script.finding(
            node, "MP102", f"'{name}' comes from the local module '{source.module}': an agent has it only with repo=…{where}"
        )
    if source.module.split(".")[0] in ("clearml", "minipipe"):
        return None
    return script.finding(
        node,
        "MP102",
        f"'{name}' is imported at module level (line {source.node.lineno}): older versions of ClearML do not carry it{where}",
        remark=True,
    )


def is_local(script: Script, module: str) -> bool:
    """True if a module lies beside the script and is none of Python's."""
    first = module.split(".")[0]
    if not first or first in sys.stdlib_module_names:
        return False
    return (script.folder / f"{first}.py").is_file() or (script.folder / first / "__init__.py").is_file()


def _local_imports(script: Script, component: Component, function: Function, where: str) -> Iterator[Finding]:
    """Imports inside a component that an agent cannot carry out."""
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield script.finding(node, "MP102", f"a relative import: a component is no part of a package on an agent{where}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and not component.has_repository:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                if is_local(script, module):
                    yield script.finding(node, "MP102", f"'{module}' is a local module: an agent has it only with repo=…{where}")


# -- which names ----------------------------------------------------------------------------------------------------------


def _uses(script: Script, function: Function, component: Component) -> Iterator[tuple[ast.Name, str]]:
    """(name, "global" or "enclosing") of all names that a function takes from outside itself, in the order of the text."""
    table = _table(script.table, function)
    if table is None:
        return
    outside, enclosing = _outside(table)
    found: list[tuple[ast.Name, str]] = []
    for node in _body(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in outside | enclosing:
            found.append((node, "enclosing" if node.id in enclosing else "global"))
    for node in _evaluated_outside(function, component):
        around = bool(component.enclosing) and node.id not in script.values and node.id not in script.imports
        found.append((node, "enclosing" if around and _is_bound_around(script, component, node.id) else "global"))
    yield from sorted(found, key=lambda pair: (pair[0].lineno, pair[0].col_offset))


def _body(function: Function) -> Iterator[ast.AST]:
    for statement in function.body:
        yield from ast.walk(statement)


def _evaluated_outside(function: Function, component: Component) -> Iterator[ast.Name]:
    """Names in defaults and in what ClearML leaves of decorators and annotations: evaluated when the step's script defines it."""
    spec = function.args
    left: list[ast.expr] = [*spec.defaults, *(default for default in spec.kw_defaults if default is not None)]
    special = [*spec.posonlyargs, *spec.kwonlyargs, *(one for one in (spec.vararg, spec.kwarg) if one is not None)]
    left += [each.annotation for each in special if each.annotation is not None]
    for decorator in function.decorator_list:
        if function is not component.node or decorator is not component.call:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if "component" not in ast.unparse(called):  # MP105 tells of that
                left.append(decorator)
    for expression in left:
        yield from (node for node in ast.walk(expression) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))


def _is_bound_around(script: Script, component: Component, name: str) -> bool:
    table: symtable.SymbolTable = script.table
    for function in component.enclosing:
        inner = next((child for child in table.get_children() if child.get_name() == function), None)
        if inner is None:
            return False
        table = inner
        if name in table.get_identifiers() and table.lookup(name).is_local():
            return True
    return False


def _table(table: symtable.SymbolTable, function: Function) -> symtable.SymbolTable | None:
    for child in table.get_children():
        if child.get_type() == "function" and child.get_name() == function.name and child.get_lineno() in _lines(function):
            return child
        found = _table(child, function)
        if found is not None:
            return found
    return None


def _lines(function: Function) -> range:
    """Where a scope may begin: at the first decorator or at ``def``."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return range(first, function.lineno + 1)


def _outside(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """(global names, names of enclosing functions) that a scope and the scopes in it use."""
    outside, free = set(), set()
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_local()}
    for symbol in table.get_symbols():
        if symbol.is_free():
            free.add(symbol.get_name())
        elif symbol.is_global() and symbol.is_referenced():
            outside.add(symbol.get_name())
    for child in table.get_children():
        below, below_free = _outside(child)
        outside |= below
        free |= below_free - own
    return outside, free
