"""A module imports from its own floor or from lower ones, never in a circle, never inside a function (but for commands)."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import minipipe

PACKAGE = Path(minipipe.__file__).parent
ABOVE = {
    "store": 1,
    "drawing": 2,
    "engine": 2,
    "sdk": 3,
}  # what stands alone is a word (0), other folders and these files are edges (4)
EDGES = ("__init__", "__main__", "pytest_plugin")
FOUNDATIONS = {*sys.stdlib_module_names, "blake3", "minipipe"}

MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")}


def floor(name: str) -> int:
    """Number of a module's floor."""
    first, dot, _ = name.partition(".")
    return ABOVE.get(first, 4) if dot or first in EDGES else 0


def imported(node: ast.AST) -> list[str]:
    """Dotted names that one node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and isinstance(node.args[0], ast.Constant):
        return [str(node.args[0].value)]
    return []


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name, inside a function) of all imports below a node, but those that only a type checker sees."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield from ((name, inside) for name in imported(node))
    inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from imports(child, inside)


def module_of(name: str) -> str | None:
    """The module of ours that a dotted name means: itself, the one that holds it, or the package; None if it is not ours."""
    if name.split(".")[0] != "minipipe":
        return None
    below = name.removeprefix("minipipe").removeprefix(".")
    for known in (below, f"{below}.__init__", below.rpartition(".")[0], f"{below.rpartition('.')[0]}.__init__"):
        if known in MODULES:
            return known
    return "__init__"


@cache
def names() -> dict[str, list[tuple[str, bool]]]:
    """What each module imports; read once, by whoever runs these tests."""
    return {module: list(imports(ast.parse(path.read_text()))) for module, path in MODULES.items()}


@cache
def graph() -> dict[str, list[tuple[str, bool]]]:
    """The modules of ours that each module imports."""
    return {module: [(to, inside) for name, inside in found if (to := module_of(name))] for module, found in names().items()}


def test_the_imports_are_found() -> None:
    assert ("store.database", False) in graph()["store.home"]
    assert [floor(name) for name in ("errors", "store.home", "engine.worker", "sdk.run", "cli.run", "__init__")] == [
        0,
        1,
        2,
        3,
        4,
        4,
    ]
    assert list(imports(ast.parse("def f():\n  import a.b\nif TYPE_CHECKING:\n  import c"))) == [("a.b", True)]
    assert sum(map(len, graph().values())) > 100


def test_no_import_runs_upward() -> None:
    assert [f"{name} imports {to}" for name in graph() for to, _ in graph()[name] if floor(to) > floor(name)] == []


def test_words_need_nothing_but_python_and_blake3() -> None:
    found = {(module, name) for module in MODULES if floor(module) == 0 for name, inside in names()[module] if not inside}
    assert [(module, name) for module, name in sorted(found) if name.split(".")[0] not in FOUNDATIONS] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a circle: " + " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for to in [to for to, inside in graph()[name] if not inside]:
                walk(to, (*path, name))
            done.add(name)

    for module in MODULES:
        walk(module, ())


def test_only_the_command_line_imports_inside_functions() -> None:
    allowed = ("cli.", "__main__", "pytest_plugin")
    assert [
        f"{name} imports {to}" for name in graph() for to, inside in graph()[name] if inside and not name.startswith(allowed)
    ] == []


SQL = re.compile(
    r"\b(SELECT\s+\S|INSERT\s+(INTO|OR)\b|REPLACE\s+INTO\b|UPDATE\s+\w+\s+SET\b|DELETE\s+FROM\b|CREATE\s+(TABLE|INDEX|TRIGGER)\b"
    r"|BEGIN\s+(IMMEDIATE|EXCLUSIVE)\b|PRAGMA\s+\w|VACUUM\b|(FROM|JOIN)\s+\w+\s+(WHERE|ON)\b|(ORDER|GROUP) BY\b|IS (NOT )?NULL\b)"
)
ASKING = ("row", "rows", "execute", "executemany", "executescript")


def texts_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of all strings but docstrings; what an f-string fills in is an "x"."""
    known: set[int] = set()
    for node in ast.walk(tree):  # parents come before their parts
        if isinstance(node, ast.Expr):
            known.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            known.update(map(id, node.values))
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known:
            yield node.lineno, node.value


def sql_in(tree: ast.AST) -> Iterator[str]:
    """What only the store may have: SQL, a statement given to a database, a connection of one's own."""
    yield from (f"line {line}: {text.strip()[:60]}" for line, text in texts_in(tree) if SQL.search(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            if node.func.attr in ASKING or called == "sqlite3.connect":
                yield f"line {node.lineno}: {called}()"


@pytest.mark.parametrize(
    "hidden",
    [
        "store.database.row(text)",
        "connection.execute(text, values)",
        "sqlite3.connect(path)",
        'x = "SELECT name FROM task"',
        'x = f"SELECT {name} FROM task"',
        'x = f"{first} FROM task WHERE id = {number}"',
        "x = f'{ask(\"UPDATE task SET name = 1\")}'",
        'x = """\n  UPDATE task\n  SET name = ?"""',
        'x = ("DELETE FROM task"\n  " WHERE id = ?")',
        'find(store, "run_name IS NOT NULL")',
    ],
)
def test_sql_is_seen_wherever_it_hides(hidden: str) -> None:
    assert len(list(sql_in(ast.parse(hidden)))) == 1


@pytest.mark.parametrize("harmless", ['"""SELECT one FROM these"""', 'x = "select a step"', "view.show_rows(3)", "rows(3)"])
def test_what_only_looks_like_sql_is_none(harmless: str) -> None:
    assert list(sql_in(ast.parse(harmless))) == []


def test_only_the_store_holds_sql() -> None:
    found = {name: list(sql_in(ast.parse(path.read_text()))) for name, path in MODULES.items()}
    assert found["store.records"]
    assert [f"{name}, {what}" for name in found for what in found[name] if floor(name) != 1] == []
