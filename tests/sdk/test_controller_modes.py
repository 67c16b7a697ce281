"""Controllers as real processes: here, on workers, as drafts and copies; how they end, and how they go on after a failure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sdk.sdk_scripts import FLOWS, TIMEOUT_S, Left, python, start, surroundings, work

HEAD = """
import os, sys, time
from pathlib import Path
from minipipe import PipelineController, Task

def note(line):
    with open("notes", "a") as file:
        file.write(f"{line}\\n")

def number(n=1):
    note(f"ran {n}")
    return n

def fails_once(n=1):
    note(f"tried {n}")
    if not os.path.exists("fixed"):
        raise KeyError("not fixed")
    return n + 1

def waits(file):
    Path(file + "-runs").touch()
    end = time.monotonic() + 30
    while not os.path.exists(file):
        assert time.monotonic() < end
        time.sleep(0.005)
"""
BUILD = """
pipe = PipelineController("flow", "tests")
pipe.add_parameter("n", 5)
pipe.add_function_step("one", number, {"n": "${pipeline.n}"}, ["x"])
pipe.add_function_step("two", fails_once, {"n": "${one.x}"}, ["y"])
pipe.add_function_step("three", number, {"n": "${two.y}"}, ["z"])
"""
LOCAL = "pipe.start_locally(run_pipeline_steps_locally=True)\nprint('went on')\n"


def write(folder: Path, *parts: str, fixed: bool = True) -> None:
    """Write the script; without `fixed` its second step fails."""
    (folder / "flow.py").write_text("".join((HEAD, *parts)))
    if fixed:
        (folder / "fixed").touch()


def minipipe(folder: Path, *words: str, check: int | None = 0) -> tuple[str, str]:
    """Run a minipipe command; returns what it said."""
    done = python(folder, "-m", "minipipe", *words, check=check)
    return done.out, done.err


# -- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "code"),
    [
        ("", 1),
        ("sys.exit(7)", 7),
        pytest.param("sys.exit(0)", 0, marks=pytest.mark.exhaustive),
        pytest.param("sys.exit(None)", 1, marks=pytest.mark.exhaustive),
        pytest.param("raise SystemExit(4)", 4, marks=pytest.mark.exhaustive),
        ("raise KeyError()", 1),
    ],
    ids=["nothing", "another code", "zero", "no code", "a bare exit", "an exception"],
)
def test_after_a_failed_start_locally_the_process_exits_with_1_unless_it_says_otherwise(
    folder: Path, left: Left, after: str, code: int
) -> None:
    write(folder, "import atexit\natexit.register(lambda: note('exit handler'))\n", BUILD, LOCAL, after, fixed=False)

    done = python(folder, "flow.py", check=code)
    assert "went on" in done.out
    assert "error: run " in done.err
    assert "two failed" in done.err
    assert left.statuses("flow") == {"one": "completed", "two": "failed", "three": "skipped"}
    assert left.noted("notes") == ["ran 5", "tried 5", "exit handler"]
    assert left.rows("SELECT * FROM worker WHERE ended_at IS NULL") == []


def test_minipipe_run_says_the_failure_once_and_exits_with_1(folder: Path, left: Left) -> None:
    write(folder, BUILD, LOCAL, fixed=False)

    out, err = minipipe(folder, "run", "flow.py", check=1)
    assert "went on" in out
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


def test_a_successful_pipeline_exits_with_0(folder: Path, left: Left) -> None:
    write(folder, BUILD, LOCAL, "print(pipe.is_successful(), pipe.is_running(), pipe.wait(), pipe.elapsed() > 0)\n")

    assert python(folder, "flow.py").out.split() == ["went", "on", "True", "False", "True", "True"]


def test_an_argument_that_cannot_travel_is_raised_and_ends_the_run(folder: Path, left: Left) -> None:
    write(folder, "import threading\n", BUILD, 'pipe.add_function_step("bad", number, {"n": [threading.Lock()]})\n', LOCAL)

    done = python(folder, "flow.py", check=1)
    assert "argument 'n' of bad()" in done.err
    assert "went on" not in done.out
    assert left.run("flow")["status"] == "failed"
    assert set(left.statuses("flow").values()) <= {"completed", "stopped", "skipped"}


def test_ctrl_c_stops_the_run_and_does_not_go_on(folder: Path, left: Left) -> None:
    write(folder, 'pipe = PipelineController("flow", "tests")\npipe.add_function_step("a", waits, {"file": "go"})\n', LOCAL)

    with start(folder, "flow.py") as script:
        wait_for_file(folder / "go-runs", script)
        script.send_signal(signal.SIGINT)
        out, _ = script.communicate(timeout=TIMEOUT_S)
    assert script.returncode != 0
    assert "went on" not in out
    assert left.run("flow")["status"] == "stopped"
    assert left.statuses("flow") == {"a": "stopped"}


def wait_for_file(path: Path, script: subprocess.Popen[str]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert script.poll() is None, script.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def worker_of(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start `minipipe worker` as a process of its own."""
    environment = {**surroundings(folder), "MINIPIPE_PROGRESS": "off"}
    return subprocess.Popen((sys.executable, "-m", "minipipe", "worker", *words), cwd=folder, env=environment)


