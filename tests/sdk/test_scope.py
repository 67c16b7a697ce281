"""``scope.txt`` names every public name, and each of its lines is tied to tests that exist."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from minipipe import InputModel, Logger, Model, OutputModel, PipelineController, PipelineDecorator, StorageManager, Task
from minipipe.sdk.artifact import Artifact

HERE = Path(__file__).parent
FLOWS = HERE / "flows"

OWNERS: dict[str, tuple[type, ...]] = {
    "Task": (Task,),
    "Logger": (Logger,),
    "Model": (Model, InputModel, OutputModel),
    "Artifact": (Artifact,),
    "StorageManager": (StorageManager,),
    "Pipeline": (PipelineController, PipelineDecorator),
}
CALLS: dict[str, tuple[Callable[..., Any], ...]] = {
    "pipeline": (PipelineController.__init__, PipelineDecorator.pipeline),
    "step": (PipelineController.add_step, PipelineController.add_function_step, PipelineDecorator.component),
}


@dataclass
class Entry:
    """A line of the table: what it names, what holds, which tests show it."""

    names: list[str]
    words: str
    tests: list[str] = field(default_factory=list)


def read(text: str) -> list[Entry]:
    """The entries, in their order; headings and what stands before them are for people."""
    found: list[Entry] = []
    for line in text.partition("\n== ")[2].splitlines()[1:]:
        names, bar, words = line.partition(" | ")
        if line.startswith("    "):
            found[-1].tests.append(line.strip())
        elif bar:
            found.append(Entry([] if names == "-" else names.split(", "), words))
        else:
            assert line == "" or line.startswith("== "), line
    return found


def public() -> set[str]:
    """Every public name, as the table spells it."""
    members = {f"{owner}.{name}" for owner, each in OWNERS.items() for one in each for name in dir(one) if name[0] != "_"}
    arguments = {
        f"{call}({name})"
        for call, each in CALLS.items()
        for one in each
        for name in inspect.signature(one).parameters
        if name not in ("self", "cls") and name[0] != "_"
    }
    return members | arguments


@cache
def shown_by(path: Path) -> frozenset[str]:
    """What a file of tests shows, without running it: its tests; of a flow script its cases."""
    module = ast.parse(path.read_text())
    if path.parent == FLOWS:
        return frozenset(_cases(module))
    return frozenset(node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def _cases(module: ast.Module) -> Iterator[str]:
    """Functions that are decorated with ``case``, and the texts that begin a ``Case(...)``."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            marks = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
            if any(isinstance(mark, ast.Name) and mark.id == "case" for mark in marks):
                yield node.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Case":
            yield ast.literal_eval(node.args[0])


ENTRIES = read((HERE / "scope.txt").read_text())


def test_every_public_name_is_in_the_table_and_every_name_there_exists() -> None:
    named = {name for entry in ENTRIES for name in entry.names}

    assert sorted(public() - named) == [], "names that no line of scope.txt is about"
    assert sorted(named - public()) == [], "names that are not there any more"


def test_no_line_is_there_twice() -> None:
    words = [(*entry.names, entry.words) for entry in ENTRIES]
    assert len(words) == len(set(words)) > 200


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: re.sub(r"\W+", "-", entry.words)[:60])
def test_the_tests_of_a_line_exist(entry: Entry) -> None:
    assert entry.words and entry.tests
    assert len(set(entry.tests)) == len(entry.tests)
    for test in entry.tests:
        file, _, name = test.partition("::")
        path = (HERE / file).resolve()
        assert path.exists(), f"there is no file {file}"
        assert name in shown_by(path), f"{file} has no {name}"


def test_what_is_missing_is_noticed(tmp_path: Path) -> None:
    (entry,) = read("words\n\n== One\n\nTask.x, - | holds\n    test_scope.py::test_no_line_is_there_twice\n")
    assert entry == Entry(["Task.x", "-"], "holds", ["test_scope.py::test_no_line_is_there_twice"])
    test_the_tests_of_a_line_exist(entry)
    for wrong in ("test_scope.py::test_none", "test_scope.py::read", "test_none.py::test_a", "flows/both.py::swap"):
        with pytest.raises(AssertionError):
            test_the_tests_of_a_line_exist(Entry([], "holds", [wrong]))
    with pytest.raises(AssertionError):
        read("\n== One\n\na line that is none\n")
    assert {"Task.init", "Pipeline.add_step", "step(nice)", "pipeline(name)", "Model.publish"} <= public()
