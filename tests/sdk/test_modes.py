"""Where the logic and the steps run: debug, local, mixed and remote mode; code that changes in between."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minipipe.store import steering
from tests.sdk.sdk_scripts import TIMEOUT_S, Left, python, start, work

HEAD = """
import json, os, sys, time
from pathlib import Path
from minipipe import PipelineDecorator, Task, component, pipeline

def note(text):
    with open("noted", "a") as file:
        file.write(f"{text}\\n")
"""


@pytest.fixture
def left(folder: Path) -> Iterator[Left]:
    """The folder's store and notes."""
    found = Left(folder)
    yield found
    if (folder / ".minipipe").exists():
        found.store.close()


def write(folder: Path, *parts: str, name: str = "flow.py") -> None:
    """Write a script."""
    (folder / name).write_text("\n".join((HEAD, *parts)))


def wait_for_step(left: Left, script: subprocess.Popen[str], name: str, status: str) -> sqlite3.Row:
    """Wait until a step has a status; fails if the script ends before."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        there = (left.folder / ".minipipe" / "minipipe.db").exists()
        found = left.rows("SELECT * FROM task WHERE name = ? AND status = ?", name, status) if there else []
        if found:
            return found[0]
        assert script.poll() is None, script.communicate()
        assert time.monotonic() < end, f"{name} never became {status}"
        time.sleep(0.01)


# -- debug mode -------------------------------------------------------------------------------------------------------

VALUES = """
class Box:
    def __init__(self, items):
        self.items = items

@component(return_values=["items", "n"])
def load(n):
    note(f"load {n}")
    return list(range(n)), n

@component(return_values=["box"])
def fill(items, scale=2):
    note("fill")
    return Box([scale * one for one in items])

@component(return_values=["total"], cache=True, retry_on_failure=2)
def total(box, *more, **named):
    note("total")
    assert isinstance(box, Box)
    return sum(box.items) + sum(more) + sum(named.values())

@component(return_values=None)
def nothing():
    note("nothing")
    return 1

@component(return_values=["a", "b", "c"])
def three(n):
    return (n, n + 1)

@pipeline(name="values", project="tests", version="1.0", return_value="result")
def values(n=4):
    items, count = load(n)
    box = fill(items)
    first = total(box, count, x=3)
    found = {"first": int(first), "again": [int(total(fill(items, scale=each), 1)) for each in (1, 3)]}
    found["nothing"] = nothing()
    a, b, c = three(n)
    found["three"] = [int(a), int(b), bool(c)]
    found["box"] = type(box.items).__name__
    if found["first"] > 10:
        found["more"] = f"{first:05d}"
    print(json.dumps(found))
    return found
"""


@pytest.mark.parametrize("how", ["debug_pipeline", "run_locally"])
def test_local_and_debug_mode_give_the_same_values(folder: Path, how: str) -> None:
    write(folder, VALUES, f"PipelineDecorator.{how}()\nvalues(5)\n")

    done = python(folder, "flow.py")

    assert done.out == (
        '{"first": 28, "again": [11, 31], "nothing": null, "three": [5, 6, false], "box": "list", "more": "00028"}\n'
    )


def test_debug_mode_calls_each_function_at_the_call_in_order_and_once(folder: Path, left: Left) -> None:
    write(folder, VALUES, "PipelineDecorator.debug_pipeline()\nvalues(3)\n")

    python(folder, "flow.py")

    assert left.noted("noted") == ["load 3", "fill", "total", "fill", "total", "fill", "total", "nothing"]


DEBUG = """
SEEN = []

@component(return_values=["n"])
def real(n):
    SEEN.append(n)
    note(f"{Task.current_task().task_type} {Task.current_task().id == PipelineDecorator.get_current_pipeline().id}")
    return n

@component(return_values=["a", "b"])
def two():
    return 1, 2

@component(return_values=["n"])
def breaks():
    note("breaks")
    raise KeyError("at the call")

@pipeline(name="debugged", project="tests")
def debugged(fail=False):
    mine = object()
    assert real(mine) is mine and SEEN[-1] is mine
    assert type(real(3)) is int
    assert type(two()) is list
    if fail:
        breaks()
        note("not reached")

PipelineDecorator.debug_pipeline()
debugged()
PipelineDecorator.debug_pipeline()
try:
    debugged(fail=True)
except KeyError as error:
    note(f"left the pipeline: {error}")
