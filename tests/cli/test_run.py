"""`minipipe run`, as a real command on real scripts."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minipipe.cli import ending, run
from tests.cli import flows
from tests.cli.flows import BREAKING, CHAIN, HEAD, LOCALLY, MINIPIPE, START, command, facts, ran, wait_for, write


def no_process_left() -> None:
    wait_for(lambda: not flows.processes())


# -- the built-in example -----------------------------------------------------------------------------------------------


def test_the_built_in_example_completes_in_an_empty_folder() -> None:
    done = command("run", "--set", "n=20", "-j", "2", check=0)

    assert re.fullmatch(r"accuracy on unseen points: 0\.\d\d\n", done.stdout)
    assert "no worker serves default, services: using an embedded pool, 2 slots\n" in done.stderr
    for step in ("load", "split", "train", "evaluate"):
        assert re.search(rf"^completed {step} \d+\.\ds", done.stderr, re.MULTILINE)
    assert re.search(r"^completed evaluate \d+\.\ds accuracy=0\.\d+$", done.stderr, re.MULTILINE)
    assert re.search(r"^ALL +4 +4 +- +- +- +- +\d+\.\ds$", done.stderr, re.MULTILINE)
    assert re.search(r"^completed in \d+\.\ds   next: minipipe show @last \|", done.stderr, re.MULTILINE)
    no_process_left()


@pytest.mark.exhaustive
def test_the_built_in_example_is_served_from_the_cache_the_second_time() -> None:
    command("run", "--set", "n=20", check=0)
    (first,) = facts("SELECT uid FROM task WHERE run_name IS NOT NULL")

    again = command("run", "--set", "n=20", check=0)

    assert f"completed load cached from {str(first[0])[:8]}\n" in again.stderr
    assert "(4 cached)" in again.stderr
    assert again.stdout.startswith("accuracy on unseen points: ")


def test_print_example_prints_the_text_of_the_example_and_makes_no_store() -> None:
    done = command("run", "--print-example", check=0)

    assert done.stdout == run.EXAMPLE.read_text()
    assert not Path(".minipipe").exists()


# -- any script ---------------------------------------------------------------------------------------------------------

WORLD = """
import os, sys
print(__name__, __file__, __package__, __spec__, sorted(k for k in globals() if k != "__cached__"))
print(sys.argv, sys.path[0], os.getcwd(), repr(sys.stdin.read()))
print(sys.modules["__main__"].__dict__ is globals())
print("to stderr", file=sys.stderr)
"""


@pytest.mark.parametrize("script", ["world.py", "below/world.py"])
def test_a_script_sees_what_python_would_show_it(script: str) -> None:
    Path("below").mkdir()
    write(WORLD, script)
    asked = {"input": "typed\n", "capture_output": True, "text": True, "check": False}

    by_python = subprocess.run([sys.executable, script, "-a", "b c"], **asked)
    by_us = subprocess.run([*MINIPIPE, "run", script, "--", "-a", "b c"], **asked)

    assert by_us.stdout == by_python.stdout
    assert by_us.stderr == f"to stderr\nnote: {script} started no task\n"
    assert by_us.returncode == 0
    assert not Path(".minipipe").exists()


def test_classes_of_a_script_pickle_as_those_of_main() -> None:
    script = "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A, A.__module__)\n"

    assert command("run", write(script), check=0).stdout == "True __main__\n"


WRITTEN = """
from minipipe import PipelineController, pipeline

@pipeline(name="once", project="tests", version="1.0")
def flow():
    pass
