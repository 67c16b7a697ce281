"""`--set` for scripts whose parameters nobody knows before they have run: what a task connects, and code that is newer than its run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.flows import HEAD, command, facts, write

TASK = """
import argparse
from minipipe import Task

class Model:
    depth = 3
    name = "small"

class Options:
    def __init__(self):
        self.share = 0.25

class Parameters:
    def __init__(self):
        self.given = {"own": 1}

    def to_dict(self):
        return self.given

    def update_from_dict(self, new):
        self.given = new

task = Task.init("tests", "train")
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--sizes", type=int, nargs="*", default=[1])
arguments = parser.parse_args()
settings = {"rate": 0.1, "net": {"width": 8}, "names": ["a"], "pair": (1, 2), "on": False, "none": None}
connected = task.connect(settings)
model = task.connect(Model, name="Model")
options = task.connect(Options())
own = task.connect(Parameters(), name="Own")
connected["rate"] = connected["rate"]
connected["late"] = 5
print(settings["rate"], settings["net"]["width"], settings["names"], settings["pair"], settings["on"], settings["none"])
print(Model.depth, Model.name, options.share, own.given["own"], arguments.epochs, arguments.sizes, connected["late"])
"""
PLAIN = ["0.1 8 ['a'] (1, 2) False None", "3 small 0.25 1 2 [1] 5"]


@pytest.mark.parametrize(
    ("pairs", "printed"),
    [
        (["rate=0.5", "net/width=16", "on=true"], ["0.5 16 ['a'] (1, 2) True None", PLAIN[1]]),
        (["names=[b, c]", "pair=[3, 4]", 'none:={"x": 1}'], ["0.1 8 ['b', 'c'] (3, 4) False {'x': 1}", PLAIN[1]]),
        (["General/rate=2", "none=7"], ["2.0 8 ['a'] (1, 2) False 7", PLAIN[1]]),
        (["depth=4", "Model/name=large", "share=0.5"], [PLAIN[0], "4 large 0.5 1 2 [1] 5"]),
        (["own=9", "epochs=3", "sizes=4 5", "late=6"], [PLAIN[0], "3 small 0.25 9 3 [4, 5] 6"]),
    ],
)
def test_what_a_script_connects_is_changed_by_set_as_the_type_that_its_code_has(pairs: list[str], printed: list[str]) -> None:
    words = [word for pair in pairs for word in ("--set", pair)]

    done = command("run", write(TASK), *words, check=0)

    assert done.stdout.splitlines() == printed
    assert facts("SELECT status FROM task") == [("completed",)]


def test_what_was_set_is_what_is_stored() -> None:
    command("run", write(TASK), "--set", "rate=0.5", "--set", "epochs=3", "--set", "depth=4", check=0)

    stored = dict(facts("SELECT section || '/' || name, text || ' ' || type FROM parameter"))
    assert (stored["General/rate"], stored["Args/epochs"], stored["Model/depth"]) == ("0.5 float", "3 int", "4 int")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("rat=0.5", ["error: flow.py has no parameter 'rat'\n", "hint: did you mean rate?\n"]),
        ("Modle/depth=1", ["has no parameter 'Modle/depth'", "hint: did you mean Model/depth?\n"]),
        ("zzz=1", ["it has connected epochs, sizes, rate, net/width, ", "arguments of its command line stand after --"]),
        ("rate=fast", ["parameter 'rate': cannot read 'fast' as float", "flow.py:", "hint: --set rate=0.1"]),
        ("epochs=many", ["parameter 'epochs': its parser cannot read 'many'", "invalid literal for int()"]),
    ],
)
def test_what_no_part_of_a_script_takes_is_an_error_with_the_nearest_name(pair: str, said: list[str]) -> None:
    done = command("run", write(TASK), "--set", pair, check=2)

    assert all(words in done.stderr for words in said), done.stderr


@pytest.mark.exhaustive
def test_a_bare_name_that_two_sections_have_needs_its_section() -> None:
    text = TASK + "\nprint(task.connect({'rate': 7}, name='Other'))\n"

    done = command("run", write(text), "--set", "rate=2", check=2)
    assert "error: there are several parameters 'rate'\n" in done.stderr
    assert "they are General/rate, Other/rate" in done.stderr
    done = command("run", write(text), "--set", "Other/rate=2", check=0)
    assert done.stdout.splitlines() == [*PLAIN, "{'rate': 2}"]
    done = command("run", write(text), "--set", "Other/rate=2", "--set", "rate=3", check=2)
    assert "parameter 'rate' has two values" in done.stderr


def test_where_the_code_wins_everywhere_nothing_can_be_set() -> None:
    text = "from minipipe import Task\ntask = Task.init('tests', 'train')\nprint(task.connect({'rate': 1}, ignore_remote_overrides=True))\n"

    done = command("run", write(text), "--set", "rate=2", check=2)
    assert (done.stdout, "error: no pipeline took --set rate\n" in done.stderr) == ("{'rate': 1}\n", True)


def test_a_template_keeps_what_was_set_and_a_queued_script_runs_with_it() -> None:
    text = "from minipipe import Task\ntask = Task.init('tests', 'train')\ntold = task.connect({'rate': 1})\n"
    command("run", write(text + "task.execute_remotely()\n"), "--set", "rate=2", check=0)
    assert facts("SELECT t.status, p.text FROM task t JOIN parameter p ON p.task_id = t.id") == [("created", "2")]

    done = command("run", write(text + "task.execute_remotely('default')\nprint('there', told)\n"), "--set", "rate=3", check=0)
    assert done.stdout == "there {'rate': 3}\n"


PIPELINE = (
    HEAD
    + """