"""


def test_in_debug_mode_values_are_real_objects_and_an_exception_leaves_at_the_call(folder: Path, left: Left) -> None:
    write(folder, DEBUG)

    python(folder, "flow.py")

    assert left.noted("noted") == [*["controller True"] * 4, "breaks", "left the pipeline: 'at the call'"]
    good, bad = left.runs("debugged")
    assert (good["status"], bad["status"]) == ("completed", "failed")
    assert "KeyError" in bad["reason"]
    assert left.rows("SELECT 1 FROM task WHERE parent_id IS NOT NULL") == []
    assert left.rows("SELECT 1 FROM worker WHERE kind = 'agent'") == []


# -- local and remote -------------------------------------------------------------------------------------------------

CHAIN = """
@component(return_values=["n"])
def first(n):
    return n + 1

@component(return_values=["n"])
def second(n):
    return n * 10

@pipeline(name="chain", project="tests", version="1.0"{options})
def chain(n: int = 1):
    print("result", int(second(first(n))), type(n).__name__)

{start}
chain()
print("after the pipeline")
"""


def test_in_remote_mode_the_script_exits_0_at_once_and_its_last_line_is_only_in_the_controllers_log(
    folder: Path, left: Left
) -> None:
    write(folder, CHAIN.format(options="", start=""))

    done = python(folder, "flow.py")

    assert done.out == ""
    assert [run["status"] for run in left.runs("chain")] == ["queued"]
    work(folder)
    run = left.run("chain")
    assert run["status"] == "completed"
    assert "result 20 int\nafter the pipeline\n" in left.log(run)
    assert set(left.statuses("chain").values()) == {"completed"}


def test_the_stored_arguments_of_a_queued_pipeline_win_over_those_in_code_and_are_cast(folder: Path, left: Left) -> None:
    write(folder, CHAIN.format(options="", start=""))
    python(folder, "flow.py")
    with left.store.database.write() as connection:
        connection.execute("UPDATE parameter SET text = '5', value = '\"5\"', type = '' WHERE section = 'Args' AND name = 'n'")

    work(folder)

    assert "result 60 int" in left.log(left.run("chain"))


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_the_script_runs_as_it_was_stored_when_the_pipeline_was_queued(folder: Path, left: Left, change: str) -> None:
    write(folder, CHAIN.format(options="", start=""))
    python(folder, "flow.py")
    if change == "edited":
        write(folder, CHAIN.format(options="", start="").replace("n + 1", "n + 1000"))
    else:
        (folder / "flow.py").unlink()

    work(folder)

    assert "result 20 int" in left.log(left.run("chain"))


def test_a_missing_project_folder_fails_the_run_with_its_path(folder: Path, left: Left) -> None:
    (folder / "project").mkdir()
    write(folder / "project", CHAIN.format(options="", start=""))
    python(folder, "project/flow.py")
    (folder / "project").rename(folder / "elsewhere")

    work(folder)

    run = left.run("chain")
    assert run["status"] == "failed"
    assert str(folder / "project") in run["reason"]


@pytest.mark.parametrize("option", ["pipeline_execution_queue=None", "start_controller_locally=True"])
def test_in_mixed_mode_the_logic_runs_here_and_the_steps_on_queues(folder: Path, left: Left, option: str) -> None:
    write(folder, CHAIN.format(options=f", default_queue='other', {option}", start=""))

    with start(folder, "flow.py") as script:
        wait_for_step(left, script, "second", "pending")
        assert [run["status"] for run in left.runs("chain")] == ["in_progress"]
        worker = work(folder, "other")
        out, err = script.communicate(timeout=TIMEOUT_S)

    assert (script.returncode, out) == (0, "result 20 int\nafter the pipeline\n")
    assert "note: no worker serves queue 'other': its steps wait; start one: minipipe worker --queue other\n" in err
    assert "/first completed" in worker.out
    assert left.run("chain")["status"] == "completed"
    assert {step["queue"] for step in left.steps("chain").values()} == {"other"}


def test_set_default_execution_queue_holds_for_components_that_name_none(folder: Path, left: Left) -> None:
    write(
        folder,
        CHAIN.format(options="", start="PipelineDecorator.set_default_execution_queue('third')\nPipelineDecorator.run_locally()"),
    )

    python(folder, "flow.py")

    assert {step["queue"] for step in left.steps("chain").values()} == {"third"}


def test_a_local_run_that_failed_raises_out_of_the_call_and_the_process_exits_with_1(folder: Path, left: Left) -> None:
    write(
        folder,
        CHAIN.format(options="", start="PipelineDecorator.run_locally()").replace("return n * 10", "raise KeyError('no luck')"),
    )

    done = python(folder, "flow.py", check=1)

    assert "StepFailed" in done.err
    assert "KeyError: 'no luck'" in done.err
    assert "after the pipeline" not in done.out
    assert left.run("chain")["status"] == "failed"


def test_leaving_the_logic_with_exit_code_0_ends_the_run_completed_and_then_the_process(folder: Path, left: Left) -> None:
    write(
        folder,
        CHAIN.format(options="", start="PipelineDecorator.run_locally()").replace(
            "    print(", "    first(7); sys.exit(0)\n    print("
        ),
    )

    done = python(folder, "flow.py")

    assert done.out == ""
    assert (left.run("chain")["status"], left.statuses("chain")) == ("completed", {"first": "completed"})


def test_remote_mode_without_a_script_file_is_an_error_that_names_run_locally(folder: Path) -> None:
    write(folder, CHAIN.format(options="", start=""))

    done = python(folder, "-c", (folder / "flow.py").read_text(), check=1)

    assert "cannot be started on a worker from here" in done.err
    assert "run_locally()" in done.err


def test_several_local_pipelines_run_one_after_the_other_in_one_process(folder: Path, left: Left) -> None:
    write(folder, CHAIN.format(options="", start="PipelineDecorator.run_locally()"), "chain(2)\nchain(n=3)\n")

    done = python(folder, "flow.py")

    assert done.out.splitlines() == ["result 20 int", "after the pipeline", "result 30 int", "result 40 int"]
    assert [run["name"] for run in left.runs("chain")] == ["chain", "chain #2", "chain #3"]
    assert len(left.rows("SELECT 1 FROM worker WHERE kind = 'agent'")) == 1


# -- drafts -----------------------------------------------------------------------------------------------------------


def test_the_task_of_a_draft_step_waits_until_a_person_enqueues_it(folder: Path, left: Left) -> None:
    local = CHAIN.format(options="", start="PipelineDecorator.run_locally()")
    write(folder, local.replace('["n"])\ndef second', '["n"], draft=True)\ndef second'))

    with start(folder, "flow.py") as script:
        wait_for_step(left, script, "first", "completed")
        draft = wait_for_step(left, script, "second", "created")
        steering.enqueue(left.store, draft["id"], "default")
        out, _ = script.communicate(timeout=TIMEOUT_S)

    assert out == "result 20 int\nafter the pipeline\n"


# -- code that changes ------------------------------------------------------------------------------------------------

CHANGING = """
import module