"""
BUILT = "PipelineController('twice', 'tests', '1.0')\n"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import sys; sys.exit(3)", 1, "error: flow.py exited with code 3\n"),
        ("import sys; sys.exit('it is late')", 1, "it is late\nerror: flow.py exited with code 1\n"),
        ("import sys; sys.exit(0)", 0, "note: flow.py started no task\n"),
        ("import sys; sys.exit()", 0, "note: flow.py started no task\n"),
        (WRITTEN, 0, "warning: flow.py defines pipeline 'once' and never starts it\n"),
        (WRITTEN + BUILT, 0, "warning: flow.py defines pipelines 'once', 'twice' and starts none of them\n"),
    ],
)
def test_the_exit_code_of_a_script_is_named(text: str, code: int, words: str) -> None:
    done = command("run", write(text))

    assert (done.returncode, done.stderr) == (code, words)


def test_a_traceback_shows_the_frames_of_the_user_and_counts_ours() -> None:
    write("def broken():\n    raise ValueError('no good')\n\ndef main():\n    broken()\n\nmain()\n")

    done = command("run", "flow.py", check=1)
    full = command("run", "--traceback", "full", "flow.py", check=1)

    assert re.findall(r'File "([^"]+)", line (\d+)', done.stderr) == [
        (str(Path("flow.py").absolute()), line) for line in ("7", "5", "2")
    ]
    assert "… 1 minipipe frame, --traceback full\n" in done.stderr
    assert "error: flow.py raised ValueError: no good\n" in done.stderr
    assert "  cause: flow.py:2, in broken:  raise ValueError('no good')\n" in done.stderr
    assert "minipipe/cli/script.py" in full.stderr


def test_a_syntax_error_names_its_line() -> None:
    done = command("run", write("x = 1\ny = = 2\n"), check=1)

    assert 'flow.py", line 2' in done.stderr
    assert "error: flow.py raised SyntaxError: invalid syntax" in done.stderr


def test_a_script_that_is_not_there_is_answered_with_its_neighbours() -> None:
    write("")

    done = command("run", "flwo.py", check=3)

    assert done.stderr.startswith("error: no script 'flwo.py'\n")
    assert "hint: did you mean flow.py?\n" in done.stderr


def test_words_of_the_script_must_stand_after_two_dashes() -> None:
    write("")

    surplus = command("run", "flow.py", "more", check=2)
    option = command("run", "flow.py", "--epochs", "3", check=2)

    assert "hint: minipipe run flow.py -- more\n" in surplus.stderr
    assert "hint: minipipe run flow.py -- --epochs 3\n" in option.stderr


# -- where things run -----------------------------------------------------------------------------------------------------


def test_a_queued_run_is_followed_to_its_end_and_its_prints_are_shown_once() -> None:
    write("print('loading')\n" + CHAIN + START + "print('afterwards')\n")

    done = command("run", "flow.py", check=0)

    assert done.stdout == "loading\nresult 20 'none'\nafterwards\n"
    assert ran() == ["first", "second"]
    assert "completed first " in done.stderr
    assert re.search(r"^completed second \d+\.\ds b=20$", done.stderr, re.MULTILINE)
    assert "first prints" not in done.stderr
    no_process_left()


def test_a_local_run_stays_in_the_script() -> None:
    write(CHAIN + LOCALLY + "print('still here')\n")

    done = command("run", "flow.py", check=0)

    assert done.stdout == "result 20 'none'\nstill here\n"
    assert "embedded pool" not in done.stderr
    assert "completed first " in done.stderr
    no_process_left()


@pytest.mark.exhaustive
def test_a_controller_that_runs_here_has_its_steps_served_by_the_pool() -> None:
    write(CHAIN.replace('version="1.0"', 'version="1.0", start_controller_locally=True') + START)

    done = command("run", "flow.py", check=0)

    assert done.stdout == "result 20 'none'\n"
    assert "using an embedded pool" in done.stderr
    no_process_left()


def test_inline_runs_everything_in_this_process_whatever_the_script_says() -> None:
    body = re.sub(r'note\("(first|second)"\)', r'note(f"\1:{os.getpid()}")', CHAIN)
    write(body.replace('return_values=["a"]', 'return_values=["a"], cache=True') + LOCALLY + "print(os.getpid())\n")

    done = command("run", "--inline", "flow.py", check=0)

    pid = done.stdout.splitlines()[-1]
    assert ran() == [f"first:{pid}", f"second:{pid}"]
    run, *steps = facts("SELECT status, json_extract(entry, '$.mode') FROM task")
    assert run == ("completed", "inline") and [step[0] for step in steps] == ["completed", "completed"], "all are recorded"
    assert "embedded pool" not in done.stderr
    again = command("run", "--inline", "flow.py", check=0)
    assert "cached" not in again.stderr, "who debugs a step wants it to run"
    assert "cached" in command("run", "--inline", "--cache", "on", "flow.py", check=0).stderr


def test_a_live_worker_is_left_its_queues() -> None:
    worker = flows.begin("worker")
    wait_for(flows.agents, worker)

    done = command("run", write(CHAIN + START), check=0)
    code, _, _ = flows.interrupt(worker, signal.SIGTERM)

    assert "embedded pool" not in done.stderr
    assert done.stdout == "result 20 'none'\n"
    assert code == 0
    assert facts("SELECT count(*) FROM worker WHERE kind = 'agent'") == [(1,)]


def test_detach_prints_the_id_starts_no_pool_and_names_the_worker() -> None:
    done = command("run", "--detach", write(CHAIN + START), check=0)

    ((uid, status),) = facts("SELECT uid, status FROM task")
    assert done.stdout == f"{str(uid)[:8]}\n"
    assert status == "queued"
    assert "no worker serves queue 'services': the run waits; start one: minipipe worker\n" in done.stderr
    assert facts("SELECT count(*) FROM worker WHERE kind = 'agent'") == [(0,)]
    command("worker", "--until-idle", check=0)
    assert facts("SELECT status FROM task WHERE parent_id IS NULL") == [("completed",)]


@pytest.mark.exhaustive
def test_a_pool_that_is_killed_is_started_again() -> None:
    process = flows.begin("run", write(flows.hanging() + START))
    wait_for(lambda: "second" in ran(), process)

    os.kill(flows.agents()[-1], signal.SIGKILL)
    wait_for(lambda: ran().count("second") == 2, process)
    Path("go").touch()
    out, err = process.communicate(timeout=flows.PATIENCE_S)

    assert (process.returncode, out) == (0, "result 20\n"), err
    assert ran().count("first") == 1
    no_process_left()


def test_a_pool_that_keeps_dying_ends_the_run() -> None:
    process = flows.begin("run", write(flows.hanging() + START))
    killed = set()
    end = time.monotonic() + flows.PATIENCE_S
    while process.poll() is None:
        assert time.monotonic() < end, "it goes on without a pool"
        for pid in set(flows.agents()) - killed:
            killed.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
    _, err = process.communicate()

    assert process.returncode == 1
    assert "error: the embedded pool keeps ending\n" in err
    assert len(killed) == 4
    assert facts("SELECT status FROM task WHERE parent_id IS NULL") == [("stopped",)]
    no_process_left()


@pytest.mark.parametrize(
    ("how", "start"),
    [("renamed", START), pytest.param("deleted", LOCALLY, marks=pytest.mark.exhaustive)],
    ids=["renamed-remote", "deleted-local"],
)
def test_a_run_whose_store_is_gone_ends_and_makes_no_other(how: str, start: str) -> None:
    process = flows.begin("run", write(flows.hanging() + start))
    wait_for(lambda: "second" in ran(), process)

    os.rename(".minipipe", "gone")
    if how == "deleted":
        shutil.rmtree("gone")
    _, err = process.communicate(timeout=flows.PATIENCE_S)

    assert process.returncode == 4
    assert f"error: the store {Path.cwd()}/.minipipe was moved or deleted\n" in err
    assert not Path(".minipipe").exists()
    no_process_left()


# -- --set ----------------------------------------------------------------------------------------------------------------


def test_an_unknown_parameter_ends_the_command_before_anything_is_queued() -> None:
    done = command("run", write(CHAIN + START), "--set", "wrod=x", check=2)

    assert "error: chain has no parameter 'wrod'\n" in done.stderr
    assert "hint: did you mean word?\n" in done.stderr
    assert facts("SELECT count(*) FROM task") == [(0,)]


def test_a_value_of_the_wrong_type_ends_the_command_before_anything_is_queued() -> None:
    done = command("run", write(CHAIN + START), "--set", "n=many", check=2)

    assert re.search(r"^error: parameter 'n': cannot read 'many' as int$", done.stderr, re.MULTILINE)
    assert facts("SELECT count(*) FROM task") == [(0,)]


def test_a_run_after_which_its_script_leaves_a_task_is_not_called_the_last() -> None:
    after = "\n    from minipipe import Task\n    Task.init('tests', 'after')\n"
    done = command("run", write(CHAIN + LOCALLY + after), check=0)

    ((name,),) = facts("SELECT run_name FROM task WHERE run_name IS NOT NULL")
    assert f"next: minipipe show {name} | minipipe report {name} --open" in done.stderr, done.stderr


def test_a_setting_that_no_pipeline_takes_is_an_error() -> None:
    done = command("run", write("print('hello')\n"), "--set", "n=1", check=2)

    assert done.stdout == "hello\n"
    assert "error: no pipeline took --set n\n" in done.stderr


def test_values_are_text_json_or_files() -> None:
    Path("file.txt").write_text("a\nb")
    given = {"a=text": "text", "b=": "", "c:=null": None, "d:=[1, 2]": [1, 2], "e=@file.txt": "a\nb", "n=4": 4}
    script = """
