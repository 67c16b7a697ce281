"""Every fault, promise and invariant is tied to tests that exist, and to the group that runs them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NUMBERS = [
    *map(str, range(1, 107)),
    *(f"P{n}" for n in range(1, 13)),
    *(f"I{n}" for n in range(1, 10)),
    *(f"A{n}" for n in range(1, 10)),
]
APART = {"faults", "load", "bench", "conformance", "browser", "exhaustive", "index"}
ENTRY = re.compile(r"(\w+) (fast|full)  (\S.*)")


@dataclass
class Entry:
    """One number: where it is shown and by what."""

    number: str
    group: str
    words: str
    tests: list[str] = field(default_factory=list)


def read(text: str) -> list[Entry]:
    """The entries, in their order; headings and what stands before them are for people."""
    found: list[Entry] = []
    for line in text.splitlines():
        if match := ENTRY.fullmatch(line):
            found.append(Entry(*match.groups()))
        elif line.startswith("    "):
            assert found, line
            found[-1].tests.append(line.strip())
    return found


@cache
def known_in(path: Path) -> dict[str, set[str]]:
    """The tests of a file, without running it: name -> the marks that it or its module has."""
    module = ast.parse(path.read_text())
    whole: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            whole = _marks(node.value)
    return {
        node.name: whole | {mark for one in node.decorator_list for mark in _marks(one)}
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _marks(node: ast.AST) -> set[str]:
    """Marks by name; those of single cases of a parametrised test stay with their cases."""
    if isinstance(node, ast.List):
        return {mark for one in node.elts for mark in _marks(one)}
    text = ast.unparse(node.func if isinstance(node, ast.Call) else node)
    return {text.removeprefix("pytest.mark.")} if text.startswith("pytest.mark.") else set()


ENTRIES = read((HERE / "matrix.txt").read_text())


def test_every_number_is_there_once_and_in_order() -> None:
    assert [entry.number for entry in ENTRIES] == NUMBERS
    assert len({entry.words for entry in ENTRIES}) == len(NUMBERS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.number)
def test_the_known_in_an_entry_exist_and_run_in_its_group(entry: Entry) -> None:
    assert entry.tests and len(set(entry.tests)) == len(entry.tests)
    groups = []
    for test in entry.tests:
        file, _, name = test.partition("::")
        known = known_in((HERE / file).resolve())
        assert name in known, f"{file} has no {name}"
        groups.append(known[name] & APART)
    if entry.group == "fast":
        assert set() in groups, f"all tests of it are apart: {groups}"


@pytest.mark.parametrize(
    ("text", "tests"),
    [
        ("def test_a(): pass", {"test_a": set()}),
        ("pytestmark = pytest.mark.faults\ndef test_a(): pass", {"test_a": {"faults"}}),
        ("pytestmark = [pytest.mark.load, pytest.mark.skipif(x)]\ndef test_a(): pass", {"test_a": {"load", "skipif"}}),
        ("@pytest.mark.faults\n@pytest.mark.parametrize('x', [1])\ndef test_a(): pass", {"test_a": {"faults", "parametrize"}}),
        (
            "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.faults)])\ndef test_a(): pass",
            {"test_a": {"parametrize"}},
        ),
        ("def helper(): pass", {}),
    ],
)
def test_tests_and_their_marks_are_found(tmp_path: Path, text: str, tests: dict[str, set[str]]) -> None:
    (tmp_path / "test_x.py").write_text(text)
    assert known_in(tmp_path / "test_x.py") == tests