# -- on workers -------------------------------------------------------------------------------------------------------


def test_start_ends_the_process_and_a_worker_runs_the_rest(folder: Path, left: Left) -> None:
    write(folder, BUILD, "note('before')\npipe.start()\nnote(f'after {pipe.is_successful()} {pipe.is_running()}')\n")

    done = python(folder, "flow.py")
    assert left.noted("notes") == ["before"]
    assert left.run("flow")["status"] == "queued"
    assert "no worker serves queue 'services'" in done.err
    work(folder)
    assert left.run("flow")["status"] == "completed"
    assert left.noted("notes") == ["before", "before", "ran 5", "tried 5", "ran 6", "after True False"]


def test_a_pipeline_that_fails_on_a_worker_ends_its_script_there(folder: Path, left: Left) -> None:
    write(folder, BUILD, "pipe.start()\nnote('after')\n", fixed=False)

    python(folder, "flow.py")
    work(folder)
    assert left.run("flow")["status"] == "failed"
    assert "two failed" in left.run("flow")["reason"]
    assert "after" not in left.noted("notes")


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_start_without_waiting_goes_on_and_the_task_ends_as_the_pipeline_does(folder: Path, left: Left, end: str) -> None:
    look = "pipe.start(wait=False)\nnote(f'went on {pipe.is_running()}')\nif '{x}': print(pipe.wait(), pipe.is_successful())\n"
    write(folder, BUILD.replace("number, {", "waits_and_numbers, {"), look.replace("{x}", "" if end == "failed" else "x"))
    text = (folder / "flow.py").read_text()
    (folder / "flow.py").write_text(text.replace("def fails_once", WAITING + "def fails_once"))
    if end == "failed":
        (folder / "fixed").unlink()

    python(folder, "flow.py")
    work(folder)
    assert left.noted("notes")[0] == "went on True"
    assert left.run("flow")["status"] == end
    assert left.statuses("flow")["three"] == ("completed" if end == "completed" else "skipped")
    assert ("True True" in left.log(left.run("flow"))) == (end == "completed")


WAITING = """
def waits_and_numbers(n):
    end = time.monotonic() + 30
    while not os.path.exists("notes"):
        assert time.monotonic() < end
        time.sleep(0.005)
    return n

"""


def test_start_without_a_queue_leaves_a_draft_whose_clones_run_with_their_own_parameters(folder: Path, left: Left) -> None:
    write(folder, BUILD, "pipe.start(queue=None)\nnote('after')\n")
    (folder / "rerun.py").write_text(
        "from minipipe import PipelineController\n"
        "found = PipelineController.get(pipeline_project='tests', pipeline_name='flow')\n"
        "copy = PipelineController.clone(found)\n"
        "copy.task.set_parameter('Args/n', 70)\n"
        "PipelineController.enqueue(copy, 'services')\n"
        "copy.task.wait_for_status()\n"
        "print(sorted((name, node.status) for name, node in copy.get_pipeline_dag().items()), copy.is_successful())\n"
    )

    python(folder, "flow.py")
    assert left.run("flow")["status"] == "created"
    with start(folder, "rerun.py") as script, worker_of(folder) as worker:
        out, err = script.communicate(timeout=TIMEOUT_S)
        worker.send_signal(signal.SIGTERM)
    assert out.strip() == "[('one', 'completed'), ('three', 'completed'), ('two', 'completed')] True", err
    assert [run["status"] for run in left.runs("flow")] == ["created", "completed"]
    assert left.noted("notes") == ["ran 70", "tried 70", "ran 71", "after"]


def test_start_locally_with_steps_on_queues_waits_for_a_worker_process(folder: Path, left: Left) -> None:
    write(folder, BUILD, "pipe.set_default_execution_queue('mine')\npipe.start_locally()\nprint(pipe.is_successful())\n")

    with start(folder, "flow.py") as script, worker_of(folder, "--queue", "mine") as worker:
        out, err = script.communicate(timeout=TIMEOUT_S)
        worker.send_signal(signal.SIGTERM)
    assert (script.returncode, out.strip()) == (0, "True"), err
    assert {step["queue"] for step in left.steps("flow").values()} == {"mine"}