from minipipe import PipelineDecorator, pipeline

@pipeline(name="values", project="tests")
def values(a="x", b="x", c="x", d="x", e="x", n=1):
    print([a, b, c, d, e, n])

PipelineDecorator.run_locally()
values()
"""

    done = command("run", write(script), *(word for pair in given for word in ("--set", pair)), check=0)

    assert done.stdout == f"{list(given.values())}\n"


@pytest.mark.parametrize("given", ["word", "=x", "word:=[1,", "word=@nowhere.txt"])
def test_a_pair_that_cannot_be_read_starts_nothing(given: str) -> None:
    done = command("run", write("open('started', 'w')"), "--set", given, check=2)

    assert done.stderr.startswith(f"error: --set cannot read {given!r}\n")
    assert not Path("started").exists()


# -- failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [START, pytest.param(LOCALLY, marks=pytest.mark.exhaustive)])
def test_a_failed_step_is_shown_with_its_line_its_last_words_and_what_to_type(start: str) -> None:
    text = BREAKING + start
    line = text[: text.index("raise ValueError")].count("\n") + 1

    done = command("run", write(text), check=1)

    (run_id,) = (str(row[0])[:8] for row in facts("SELECT uid FROM task WHERE parent_id IS NULL"))
    assert done.stderr.endswith(
        "error: step 'second' failed: ValueError: not fixed yet\n"
        f'  cause: flow.py:{line}, in second:  raise ValueError("not fixed yet")\n'
        "         log: almost there\n"
        f"  hint: minipipe step {run_id}/second --pdb   or, after a fix:  minipipe resume {run_id}\n"
    )
    assert re.search(r"^failed second \d+\.\ds ValueError: not fixed yet$", done.stderr, re.MULTILINE)
    assert re.search(r"^skipped third second failed$", done.stderr, re.MULTILINE)
    assert re.search(r"^ALL +3 +1 +- +1 +1 +- ", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    no_process_left()


@pytest.mark.exhaustive
def test_the_attempts_of_a_retried_step_are_counted() -> None:
    text = BREAKING.replace('return_values=["b"]', 'return_values=["b"], retry_on_failure=1') + START

    done = command("run", write(text), check=1)

    assert re.search(r"^failed second \d+\.\ds attempt 2/2 ValueError", done.stderr, re.MULTILINE)
    assert ran().count("second") == 2


def test_an_error_in_the_logic_of_a_local_pipeline_is_the_failure_of_the_run() -> None:
    text = CHAIN.replace('    print("result"', '    raise KeyError("logic")\n    print("result"') + LOCALLY

    done = command("run", write(text), check=1)

    assert "KeyError: 'logic'" in done.stderr
    assert "in chain" in done.stderr
    assert re.search(r"^error: run [0-9a-f]{8} failed: KeyError: 'logic'$", done.stderr, re.MULTILINE)


def test_a_worker_run_script_that_exits_is_a_failed_run_with_its_code() -> None:
    text = CHAIN.replace('    print("result"', '    sys.exit(7)\n    print("result"') + START

    done = command("run", write(text), check=1)

    assert re.search(r"^error: run [0-9a-f]{8} failed: exited with code 7$", done.stderr, re.MULTILINE)


# -- limits and signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [START, pytest.param(LOCALLY, marks=pytest.mark.exhaustive)])
def test_a_timeout_aborts_the_run_and_is_told_by_the_exit_code(start: str) -> None:
    done = command("run", "--timeout", "4", write(flows.hanging() + start), check=5)

    assert re.search(r"^error: run [0-9a-f]{8} was stopped: it ran longer than 4 s$", done.stderr, re.MULTILINE)
    assert facts("SELECT name, status FROM task WHERE parent_id IS NULL") == [("chain", "stopped")]
    no_process_left()


def test_a_timeout_ends_a_script_that_began_its_task_itself() -> None:
    text = (
        "from minipipe import Task\nTask.init('tests', 'own', auto_connect_frameworks=False)\nwait_for_file('go')\nnote('on')\n"
    )
    done = command("run", "--timeout", "2", write(HEAD + text), check=5)

    told = re.search(r"^error: run ([0-9a-f]{8}) was stopped: it ran longer than 2 s$", done.stderr, re.MULTILINE)
    assert told is not None, done.stderr
    assert done.stderr.endswith(f"  hint: minipipe rerun {told[1]}\n"), "only pipelines are resumed"
    assert (facts("SELECT status FROM task"), ran()) == ([("stopped",)], [])
    refused = command("resume", told[1], check=3)
    assert refused.stderr.startswith(f"error: '{told[1]}' is no run\n  cause: it is the task 'own'\n")
    assert command("logs", told[1], check=0).stdout.startswith(f"task {told[1]}  own (tests)"), "without our own first line"


def test_a_timeout_ends_a_script_that_has_started_nothing() -> None:
    done = command("run", "--timeout", "0.3", write(HEAD + "wait_for_file('go')\n"), check=5)

    assert "error: flow.py was stopped: it ran longer than 0.3 s\n" in done.stderr


@pytest.mark.parametrize("start", [START, pytest.param(LOCALLY, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_stops_the_run_and_names_what_resumes_it(start: str, number: int) -> None:
    process = flows.begin("run", write(flows.hanging() + start))
    wait_for(lambda: "second" in ran(), process)

    code, out, err = flows.interrupt(process, number)

    (run_id,) = (str(row[0])[:8] for row in facts("SELECT uid FROM task WHERE parent_id IS NULL"))
    assert (code, out) == (130, ""), err
    assert err.endswith(f"error: interrupted\n  hint: minipipe resume {run_id}\n")
    assert sorted(facts("SELECT name, status FROM task")) == [("chain", "stopped"), ("first", "completed"), ("second", "stopped")]
    no_process_left()


NO_LONGER_LOGIC = flows.hanging().replace('print("result", int(second(first(n))))', "second(first(n))")


@pytest.mark.parametrize("start", [START, pytest.param(LOCALLY, marks=pytest.mark.exhaustive)])
def test_ctrl_c_is_exit_130_although_the_logic_has_come_to_its_end(start: str) -> None:
    process = flows.begin("run", write(NO_LONGER_LOGIC + start))
    wait_for(lambda: "second" in ran(), process)

    code, _, err = flows.interrupt(process)

    (run_id,) = (str(row[0])[:8] for row in facts("SELECT uid FROM task WHERE parent_id IS NULL"))
    assert (code, err.endswith(f"error: interrupted\n  hint: minipipe resume {run_id}\n")) == (130, True), err
    assert facts("SELECT status, reason FROM task WHERE parent_id IS NULL") == [("stopped", "interrupted")]
    no_process_left()


def test_without_the_command_ctrl_c_is_a_keyboard_interrupt_that_says_how_to_go_on() -> None:
    script = write(NO_LONGER_LOGIC + LOCALLY)
    process = subprocess.Popen([sys.executable, script], stdout=-1, stderr=-1, text=True)
    wait_for(lambda: "second" in ran(), process)

    code, _, err = flows.interrupt(process)

    (run_id,) = (str(row[0])[:8] for row in facts("SELECT uid FROM task WHERE parent_id IS NULL"))
    assert (code, err.endswith(f"\nKeyboardInterrupt\nminipipe resume {run_id}\n")) == (-signal.SIGINT, True), err
    no_process_left()


@pytest.mark.exhaustive
def test_ctrl_c_at_the_exit_ends_a_worker_that_does_not_leave() -> None:
    end = """
    atexit.register(lambda: note("leaving"))
    from minipipe.sdk import local
    (worker,) = (one.process.pid for one in local._workers.values())
    os.kill(worker, signal.SIGSTOP)
    note(str(worker))
