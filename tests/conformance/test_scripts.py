"""ClearML's example scripts do, unmodified and offline, what they do with ClearML's server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance import __main__ as command
from tests.conformance import scenes, scripts

CHECKOUT = os.environ.get(command.VARIABLE)


def test_every_script_of_the_folders_is_run_or_needs_a_heavy_framework() -> None:
    named = [one.script for one in scripts.CASES]
    assert len(named) == len(set(named)) >= 50
    assert not set(named) & scripts.HEAVY.keys()


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    python = scenes.python()
    return python, scenes.make_files(python, tmp_path_factory.mktemp("files"))


@pytest.mark.conformance
@pytest.mark.skipif(CHECKOUT is None, reason=f"{command.VARIABLE} names no checkout of ClearML's repository")
@pytest.mark.parametrize("one", scripts.CASES, ids=lambda one: one.script)
def test_a_script(one: scripts.Case, tmp_path: Path, surroundings: tuple[Path, dict[str, str]]) -> None:
    good, got, _ = scripts.perform(one, scenes.Scene(tmp_path, surroundings[0], command.examples_of(CHECKOUT), surroundings[1]))
    assert good, got


@pytest.mark.conformance
@pytest.mark.skipif(CHECKOUT is None, reason=f"{command.VARIABLE} names no checkout of ClearML's repository")
def test_no_script_of_the_folders_is_forgotten() -> None:
    examples = command.examples_of(CHECKOUT)
    folders = {str(Path(one.script).parent) for one in scripts.CASES} - {"advanced"}
    there = {f"{folder}/{path.name}" for folder in folders for path in (examples / folder).glob("*.py")}
    assert there - {one.script for one in scripts.CASES} - scripts.HEAVY.keys() == set()
