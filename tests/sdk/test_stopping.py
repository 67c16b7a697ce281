"""Being stopped while a real process works: `stop` of a pipeline with and without patience, abort callbacks of tasks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minipipe.sdk.task import Task
from tests.sdk.sdk_scripts import TIMEOUT_S, Left, python, start, surroundings

HEAD = """
import json, os, signal, sys, threading, time
from pathlib import Path
from minipipe import PipelineController, Task

def note(line):
    with open("notes", "a") as file:
        file.write(f"{line}\\n")

def wait_for(file):
    end = time.monotonic() + 30
    while not os.path.exists(file):
        assert time.monotonic() < end, file
        time.sleep(0.005)
"""


def wait_for_file(path: Path, *processes: subprocess.Popen[str]) -> None:
    """Wait for a file that one of these processes writes."""
    end = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        assert time.monotonic() < end
        time.sleep(0.005)


# -- stop of a pipeline -----------------------------------------------------------------------------------------------

PIPELINE = """
def step():
    signal.signal(signal.SIGTERM, lambda number, frame: asked())
    Path("runs").touch()
    wait_for("let go")

def stopper():
    wait_for("runs")
    pipe.stop(timeout=TIMEOUT)
    note("stop returned")
    print(pipe.is_running(), pipe.get_pipeline_dag()["below"].status)
    wait_for("asked")
    Path("let go").touch()

pipe = PipelineController("flow", "tests")
pipe.add_function_step("step", step)
pipe.add_function_step("below", note, {"line": "below"}, parents=["step"])
other = threading.Thread(target=stopper)
other.start()
pipe.start_locally(run_pipeline_steps_locally=True)
other.join()
print(pipe.wait(), {name: node.status for name, node in pipe.get_pipeline_dag().items()}, pipe.task.status)
"""
ENDED = "True {'step': 'aborted', 'below': 'skipped'} completed"


def test_stop_with_a_timeout_returns_after_so_many_minutes_although_a_step_still_ends(folder: Path, left: Left) -> None:
    goes_on = "\ndef asked():\n    Path('asked').touch()\n"
    (folder / "flow.py").write_text(HEAD + goes_on + PIPELINE.replace("TIMEOUT", "0.0001"))

    done = python(folder, "flow.py", MINIPIPE_GRACE_S="60")
    assert done.out.splitlines() == ["True skipped", ENDED]
    assert left.noted("notes") == ["stop returned"]


def test_stop_without_a_timeout_waits_for_the_end_of_the_steps(folder: Path, left: Left) -> None:
    ends = "\ndef asked():\n    Path('asked').touch()\n    note('step ends')\n    os._exit(1)\n"
    (folder / "flow.py").write_text(HEAD + ends + PIPELINE.replace("TIMEOUT", "None"))

    done = python(folder, "flow.py", MINIPIPE_GRACE_S="60")
    assert done.out.splitlines()[-1] == ENDED
    assert left.noted("notes") == ["step ends", "stop returned"]


# -- abort callbacks --------------------------------------------------------------------------------------------------

TASK = """
task = Task.init("tests", "long")
told = task.connect({"ends": False, "hangs": False})
task.execute_remotely("default")

def called():
    note(f"called for {Task.current_task().name}: {task.status}")
    if told["hangs"]:
        wait_for("never")
    task.upload_artifact("saved", {"so far": 1})
    note("saved")

task.register_abort_callback(called, callback_execution_timeout=0.5 if told["hangs"] else 30.0)
Path("runs").touch()
if not told["ends"]:
    wait_for("never")
"""


@pytest.fixture
def worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`minipipe worker` as a process of its own."""
    pipe = subprocess.PIPE
    words = (sys.executable, "-m", "minipipe", "worker")
    environment = surroundings(folder, MINIPIPE_GRACE_S="1")
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)


def test_a_worker_calls_the_abort_callback_and_what_it_saves_stays(
    folder: Path, left: Left, worker: subprocess.Popen[str]
) -> None:
    (folder / "long.py").write_text(HEAD + TASK)

    python(folder, "long.py")
    wait_for_file(folder / "runs", worker)
    python(folder, "-c", "from minipipe import Task; t = Task.get_task(project_name='tests', task_name='long'); "
           "t.mark_stop_request(status_message='enough'); t.wait_for_status(); print(t.status)")  # fmt: skip
    (task,) = left.rows("SELECT * FROM task WHERE name = 'long'")
    assert (task["status"], task["reason"], task["attempt"]) == ("stopped", "enough", 2), "the first attempt registered it"
    assert left.noted("notes") == ["called for long: in_progress", "saved"]
    (saved,) = left.rows("SELECT preview FROM artifact WHERE task_id = ? AND name = 'saved'", task["id"])
    assert saved["preview"] == "{'so far': 1}"


@pytest.mark.exhaustive
def test_a_callback_that_takes_longer_than_it_may_is_cut_off(folder: Path, left: Left, worker: subprocess.Popen[str]) -> None:
    (folder / "long.py").write_text(HEAD + TASK.replace('"hangs": False', '"hangs": True'))

    python(folder, "long.py")
    wait_for_file(folder / "runs", worker)
    python(folder, "-m", "minipipe", "abort", left.rows("SELECT uid FROM task")[0]["uid"])
    (task,) = left.rows("SELECT * FROM task WHERE name = 'long'")
    assert task["status"] == "stopped"
    assert left.noted("notes") == ["called for long: in_progress"]


def test_a_task_that_ends_by_itself_calls_nothing(folder: Path, left: Left, worker: subprocess.Popen[str]) -> None:
    (folder / "long.py").write_text(HEAD + TASK.replace('"ends": False', '"ends": True'))

    python(folder, "long.py")
    python(folder, "-c", "from minipipe import Task; Task.get_task(project_name='tests', task_name='long').wait_for_status()")
    (task,) = left.rows("SELECT id, uid, status FROM task")
    assert task["status"] == "completed"
    assert left.noted("notes") == []
    (agent,) = left.rows("SELECT name FROM worker WHERE kind = 'agent'")
    assert Task(left.store, task["id"], task["uid"]).last_worker == agent["name"]


@pytest.mark.parametrize("words", [(), ("-m", "minipipe", "run")], ids=["python", "minipipe run"])
def test_a_script_that_runs_here_is_stopped_by_another_process_as_well(folder: Path, left: Left, words: tuple[str, ...]) -> None:
    here = TASK.replace('task.execute_remotely("default")\n', "")
    (folder / "long.py").write_text(HEAD + here)

    with start(folder, *words, "long.py") as script:
        wait_for_file(folder / "runs", script)
        python(folder, "-m", "minipipe", "abort", left.rows("SELECT uid FROM task")[0]["uid"])
        script.communicate(timeout=TIMEOUT_S)
    (task,) = left.rows("SELECT status, reason FROM task")
    assert tuple(task) == ("stopped", "aborted by a person")
    assert left.noted("notes") == ["called for long: in_progress", "saved"]
