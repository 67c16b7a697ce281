"""`minipipe resume`, as a real command after real failures, kills and interrupts."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.cli import flows
from tests.cli.flows import BREAKING, CHAIN, LOCALLY, START, command, facts, ran, wait_for, write

MIXED = START + "\n"
LOCAL_TOO = pytest.param(LOCALLY, marks=pytest.mark.exhaustive)  # local runs resume as well, see the first case


def run_id() -> str:
    ((uid,),) = facts("SELECT uid FROM task WHERE parent_id IS NULL")
    return str(uid)


def no_process_left() -> None:
    wait_for(lambda: not flows.processes())


@pytest.mark.parametrize("start", [START, LOCALLY])
def test_completed_steps_stay_and_the_others_run_again(start: str) -> None:
    command("run", write(BREAKING + start), check=1)
    Path("fixed").touch()

    done = command("resume", "@last", check=0)

    assert done.stderr.startswith(f"resumed {run_id()[:8]}: 1 completed step kept; code: current\n")
    assert done.stdout == "result 20 21\n"
    assert ran() == ["first", "second", "second", "third"]
    assert facts("SELECT DISTINCT status FROM task") == [("completed",)]
    assert "completed first" not in done.stderr
    assert re.search(r"^completed third \d+\.\ds c=21$", done.stderr, re.MULTILINE)
    assert re.search(r"^ALL +3 +3 ", done.stderr, re.MULTILINE)
    no_process_left()


@pytest.mark.faults
@pytest.mark.parametrize("start", [START, LOCAL_TOO, pytest.param(MIXED, marks=pytest.mark.exhaustive)])
def test_the_current_code_runs_and_is_said_to_have_changed(start: str) -> None:
    text = BREAKING + start
    if start is MIXED:
        text = text.replace('version="1.0"', 'version="1.0", start_controller_locally=True')
    command("run", write(text), check=1)
    write(text.replace('os.path.exists("fixed")', "True"))

    done = command("resume", run_id()[:6], check=0)

    assert "1 completed step kept; code: current (flow.py changed)\n" in done.stderr
    assert done.stdout == "result 20 21\n"
    assert ran() == ["first", "second", "second", "third"]


@pytest.mark.exhaustive
def test_a_step_that_is_gone_from_the_code_does_not_fail_the_resumed_run() -> None:
    command("run", write(BREAKING + LOCALLY), check=1)
    write((BREAKING + LOCALLY).replace("def second", "def repaired").replace("second(first", "repaired(first"))
    Path("fixed").touch()

    done = command("resume", "@last", check=0)

    assert done.stdout == "result 20 21\n"
    assert facts("SELECT name, status, superseded FROM task WHERE name IN ('second', 'repaired') ORDER BY id") == [
        ("second", "failed", 1),
        ("repaired", "completed", 0),
    ]


@pytest.mark.faults
def test_a_run_that_fails_again_can_be_resumed_again() -> None:
    command("run", write(BREAKING + START), check=1)
    command("resume", "@last", check=1)
    Path("fixed").touch()

    done = command("resume", "@last", check=0)

    assert done.stdout == "result 20 21\n"
    assert ran() == ["first", "second", "second", "second", "third"]


@pytest.mark.faults
@pytest.mark.parametrize("start", [START, LOCAL_TOO])
def test_an_interrupted_run_goes_on(start: str) -> None:
    process = flows.begin("run", write(flows.hanging() + start))
    wait_for(lambda: "second" in ran(), process)
    flows.interrupt(process)
    Path("go").touch()

    done = command("resume", "@last", check=0)

    assert done.stdout == "result 20\n"
    assert ran() == ["first", "second", "second"]


@pytest.mark.parametrize("start", [START, LOCAL_TOO])
def test_a_run_whose_command_was_killed_goes_on(start: str) -> None:
    process = flows.begin("run", write(flows.hanging() + start))
    wait_for(lambda: "second" in ran(), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    no_process_left()
    Path("go").touch()

    done = command("resume", "@last", check=0)

    assert done.stdout == "result 20\n"
    assert ran() == ["first", "second", "second"]
    assert facts("SELECT status FROM task WHERE parent_id IS NULL") == [("completed",)]
    no_process_left()


@pytest.mark.faults
def test_a_run_can_be_resumed_in_the_moment_its_controller_is_killed() -> None:
    process = flows.begin("run", write(flows.hanging() + LOCALLY))
    wait_for(lambda: "second" in ran(), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    Path("go").touch()

    done = command("resume", "@last", check=0)

    assert done.stdout == "result 20\n"
    assert ran().count("first") == 1
    no_process_left()


def test_a_run_resumes_from_another_folder_with_its_own_arguments() -> None:
    Path("project").mkdir()
    Path("elsewhere").mkdir()
    text = BREAKING.replace("    b = second", "    print(sys.argv[1:], os.path.basename(os.getcwd()))\n    b = second")
    write(text + LOCALLY, "project/flow.py")
    home = str(Path.cwd() / ".minipipe")
    folder = Path.cwd()
    os.chdir("project")
    command("run", "--home", home, "flow.py", "--set", "n=4", "--", "-x", check=1)
    Path("fixed").touch()
    os.chdir(folder / "elsewhere")

    done = command("resume", "--home", home, "@last", check=0)

    assert done.stdout == "['-x'] project\nresult 50 51\n"


@pytest.mark.faults
def test_a_script_that_starts_two_pipelines_resumes_the_one_that_is_meant() -> None:
    other = """
