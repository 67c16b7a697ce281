"""The words of common mistakes: what happened, why with the line, and what to type."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from minipipe.cli import ending
from minipipe.store import attempts, sessions
from tests.cli.conftest import Filled
from tests.cli.flows import command, write

CONTROLLER = """
from minipipe import PipelineController

def make(u=None):
    return 1

pipe = PipelineController(name="flow", project="examples", version="1")
"""

MISTAKES = {
    "a misspelt reference": (
        CONTROLLER
        + """
pipe.add_function_step(name="stage_data", function=make, function_return=["x"])
pipe.add_function_step(name="process", function=make, function_kwargs={"u": "${stage_dat.artifacts.x.url}"})
pipe.start_locally(run_pipeline_steps_locally=True)
""",
        2,
        "step 'process': no step 'stage_dat' in ${stage_dat.artifacts.x.url}",
        "flow.py:11",
        "did you mean stage_data?",
    ),
    "a cycle": (
        CONTROLLER
        + """
pipe.add_function_step(name="a", function=make, parents=["b"])
pipe.add_function_step(name="b", function=make, parents=["a"])
pipe.start_locally(run_pipeline_steps_locally=True)
""",
        2,
        "steps wait for each other: a -> b -> a",
        "nothing was queued",
        "",
    ),
    "a template that is not there": (
        CONTROLLER + '\npipe.add_step(name="a", base_task_project="examples", base_task_name="make dataset")\n',
        3,
        "no task 'make dataset' in project 'examples'",
        "flow.py:9; step 'a' copies it",
        "minipipe run step1.py registers it",
    ),
    "an argument that lives in one process": (
        """
import sqlite3
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["x"])
def train(conn):
    return 1

@PipelineDecorator.pipeline(name="flow", project="examples", version="1")
def flow():
    train(sqlite3.connect(":memory:"))

PipelineDecorator.run_locally()
flow()
""",
        2,
        "argument 'conn' of train() is a sqlite3.Connection",
        "flow.py:11",
        "open it inside the step that uses it",
    ),
    "an argument that the function does not have": (
        CONTROLLER + '\npipe.add_function_step(name="a", function=make, function_kwargs={"v": 1})\n',
        2,
        "a() got an unexpected keyword argument 'v'",
        "flow.py:9; it takes u",
        "correct the call",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line_and_what_to_type(name: str) -> None:
    text, code, message, cause, hint = MISTAKES[name]
    Path("step1.py").write_text(
        "from minipipe import Task\ntask = Task.init('examples', 'make dataset')\ntask.execute_remotely()\n"
    )
    done = command("run", write(text), "--json", check=code)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["message"]) == (code, message)
    assert cause in error["cause"]
    assert hint in error["hint"]
    assert f"error: {message}\n" in done.stderr


@pytest.mark.parametrize("kind", ["pre_execute_callback", "post_execute_callback"])
def test_an_error_in_a_callback_is_what_the_command_ends_with(kind: str) -> None:
    text = f"""
def bad(*told):
    raise RuntimeError("no")