def here(n):
    return n + 1

@component(return_values=["n"], execution_queue="other")
def by_value(n):
    return here(n)

@pipeline(name="changing", project="tests", version="1.0", pipeline_execution_queue=None)
def changing():
    found = by_value(1), module.by_name(1)
    print("results", *map(int, found))

changing()
"""
MODULE = """
from minipipe import component

@component(return_values=["n"], cache=True, execution_queue="other")
def by_name(n):
    return n + 1
"""


def run_while_code_changes(folder: Path, left: Left, **environment: str) -> tuple[int, str, str]:
    """Queue steps, change script and module, then serve the steps."""
    write(folder, CHANGING)
    (folder / "module.py").write_text(MODULE)
    with start(folder, "flow.py") as script:
        wait_for_step(left, script, "by_name", "queued")
        write(folder, CHANGING.replace("n + 1", "n + 1000"))
        (folder / "module.py").write_text(MODULE.replace("n + 1", "n + 1000"))
        work(folder, "other", **environment)
        out, err = script.communicate(timeout=TIMEOUT_S)
    return script.returncode, out, err


def test_code_by_value_runs_as_stored_and_a_changed_module_is_noted_and_not_cached(folder: Path, left: Left) -> None:
    code, out, _ = run_while_code_changes(folder, left)

    assert (code, out) == (0, "results 2 1001\n")
    steps = left.steps("changing")
    note = f"minipipe: code changed since submission: {folder / 'module.py'}"
    assert note in left.log(steps["by_name"])
    assert "code changed" not in left.log(steps["by_value"])
    (event,) = left.rows("SELECT detail FROM event WHERE kind = 'warning' AND task_id = ?", steps["by_name"]["id"])
    assert event["detail"] == f"code changed since submission: {folder / 'module.py'}"
    assert left.rows("SELECT 1 FROM cache WHERE task_id = ?", steps["by_name"]["id"]) == []
    assert len(left.rows("SELECT 1 FROM cache WHERE task_id = ?", steps["by_value"]["id"])) == 1


def test_on_code_change_fail_refuses_to_run_changed_code(folder: Path, left: Left) -> None:
    code, _, err = run_while_code_changes(folder, left, MINIPIPE_ON_CODE_CHANGE="fail")

    assert code == 1
    assert "StepFailed" in err
    steps = left.steps("changing")
    assert (steps["by_name"]["status"], steps["by_value"]["status"]) == ("failed", "completed")
    assert steps["by_name"]["reason"] == f"code changed since submission: {folder / 'module.py'}"