"""
    process = subprocess.Popen(
        [sys.executable, write("import atexit\n" + CHAIN + LOCALLY + end)], stdout=-1, stderr=-1, text=True
    )
    wait_for(lambda: "leaving" in ran(), process)
    worker = Path("/proc", ran()[-2])
    asked = re.compile(r"^ShdPnd:\s*[0-9a-f]*[4-7c-f][0-9a-f]{3}$", re.MULTILINE)  # SIGTERM is pending
    wait_for(lambda: asked.search((worker / "status").read_text()), process)

    code, out, err = flows.interrupt(process)

    assert (code, out, "Traceback" in err) == (0, "result 20 'none'\n", False), err
    wait_for(lambda: not worker.exists())


def test_processes_that_a_script_forks_die_of_signals_as_ever() -> None:
    """The handlers of the command are its own: in a fork they would stop the run, and print where they interrupted what."""
    fork = """
import multiprocessing, os, signal, sys
own = multiprocessing.get_context("fork")

def child(ready):
    ready.set()
    signal.pause()

for number in (signal.SIGTERM, signal.SIGHUP):
    ready = own.Event()
    process = own.Process(target=child, args=(ready,))
    process.start()
    ready.wait()
    os.kill(process.pid, number)
    process.join()
    print(process.exitcode, flush=True)