@PipelineDecorator.pipeline(name="before", project="tests", version="1.0")
def before():
    print("before", int(first(7)))
"""
    command("run", write(BREAKING + other + LOCALLY.replace("chain()", "before()\n    chain()")), check=1)
    Path("fixed").touch()

    done = command("resume", "@last-failed", check=0)

    assert done.stdout == "before 8\nresult 20 21\n"
    assert facts("SELECT name, status FROM task WHERE parent_id IS NULL ORDER BY id") == [
        ("before", "completed"),
        ("chain", "completed"),
        ("before #2", "completed"),
    ]


def test_a_completed_run_says_so_and_nothing_runs() -> None:
    command("run", write(CHAIN + START), check=0)

    done = command("resume", "@last", check=0)

    assert f"note: run {run_id()[:8]} is completed: there is nothing to resume\n" in done.stderr
    assert ran() == ["first", "second"]


def test_a_run_that_is_alive_is_not_touched() -> None:
    process = flows.begin("run", write(flows.hanging() + LOCALLY))
    wait_for(lambda: "second" in ran(), process)

    done = command("resume", "@last", check=2)
    Path("go").touch()
    out, _ = process.communicate(timeout=flows.PATIENCE_S)

    assert done.stderr.startswith(f"error: run {run_id()[:8]} is in_progress\n")
    assert (process.returncode, out) == (0, "result 20\n")
    assert ran() == ["first", "second"]


@pytest.mark.faults
def test_a_queued_run_that_nobody_serves_is_taken_over() -> None:
    command("run", "--detach", write(CHAIN + START), check=0)

    done = command("resume", "@last", check=0)

    assert done.stdout == "result 20 'none'\n"


@pytest.mark.faults
def test_a_detached_resume_leaves_the_run_to_a_worker() -> None:
    command("run", write(BREAKING + START), check=1)
    Path("fixed").touch()

    done = command("resume", "--detach", "@last", check=0)

    assert done.stdout == f"{run_id()[:8]}\n"
    assert facts("SELECT status FROM task WHERE parent_id IS NULL") == [("queued",)]
    command("worker", "--until-idle", check=0)
    assert facts("SELECT status FROM task WHERE parent_id IS NULL") == [("completed",)]
    assert ran() == ["first", "second", "second", "third"]


def test_a_local_run_cannot_be_detached() -> None:
    command("run", write(BREAKING + LOCALLY), check=1)

    done = command("resume", "--detach", "@last", check=2)

    assert "cannot be detached" in done.stderr
    assert ran() == ["first", "second"]


@pytest.mark.parametrize("start", [START, LOCAL_TOO])
def test_a_script_that_is_gone_is_named_and_nothing_changes(start: str) -> None:
    command("run", write(BREAKING + start), check=1)
    gone = Path("flow.py").absolute()
    gone.unlink()

    done = command("resume", "@last", check=3)

    assert done.stderr.startswith(f"error: the script {gone} is gone\n")
    assert facts("SELECT status, attempt FROM task WHERE parent_id IS NULL") == [("failed", 1)]


def test_a_run_that_nobody_knows_is_answered_with_what_there_is() -> None:
    command("run", write(CHAIN + START), check=0)

    done = command("resume", "deadbeef", check=3)

    assert done.stderr.startswith("error: no run matches 'deadbeef'\n")


@pytest.mark.exhaustive
def test_from_a_step_on_everything_runs_again_in_a_completed_run_too() -> None:
    Path("fixed").touch()
    command("run", write(BREAKING + LOCALLY), check=0)
    write((BREAKING + LOCALLY).replace('print("almost', 'print("edited').replace("result", "edited"))

    wrong = command("resume", "@last", "--from", "secnd", check=3)
    done = command("resume", "@last", "--from", "second", "--code", "captured", check=0)

    assert "did you mean" in wrong.stderr
    assert done.stderr.startswith(
        f"resumed {run_id()[:8]}: 1 completed step kept, 2 from 'second' on run again; code: captured\n"
    )
    assert done.stdout == "result 20 21\n"
    assert ran() == ["first", "second", "third", "second", "third"]
    assert facts("SELECT DISTINCT status, superseded FROM task") == [("completed", 0)]