def test_create_draft_goes_on_and_the_same_pipeline_may_then_start_here(folder: Path, left: Left) -> None:
    write(folder, BUILD, "pipe.create_draft()\nprint(pipe.task.status)\n", LOCAL, "print(pipe.task.status)\n")

    assert python(folder, "flow.py").out.split() == ["created", "went", "on", "completed"]
    assert len(left.runs("flow")) == 1


def test_a_draft_step_waits_until_a_person_enqueues_it(folder: Path, left: Left) -> None:
    write(folder, BUILD.replace('["z"])', '["z"], draft=True)'), LOCAL)
    (folder / "enqueue.py").write_text(
        "import sys, time\nfrom minipipe import Task\n"
        "while (task := Task.get_task(project_name='tests/.pipelines/flow', task_name='three')) is None:\n    time.sleep(0.01)\n"
        "print(task.status)\nTask.enqueue(task, 'default')\n"
    )

    with start(folder, "flow.py") as script:
        wait_for_file(folder / "notes", script)
        assert python(folder, "enqueue.py").out.strip() == "created"
        script.communicate(timeout=TIMEOUT_S)
    assert script.returncode == 0
    assert left.noted("notes")[-1] == "ran 6"


# -- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["local", pytest.param("mixed", marks=pytest.mark.exhaustive), "worker"])
def test_a_resumed_controller_keeps_its_parameters_and_what_completed_and_repeats_the_rest(
    folder: Path, left: Left, way: str
) -> None:
    starting = {"local": LOCAL, "mixed": "pipe.start_locally()\n", "worker": "pipe.start()\n"}
    write(folder, BUILD, starting[way], fixed=False)

    minipipe(folder, "run", "flow.py", "--set", "n=30", check=1)
    before = {name: step["uid"] for name, step in left.steps("flow").items()}
    (folder / "fixed").touch()
    _, err = minipipe(folder, "resume", "@last")
    assert "1 completed step kept" in err
    assert left.noted("notes") == ["ran 30", "tried 30", "tried 30", "ran 31"]
    assert left.run("flow")["status"] == "completed"
    assert {name: step["uid"] for name, step in left.steps("flow").items()} == before


COPIES = """
pipe = PipelineController("flow", "tests")
copies = {"base_task_project": "tests", "base_task_name": "template"}
def multiply(pipeline, node, values):
    values["General/n"] = values["General/n"] * 10
pipe.add_step("a", parameter_override={"General/n": 3, "General/note": "notes"}, **copies)
pipe.add_step("b", parameter_override={"General/n": 5, "General/fails": not os.path.exists("fixed"), "General/note": "notes"},
              pre_execute_callback=multiply, parents=["a"], **copies)
override = {"General/text": "${a.parameters.General/n}", "General/note": "notes"}
pipe.add_step("c", parameter_override=override, parents=["b"], **copies)
"""


@pytest.mark.exhaustive
def test_a_resumed_controller_keeps_copies_that_were_told_the_same(folder: Path, left: Left) -> None:
    python(folder, str(FLOWS / "template.py"))
    write(folder, COPIES, LOCAL, fixed=False)

    minipipe(folder, "run", "flow.py", check=1)
    assert left.statuses("flow") == {"a": "completed", "b": "failed", "c": "skipped"}
    (folder / "fixed").touch()
    minipipe(folder, "resume", "@last")
    ns = [json.loads(line)[0] for line in left.noted("notes")]
    assert ns == [3, 50, 50, 1], "the callback's change is made once per launch"

    write(folder, COPIES.replace('"General/n": 3', '"General/n": 4'), LOCAL, "raise KeyError('x')\n")
    minipipe(folder, "run", "flow.py", check=1)
    assert [json.loads(line)[0] for line in left.noted("notes")][4:] == [4, 50, 1]


@pytest.mark.exhaustive
def test_a_copy_that_is_told_something_else_runs_again_when_its_run_is_resumed(folder: Path, left: Left) -> None:
    python(folder, str(FLOWS / "template.py"))
    write(folder, COPIES, LOCAL, fixed=False)
    minipipe(folder, "run", "flow.py", check=1)

    write(folder, COPIES.replace('"General/n": 3', '"General/n": 4'), LOCAL)
    minipipe(folder, "resume", "@last")
    assert [json.loads(line)[0] for line in left.noted("notes")] == [3, 50, 4, 50, 1]
    assert left.run("flow")["status"] == "completed"


# -- the main task ----------------------------------------------------------------------------------------------------

MAIN = 'task = Task.init("mine", "main")\nparams = task.connect({"k": 1})\n'


