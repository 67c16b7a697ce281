"""Steps that wait for steps of their own, when what executes them dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minipipe.engine import tree
from tests.sdk.sdk_scripts import TIMEOUT_S, Left, python, surroundings, work

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
        stopped = [row["token"] for row in left.rows("SELECT token FROM task WHERE status = 'stopped' AND token IS NOT NULL")]
        assert stopped and tree.members(stopped) == set()
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


BELOW = """
import os
from minipipe import PipelineController

def flaky(n):
    with open("notes", "a") as file:
        file.write("flaky\\n")
    if not os.path.exists("fixed"):
        raise ValueError("not yet")
    return n

def solid(n):
    with open("notes", "a") as file:
        file.write("solid\\n")
    return n

inner = PipelineController("inner", "tests", "1.0")
inner.add_parameter("n", 1)
inner.add_function_step("solid", solid, {"n": "${pipeline.n}"}, ["n"])
inner.add_function_step("flaky", flaky, {"n": "${solid.n}"}, ["n"])
inner.start(queue=None)
"""
ABOVE = """
from minipipe import PipelineController
inner = PipelineController.get(pipeline_project="tests", pipeline_name="inner")
pipe = PipelineController("outer", "tests", "1.0")
pipe.add_step("whole", base_task_id=inner.id, parameter_override={"Args/n": 5}, retry_on_failure=1)
pipe.start()
"""


@pytest.mark.faults
def test_a_pipeline_as_a_step_is_retried_and_resumed_from_where_it_failed(folder: Path, left: Left) -> None:
    (folder / "inner.py").write_text(BELOW)
    (folder / "outer.py").write_text(ABOVE)
    python(folder, "inner.py")
    python(folder, "-m", "minipipe", "run", "outer.py", check=1)
    assert left.noted("notes") == ["solid", "flaky", "flaky"]
    (folder / "fixed").touch()

    done = python(folder, "-m", "minipipe", "resume", "@last")

    assert left.noted("notes") == ["solid", "flaky", "flaky", "flaky"]
    assert left.run("outer")["status"] == "completed", done.err
    (whole,) = left.steps("outer").values()
    below = left.rows("SELECT name, status, superseded FROM task WHERE parent_id = ? ORDER BY id", whole["id"])
    assert [tuple(row) for row in below] == [("solid", "completed", 0), ("flaky", "completed", 0)]


MANY = """
import sys
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["n"])
def leaf(n):
    return n + 1

@PipelineDecorator.pipeline(name="many", project="tests", version="1.0", multi_instance_support="parallel")
def many(n: int = 1):
    return int(leaf(n))

for n in range(3):
    many(n)
print("results", PipelineDecorator.wait_for_multi_pipelines())
"""


@pytest.mark.faults
def test_many_instances_on_queues_are_a_task_each_and_a_rerun_runs_its_own(folder: Path, left: Left) -> None:
    (folder / "flow.py").write_text(MANY)

    done = python(folder, "-m", "minipipe", "run", "flow.py")
    assert sorted(done.out.splitlines()) == [
        "results [1, None, None]",
        "results [None, 2, None]",
        "results [None, None, 3]",
        "results [None, None, None]",
    ]
    assert [row["status"] for row in left.runs("many")] == ["completed"] * 3
    assert left.rows("SELECT count(*) AS n FROM task WHERE nested = 1")[0]["n"] == 0

    second = next(row for row in left.runs("many") if '"call": 2' in row["settings"])
    again = python(folder, "-m", "minipipe", "rerun", second["uid"], "--set", "n=40")
    assert again.out == "results [None, 41, None]\n"