print(signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN))
"""
    done = command("run", write(fork), check=0)

    assert (done.stdout, done.stderr) == ("-15\n-1\nTrue\n", "note: flow.py started no task\n")


def test_a_closed_terminal_stops_the_run_as_ctrl_c_does() -> None:
    """Every word to such a terminal is an error; none of them becomes the ending."""
    parent, child = pty.openpty()
    process = subprocess.Popen([*MINIPIPE, "run", write(flows.hanging() + START)], stdout=child, stderr=child, stdin=child)
    os.close(child)
    wait_for(lambda: "second" in ran())

    os.close(parent)
    process.send_signal(signal.SIGHUP)

    assert process.wait(flows.PATIENCE_S) == 130
    assert sorted(facts("SELECT name, status FROM task")) == [("chain", "stopped"), ("first", "completed"), ("second", "stopped")]
    no_process_left()


@pytest.mark.exhaustive
def test_a_second_hangup_is_no_second_wish() -> None:
    os.environ["MINIPIPE_GRACE_S"] = "1"
    process = flows.begin("run", write(flows.hanging("signal.signal(signal.SIGTERM, signal.SIG_IGN)") + START))
    wait_for(lambda: "second" in ran(), process)

    process.send_signal(signal.SIGHUP)
    wait_for(lambda: facts("SELECT 1 FROM task WHERE abort_requested = 1"), process)
    code, _, err = flows.interrupt(process, signal.SIGHUP)

    assert code == 130
    assert "killed" not in err
    assert "error: interrupted\n" in err
    no_process_left()


def test_under_nohup_a_hangup_is_ignored() -> None:
    process = subprocess.Popen(["nohup", *MINIPIPE, "run", write(flows.hanging() + START)], stderr=-1, stdout=-1, text=True)
    wait_for(lambda: "second" in ran())

    process.send_signal(signal.SIGHUP)
    Path("go").touch()

    out, err = process.communicate(timeout=flows.PATIENCE_S)
    assert (process.returncode, out) == (0, "result 20\n"), err


@pytest.mark.parametrize("start", [pytest.param(START, marks=pytest.mark.exhaustive), LOCALLY])
def test_the_second_signal_kills_at_once_even_what_ignores_signals(start: str) -> None:
    prelude = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)"
    os.environ["MINIPIPE_GRACE_S"] = "30"
    process = flows.begin("run", write(flows.hanging(prelude) + start))
    wait_for(lambda: "second" in ran(), process)

    process.send_signal(signal.SIGINT)
    wait_for(lambda: facts("SELECT 1 FROM task WHERE abort_requested = 1"), process)
    before = time.monotonic()
    code, _, err = flows.interrupt(process)

    assert code == 130, err
    (run_id,) = facts("SELECT substr(uid, 1, 8) FROM task WHERE run_name IS NOT NULL")
    assert f"killed   next: minipipe resume {run_id[0]}\n" in err
    assert time.monotonic() - before < 10
    no_process_left()
    assert facts("SELECT status FROM task WHERE name IN ('chain', 'second') ORDER BY name") == [("stopped",), ("stopped",)]


def test_a_signal_ends_a_script_that_has_started_nothing() -> None:
    process = flows.begin("run", write(HEAD + "note('on')\nwait_for_file('go')\n"))
    wait_for(ran, process)

    code, _, err = flows.interrupt(process)

    assert (code, err) == (130, "error: interrupted\n")


# -- what is shown ----------------------------------------------------------------------------------------------------------


def test_piped_output_is_plain() -> None:
    done = command("run", write(BREAKING + START), check=1)

    assert not re.search("[\x00-\x09\x0b-\x1f✔✘–]", done.stdout + done.stderr)


def test_a_terminal_that_cannot_redraw_gets_signs_in_columns() -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*MINIPIPE, "run", write(BREAKING + START)],
        stderr=child,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "TERM": "dumb"},
    )
    os.close(child)
    text = b""
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:  # how Linux says that the other end has closed
            break
        text += data
    os.close(parent)
    shown = text.decode().replace("\r\n", "\n")

    assert process.wait() == 1
    assert re.search(r"^  ✔ first     completed  \d+\.\ds  a=2$", shown, re.MULTILINE), shown
    assert re.search(r"^  ✘ second    failed     \d+\.\ds  ValueError: not fixed yet$", shown, re.MULTILINE)
    assert re.search(r"^  – third     skipped    second failed$", shown, re.MULTILINE)


def test_json_is_one_document_and_the_script_prints_to_stderr() -> None:
    text = CHAIN + LOCALLY + "import subprocess; subprocess.run(['echo', 'from a child'])\n"

    done = command("run", "--json", write(text), check=0)

    found = json.loads(done.stdout)
    assert (found["status"], found["exit_code"], found["pipeline"]) == ("completed", 0, "chain")
    assert [(step["name"], step["status"]) for step in found["steps"]] == [("first", "completed"), ("second", "completed")]
    assert found["runs"] == [found["id"]]
    assert len(found["id"]) == 32
    assert "result 20" in done.stderr
    assert "from a child" in done.stderr


@pytest.mark.exhaustive
def test_json_of_a_failure_holds_the_error_too() -> None:
    done = command("run", "--json", write(BREAKING + START), check=1)

    found = json.loads(done.stdout)
    assert (found["status"], found["exit_code"]) == ("failed", 1)
    assert found["error"]["kind"] == "RunFailed"
    assert found["error"]["message"] == "step 'second' failed: ValueError: not fixed yet"


def test_json_of_a_wrong_call_is_one_document() -> None:
    done = command("run", "--json", "nowhere.py", check=3)

    assert json.loads(done.stdout)["error"]["kind"] == "NotFound"


@pytest.mark.parametrize("words", [("-q",), ("--progress", "off")])
@pytest.mark.exhaustive
def test_quiet_leaves_only_what_the_script_prints(words: tuple[str, ...]) -> None:
    command("run", write("from minipipe import Store; Store.open()"))  # makes the store, which says so

    done = command("run", *words, write(CHAIN + START), check=0)

    assert (done.stdout, done.stderr) == ("result 20 'none'\n", "")


def test_logs_shows_what_steps_print() -> None:
    done = command("run", "--logs", write(CHAIN + START), check=0)

    assert "first | first prints 1\n" in done.stderr
    assert "minipipe: first" not in done.stderr


def test_a_line_of_ours_never_lands_inside_one_of_the_script() -> None:
    body = 'a = first(n); print("half", end="", flush=True); int(a); threading.Event().wait(0.3); print(" line")\n    '
    write(CHAIN.replace('print("result"', body + 'print("result"') + LOCALLY)

    done = subprocess.run(
        [*MINIPIPE, "run", "flow.py"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )

    assert "\nhalf line\ncompleted first " in done.stdout


@pytest.mark.exhaustive
def test_cache_and_refresh_reach_the_steps() -> None:
    write(CHAIN.replace('return_values=["a"]', 'return_values=["a"], cache=True') + START)
    command("run", "flow.py", check=0)

    for words in ((), ("--refresh", "first"), ("--cache", "off"), ("--cache", "refresh")):
        command("run", "flow.py", *words, check=0)

    assert ran().count("first") == 4
    missed = command("run", "flow.py", "--refresh", "frist", check=0).stderr
    assert "note: --refresh frist: no step is called that; the steps are first, " in missed


def test_a_group_of_equal_names_is_one_row_of_the_job_table() -> None:
    step = {"status": "completed", "cached_uid": None, "duration_s": 1.0}

    rows = ending.job_rows([{**step, "name": name} for name in ("train", "train_1", "train_2", "eval_1")])  # type: ignore[misc]

    assert [row[:2] for row in rows] == [["train", "3"], ["eval_1", "1"], ["ALL", "4"]]


# -- URLs that files answer for -----------------------------------------------------------------------------------------

READING = (
    HEAD
    + """
