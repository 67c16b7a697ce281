"""Faults are made by standing in for a call of `os` or `sqlite3`: so every module has to look it up there each time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import minipipe

INJECTED = {"os": {"open", "write", "fsync", "fdatasync", "mkdir", "replace", "link", "unlink"}, "sqlite3": {"connect"}}


def bound(module: ast.AST) -> Iterator[str]:
    """Calls that a module took out of their place, by import or by assignment: no test can stand in between."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module in INJECTED:
            yield from (alias.name for alias in node.names if alias.name in {*INJECTED[node.module], "*"})
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Attribute):
            owner, _, name = ast.unparse(node.value).rpartition(".")
            if name in INJECTED.get(owner, ()):
                yield f"{owner}.{name}"


@pytest.mark.parametrize(
    "text", ["from os import fsync", "from sqlite3 import connect as c", "from os import *", "sync = os.fsync"]
)
def test_a_call_that_left_its_module_is_found(text: str) -> None:
    assert list(bound(ast.parse(text)))


def test_what_faults_replace_is_called_as_an_attribute() -> None:
    modules = list(Path(minipipe.__file__).parent.rglob("*.py"))
    assert len(modules) > 50
    assert {path.name: calls for path in modules if (calls := list(bound(ast.parse(path.read_text()))))} == {}