pipe.add_function_step(name="a", function=make, function_return=["x"], {kind}=bad)
pipe.add_function_step(name="b", function=make, function_kwargs={{"u": "${{a.x}}"}})
pipe.start_locally(run_pipeline_steps_locally=True)
"""
    error = command("run", write(CONTROLLER + text), check=1).stderr
    assert "failed: RuntimeError: no\n  cause: flow.py:10, in bad:" in error
    assert f"{os.sep}minipipe{os.sep}sdk{os.sep}" not in error
    assert "minipipe frames, MINIPIPE_TRACEBACK=full" in error


def failed(filled: Filled, reason: str, error: dict[str, str]) -> tuple[str, str, str]:
    """Message, cause and hint of a run whose step `train` failed so."""
    run = filled.run()
    filled.step(run, "train")
    attempts.finish(filled.store, filled.claim().lease, attempts.Outcome(attempts.FAILED, reason, error, (), 3.1))
    filled.end(run, "failed")
    row = filled.store.database.rows("SELECT * FROM task WHERE id = ?", (run.id,))[0]
    told = ending.failure(filled.store, row, sessions.steps(filled.store, run.id))
    return told.message, told.cause, told.hint.replace(run.uid[:8], "ID")


def test_a_module_that_is_missing_is_named_with_the_python_and_what_to_install(filled: Filled) -> None:
    error = {
        "type": "ModuleNotFoundError",
        "message": "No module named 'sklearn'",
        "where": "flow.py:4, in train:  import sklearn",
        "traceback": "Traceback (most recent call last):\nModuleNotFoundError: No module named 'sklearn'\n",
    }
    message, cause, hint = failed(filled, "ModuleNotFoundError: No module named 'sklearn'", error)
    assert message == "step 'train': no module named 'sklearn'"
    assert cause == f"python: {sys.executable}\nflow.py:4, in train:  import sklearn"
    assert hint == 'pip install scikit-learn, or packages=["scikit-learn"]   or, after a fix:  minipipe resume ID'


def test_a_killed_step_says_by_what_and_how_often(filled: Filled) -> None:
    error = {"type": "SIGKILL", "message": "killed by SIGKILL from outside; often this means that memory ran out"}
    message, cause, hint = failed(filled, "killed by SIGKILL, 3 times", error)
    assert message == "step 'train' was killed by SIGKILL, 3 times"
    assert "memory ran out" in cause
    assert hint == "minipipe logs ID/train   or, after a fix:  minipipe resume ID"


def test_an_error_of_ours_inside_a_step_keeps_its_words(filled: Filled) -> None:
    error = {
        "type": "CannotTravel",
        "message": "step 'train': result 'x' of type generator cannot be stored",
        "traceback": (
            "Traceback (most recent call last):\nminipipe.errors.CannotTravel: step 'train': result 'x' of type generator cannot be"
            " stored\n  cause: TypeError: cannot pickle 'generator' object\n  hint: return a list\n"
        ),
    }
    message, cause, hint = failed(filled, "CannotTravel: step 'train': result 'x' of type generator cannot be stored", error)
    assert message == "step 'train': result 'x' of type generator cannot be stored"
    assert cause == "TypeError: cannot pickle 'generator' object"
    assert hint == "return a list   or, after a fix:  minipipe resume ID"


def test_the_last_words_of_a_log_hold_no_part_of_a_chain_of_tracebacks(filled: Filled) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    one = "Traceback (most recent call last):\n  File\nKeyError: 'a'\n\n"
    joint = "During handling of the above exception, another exception occurred:\n\n"
    path = filled.log(step, f"first\nlast words\n{one}{joint}{one}{joint}{one}".encode())
    assert ending.log_tail(path) == ["first", "last words"]


def test_a_step_that_a_signal_ends_is_told_by_its_own_line_and_its_own_words() -> None:
    script = write(
        """
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["x"])
def broken(words):
    if words:
        print(words)
    import ctypes
    return ctypes.string_at(0)

@PipelineDecorator.pipeline(name="flow", project="tests")
def flow(words="about to break"):
    broken(words)

PipelineDecorator.run_locally()
flow()
"""
    )
    for words, log in (("about to break", ["         log: about to break"]), ("", [])):
        done = command("run", script, "--set", f"words={words}", check=1)

        told = done.stderr.partition("error: ")[2].splitlines()
        place = "  cause: flow.py:9, in broken:  return ctypes.string_at(0)"
        assert told[:-1] == ["step 'broken' failed: ended by SIGSEGV", place, *log]
        assert told[-1].startswith("  hint: minipipe logs ")


def test_a_step_that_returns_more_or_less_than_it_names_says_so_where_its_ending_is_told() -> None:
    write(
        """
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["a", "b"])
def gives(parts):
    return parts

@PipelineDecorator.pipeline(name="flow", project="tests")
def flow():
    gives((1, 2, 3))
    gives((1,))
    gives((1, 2))

PipelineDecorator.run_locally()
flow()
"""
    )

    done = command("run", "flow.py", check=0)

    said = {line.split()[1]: line for line in done.stderr.splitlines() if line.startswith("completed gives")}
    assert said["gives"].endswith("a=1 b=2 the step returned 3 values for 2 names (a, b): the surplus is dropped")
    assert said["gives_1"].endswith("the step returned 1 value for 2 names (a, b): missing ones are None")
    assert "returned" not in said["gives_2"]