from minipipe import StorageManager

@PipelineDecorator.component(return_values=["text"])
def fetch(url):
    return open(StorageManager.get_local_copy(url)).read()

@PipelineDecorator.pipeline(name="reading", project="tests", version="1.0")
def chain(url="https://example.com/data/a.txt"):
    print("got", str(fetch(url)))
"""
)


@pytest.mark.exhaustive
def test_a_mapped_url_is_read_from_its_file_in_a_step(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("from a file")

    done = command("run", write(READING + START), "--map-url", "https://example.com/data=data", check=0)

    assert "got from a file" in done.stdout


@pytest.mark.exhaustive
def test_isolation_is_a_flag_of_run() -> None:
    done = command("run", write(CHAIN + START), "--isolation", "spawn", check=0)

    assert "result 20 'none'" in done.stdout
    assert command("run", "flow.py", "--isolation", "thread", check=2).stdout == ""


@pytest.mark.parametrize(
    ("pair", "cause"), [("https://example.com", "it has no '='"), ("https://h=nowhere", "no such file or folder")]
)
def test_a_map_that_leads_nowhere_starts_nothing(pair: str, cause: str) -> None:
    done = command("run", write(CHAIN + START), "--map-url", pair, check=2)

    assert f"--map-url cannot read {pair!r}" in done.stderr
    assert cause in done.stderr
    assert ran() == []
