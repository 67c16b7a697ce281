"""A module imports from its own floor or from lower ones, never in a circle, never inside a function (but for commands)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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


def test_only_the_store_changes_rows() -> None:
    words = ("INSERT INTO ", "INSERT OR ", "UPDATE task", "DELETE FROM ", "BEGIN IMMEDIATE", "sqlite3.connect(")
    texts = {name: path.read_text() for name, path in MODULES.items() if floor(name) != 1}
    assert [f"{name}: {word}" for name, text in texts.items() for word in words if word in text] == []


def test_the_edges_ask_the_store_by_its_functions_and_write_no_sql() -> None:
    texts = {name: path.read_text() for name, path in MODULES.items() if floor(name) == 4}
    words = (".database.row(", ".database.rows(", ".execute(")
    assert [f"{name}: {word}" for name, text in texts.items() for word in words if word in text] == []