def main_run(left: Left) -> list[tuple[str, str, str, str]]:
    """Name, project, type and status of each run."""
    rows = left.rows(
        "SELECT t.name, p.name AS project, t.type, t.status FROM task t JOIN project p ON p.id = t.project_id"
        " WHERE t.run_name IS NOT NULL ORDER BY t.id"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("where", ["here", "worker"])
def test_a_main_task_becomes_the_controller_which_takes_its_name_and_project(folder: Path, left: Left, where: str) -> None:
    begin = LOCAL if where == "here" else "pipe.start()\n"
    write(folder, MAIN, BUILD, "assert pipe.id == task.id\n", begin, "note(f'{pipe.id == task.id} {pipe.is_successful()}')\n")

    python(folder, "flow.py")
    if where == "worker":
        assert main_run(left) == [("main", "mine", "controller", "queued")]
        work(folder)
    assert main_run(left) == [("main", "mine", "controller", "completed")]
    assert left.noted("notes")[-1] == "True True"
    steps = left.rows("SELECT p.name FROM task t JOIN project p ON p.id = t.project_id WHERE t.parent_id IS NOT NULL")
    assert {row["name"] for row in steps} == {"mine"}
    cells = left.rows("SELECT section, name, text FROM parameter p WHERE section IN ('Args', 'General') ORDER BY section, name")
    assert [tuple(cell) for cell in cells] == [("Args", "n", "5"), ("General", "k", "1")]


DECORATED = """
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["x"])
def step(n):
    return number(n)

@PipelineDecorator.pipeline(name="flow", project="tests", version="1.0")
def flow(n=5):
    note(f"{Task.current_task().id == task.id} {step(n) + params['k']}")
"""


@pytest.mark.parametrize("where", ["here", "worker"])
def test_a_main_task_becomes_a_decorated_pipeline_too(folder: Path, left: Left, where: str) -> None:
    write(folder, MAIN, DECORATED, "PipelineDecorator.run_locally()\n" if where == "here" else "", "flow()\n")

    python(folder, "flow.py")
    if where == "worker":
        assert main_run(left) == [("main", "mine", "controller", "queued")]
        work(folder)
    assert main_run(left) == [("main", "mine", "controller", "completed")]
    assert left.noted("notes") == ["ran 5", "True 6"]


@pytest.mark.exhaustive
def test_a_main_task_that_became_a_controller_is_not_used_again_and_can_be_resumed(folder: Path, left: Left) -> None:
    write(folder, MAIN, BUILD, LOCAL, fixed=False)

    minipipe(folder, "run", "flow.py", check=1)
    (folder / "fixed").touch()
    minipipe(folder, "resume", "@last")
    assert main_run(left) == [("main", "mine", "controller", "completed")]
    assert left.noted("notes") == ["ran 5", "tried 5", "tried 5", "ran 6"]
    python(folder, "flow.py")
    assert [run[3] for run in main_run(left)] == ["completed", "completed"]


@pytest.mark.exhaustive
def test_after_the_pipeline_another_main_task_may_start(folder: Path, left: Left) -> None:
    write(folder, MAIN, BUILD, LOCAL, 'other = Task.init("mine", "other")\nprint(other.id != task.id)\n')

    assert "True" in python(folder, "flow.py").out
    rows = left.rows("SELECT name, status FROM task WHERE parent_id IS NULL ORDER BY id")
    assert [tuple(row) for row in rows] == [("main", "completed"), ("other", "completed")]


# -- one after the other ----------------------------------------------------------------------------------------------


def test_two_controllers_run_one_after_the_other_in_one_process(folder: Path, left: Left) -> None:
    second = BUILD.replace('"flow"', '"second"').replace("pipe", "other").replace("${otherline", "${pipeline")
    write(folder, BUILD, second, LOCAL, LOCAL.replace("pipe.", "other."))

    python(folder, "flow.py")
    assert left.run("flow")["status"] == left.run("second")["status"] == "completed"


def test_starting_twice_is_starting_once(folder: Path, left: Left) -> None:
    write(folder, BUILD, LOCAL, LOCAL)

    python(folder, "flow.py")
    assert left.noted("notes") == ["ran 5", "tried 5", "ran 6"]


@pytest.mark.exhaustive
def test_a_script_with_postponed_annotations_off_sees_real_ones_on_a_worker(folder: Path, left: Left) -> None:
    look = "def f(n: int): ...\nnote(f.__annotations__['n'] is int)\n"
    write(folder, BUILD, look, "pipe.start()\n")

    python(folder, "flow.py")
    work(folder)
    assert left.noted("notes")[:2] == ["True", "True"]
