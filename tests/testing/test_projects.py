"""A project under pytest as its user runs it: the example, and tests that fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"
FAILING = """
import pytest
from minipipe import PipelineDecorator

LEFT = []


@PipelineDecorator.component(return_values=["x"])
def train(lr):
    for epoch in range(40):
        print("epoch", epoch)
    raise ValueError("loss is nan")


@PipelineDecorator.pipeline(name="p", project="p", version="1.0.0")
def flow(lr=1):
    train(lr)


def test_it_completes(run_pipeline):
    run_pipeline(flow, lr=9.9).assert_completed()


def test_import_clearml_in_a_suite_that_sets_it():
    import clearml

    assert clearml.Task.__module__ == "minipipe.sdk.task"


def test_no_run_no_section():
    assert False


@pytest.mark.minipipe(threads=2)
def test_a_marker_with_a_wrong_word(run_pipeline):
    pass


def test_nothing_may_be_left(minipipe_store):
    from minipipe.engine import start
    from minipipe.store import workers

    LEFT.append(start.start_worker(minipipe_store.path, session="x" * 32, slots=1))
    while not workers.alive(minipipe_store):
        pass
"""


@pytest.mark.exhaustive
def test_the_example_projects_tests_pass_and_failing_ones_show_what_became_of_their_runs(tmp_path: Path) -> None:
    project = tmp_path / "example"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    (project / "tests" / "test_failing.py").write_text(FAILING)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MINIPIPE"))}

    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--capture=no",
        "-o",
        "minipipe_clearml=true",
    )
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)

    shown = done.stdout
    assert done.returncode == 1 and "2 failed, 8 passed, 2 errors" in shown, shown + done.stderr
    assert shown.count("PASSED tests/test_flow.py") == 6, "the example's own"
    assert shown.count("- minipipe run -") == 1
    section = shown[shown.index("- minipipe run -") :].splitlines()
    assert section[1].endswith(": failed, exit code 1") and section[2].split()[:2] == ["STEP", "TOTAL"]
    begin = section.index("log of train:")
    log = section[begin + 1 : begin + 21]
    assert all(line.startswith("  ") for line in log) and log[-1] == "  ValueError: loss is nan" and "epoch 39" in "".join(log)
    assert "takes jobs=N and timeout_s=S, not threads" in shown
    assert "left running when the test ended, and killed: agent" in shown
