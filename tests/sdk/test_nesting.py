"""Steps that wait for steps of their own, when what executes them dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_scripts import TIMEOUT_S, Left, python, surroundings, work

FLOW = """
import os, sys, time
from minipipe import PipelineDecorator

def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")

@PipelineDecorator.component(return_values=["n"])
def leaf(n):
    note(f"leaf {n}")
    while n == 2 and not os.path.exists("go"):
        time.sleep(0.01)
    return n + 1

@PipelineDecorator.component(return_values=["n"])
def caller(n):
    note("caller")
    return int(leaf(n)) + int(leaf(n + 1))

@PipelineDecorator.pipeline(name="inner", project="tests", version="1.0")
def inner(n):
    return int(leaf(n + 10))

@PipelineDecorator.pipeline(name="outer", project="tests", version="1.0")
def outer(n=1):
    first = inner(n)
    print("result", first, int(caller(n)))

if __name__ == "__main__":
    outer()
"""
WORKER = (sys.executable, "-m", "minipipe", "worker", "-j", "1")


@pytest.fixture
def left(folder: Path) -> Iterator[Left]:
    """What the processes leave in the folder."""
    found = Left(folder)
    yield found
    if "store" in vars(found):
        found.store.close()


def wait_for(left: Left, line: str) -> None:
    """Wait until something has been noted."""
    end = time.monotonic() + TIMEOUT_S
    while line not in left.noted("notes"):
        assert time.monotonic() < end, left.noted("notes")
        time.sleep(0.01)


@pytest.mark.faults
def test_a_killed_worker_with_one_slot_loses_neither_the_caller_nor_the_pipeline_below(folder: Path, left: Left) -> None:
    (folder / "flow.py").write_text(FLOW)
    python(folder, "flow.py")
    with subprocess.Popen(WORKER, cwd=folder, env=surroundings(folder), stdout=subprocess.DEVNULL) as worker:
        wait_for(left, "leaf 2")
        worker.send_signal(signal.SIGKILL)
        worker.wait(TIMEOUT_S)
    (folder / "go").touch()

    work(folder)

    run = left.run("outer")
    assert (run["status"], run["crashes"]) == ("completed", 1), run["reason"]
    assert "result 12 5" in left.log(run)
    steps = left.steps("outer")
    assert {name: row["status"] for name, row in steps.items()} == dict.fromkeys(
        ("inner", "caller", "caller_leaf", "caller_leaf_1"), "completed"
    )
    notes = left.noted("notes")
    assert (notes.count("leaf 11"), notes.count("leaf 1")) == (1, 1), "what completed is taken as it is"
    assert (notes.count("caller"), notes.count("leaf 2")) == (2, 2)


@pytest.mark.faults
def test_an_abort_of_the_run_takes_everything_below_and_a_resume_goes_on(folder: Path, left: Left) -> None:
    (folder / "flow.py").write_text(FLOW)
    python(folder, "flow.py")
    with subprocess.Popen(WORKER, cwd=folder, env=surroundings(folder), stdout=subprocess.DEVNULL) as worker:
        wait_for(left, "leaf 2")
        python(folder, "-m", "minipipe", "abort", "@last")
        end = time.monotonic() + TIMEOUT_S
        while left.rows("SELECT 1 FROM task WHERE status NOT IN ('completed', 'stopped', 'skipped')"):
            assert time.monotonic() < end
            time.sleep(0.01)
        (folder / "go").touch()
        done = python(folder, "-m", "minipipe", "resume", "@last", "--detach")
        end = time.monotonic() + TIMEOUT_S
        while left.run("outer")["status"] != "completed":
            assert time.monotonic() < end, (done.err, left.run("outer")["status"], left.run("outer")["reason"])
            time.sleep(0.01)
        worker.send_signal(signal.SIGTERM)
        worker.wait(TIMEOUT_S)

    assert "result 12 5" in left.log(left.run("outer"))
    assert left.noted("notes").count("leaf 11") == 1
