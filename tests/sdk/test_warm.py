"""What a task tells the warm host to import before it forks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import minipipe
from minipipe.sdk import capture, script


def uses_task(n: int) -> str:
    return minipipe.Task.current_task().id + str(n)


def uses_nothing(n: int) -> int:
    return n


def test_a_step_that_uses_minipipe_finds_it_imported_and_one_that_does_not_costs_nothing() -> None:
    assert minipipe.Task is not None  # loaded when first named

    assert "minipipe.sdk.task" in capture.capture(uses_task, "step").entry["imports"]
    assert "minipipe.sdk.task" not in capture.capture(uses_nothing, "step").entry["imports"]


def test_a_script_task_finds_imported_what_its_script_has_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "flow.py"), raising=False)
    (tmp_path / "flow.py").write_text("print()\n")
    monkeypatch.setitem(sys.modules, "minipipe.sdk.controller", sys)

    assert "minipipe.sdk.controller" in script.capture_script("it")["imports"]
    monkeypatch.delitem(sys.modules, "minipipe.sdk.controller")
    assert "minipipe.sdk.controller" not in script.capture_script("it")["imports"]