from minipipe import PipelineController, Task
task = Task.init("tests", "main")
told = task.connect({"rate": 1})
def step(n):
    return n
pipe = PipelineController("flow", "tests")
pipe.add_parameter("n", 1)
pipe.add_function_step("step", step, {"n": "${pipeline.n}"}, ["x"])
pipe.start_locally(run_pipeline_steps_locally=True)
print(told, pipe.get_parameters(), Task.get_task(task_id=pipe.get_pipeline_dag()["step"].job.task_id()).get_parameter("return/x"))
"""
)


def test_a_task_takes_its_own_and_the_pipeline_that_it_becomes_the_rest() -> None:
    done = command("run", write(PIPELINE), "--set", "n=5", "--set", "rate=2", check=0)
    assert done.stdout == "{'rate': 2} {'n': 5} 5\n"

    done = command("run", write(PIPELINE), "--set", "rate=2", "--set", "m=1", check=2)
    assert "has no parameter 'm'" in done.stderr
    assert facts("SELECT count(*) FROM task WHERE parent_id IS NOT NULL") == [(1,)], "nothing was queued the second time"


# -- code that is newer than its run ----------------------------------------------------------------------------------

FLOW = (
    HEAD
    + """
@PipelineDecorator.component(return_values=["a"])
def first(n):
    note(f"first:{n!r}")
    return n

@PipelineDecorator.pipeline(name="chain", project="tests", version="1.0")
def chain(n=1, old=1):
    print("result", int(first(n)), old)

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    chain()
"""
)
NEWER = FLOW.replace("chain(n=1, old=1)", "chain(n: float = 1.0, new: bool = False)").replace(
    "int(first(n)), old", "float(first(n)), new"
)


def test_current_code_is_told_what_it_has_and_the_old_run_does_not() -> None:
    command("run", write(FLOW), check=0)
    write(NEWER)

    done = command("rerun", "@last", "--code", "current", "--set", "new=true", "--set", "n=0.5", check=0)
    assert done.stdout == "result 0.5 True\n"
    assert "n 1 -> 0.5" in done.stderr
    newest = "(SELECT max(id) FROM task WHERE run_name IS NOT NULL)"
    stored = facts(f"SELECT name, text || ' ' || type FROM parameter WHERE section = 'Args' AND task_id = {newest}")
    assert dict(stored) == {"n": "0.5 float", "new": "True bool", "old": "1 int"}

    done = command("rerun", "@last", "--set", "new=false", check=0)
    assert done.stdout == "result 0.5 False\n", "what was told belongs to the run by now, and may be changed again"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("old=2", "chain has no parameter 'old'"),
        ("nwe=true", "chain has no parameter 'nwe'"),
        ("new=maybe", "parameter 'new': cannot read 'maybe' as bool"),
    ],
)
@pytest.mark.exhaustive
def test_what_the_current_code_does_not_have_fails_the_run_before_its_first_step(pair: str, said: str) -> None:
    command("run", write(FLOW), check=0)
    write(NEWER)

    done = command("rerun", "@last", "--code", "current", "--set", pair, check=1)
    assert said in done.stderr, done.stderr
    assert facts("SELECT status FROM task WHERE run_name IS NOT NULL ORDER BY id") == [("completed",), ("failed",)]
    assert facts("SELECT count(*) FROM task WHERE parent_id IS NOT NULL") == [(1,)]


@pytest.mark.exhaustive
def test_the_current_code_of_a_plain_script_is_told_and_asked_in_the_same_way(cli: Any) -> None:
    text = "from minipipe import Task\ntask = Task.init('tests', 'train')\nprint(task.connect({'rate': 1}))\n"
    command("run", write(text), check=0)
    ((uid,),) = facts("SELECT uid FROM task")
    write(text.replace("'rate': 1", "'rate': 1, 'depth': 2"))

    done = command("rerun", uid, "--code", "current", "--set", "depth=3", "--set", "rate=4", check=0)
    assert done.stdout == "{'rate': 4, 'depth': 3}\n"
    done = command("rerun", uid, "--code", "current", "--set", "dpeth=3", check=1)
    assert "has no parameter 'dpeth'" in done.stderr
    assert "did you mean depth?" in done.stderr
    ((copy,),) = facts("SELECT uid FROM task WHERE status = 'completed' ORDER BY id DESC LIMIT 1")
    clone = f"from minipipe import Task\nTask.enqueue(Task.clone('{copy}', name='again'), 'default')\n"
    assert command("run", write(clone, "clone.py"), check=0).stdout == "{'rate': 4, 'depth': 3}\n"
