"""Steps of controllers whose code, task or limits come from elsewhere: a branch of a repository, a factory, `add_step`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from minipipe.sdk.task import Task
from tests.sdk.sdk_scripts import FLOWS, Left, python, work

HEAD = """
import json, os, time
from pathlib import Path
from minipipe import PipelineController, Task

def note(line):
    with open("notes", "a") as file:
        file.write(f"{line}\\n")

def number(n=1):
    note(f"ran {n}")
    return n

def fails():
    raise KeyError("no luck")

pipe = PipelineController("flow", "tests")
"""
LOCAL = "pipe.start_locally(run_pipeline_steps_locally=True)\n"


def run(folder: Path, text: str, check: int | None = 0) -> str:
    """Run a controller; returns what it printed to both streams."""
    (folder / "flow.py").write_text(HEAD + text)
    done = python(folder, "flow.py", check=check)
    return done.out + done.err


# -- a branch of a repository -----------------------------------------------------------------------------------------

TRAIN = """
from minipipe import Task

task = Task.init("tests", "from code")
task.execute_remotely()
import rules
task.upload_artifact("rule", {"rule": rules.RULE, "script": "SCRIPT"})
"""


def git(folder: Path, *arguments: str) -> str:
    """Run git; what it prints."""
    names = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def code(folder: Path) -> Path:
    """A repository with a template, in two versions: the older one has a branch of its own and a tag."""
    made = folder / "code"
    made.mkdir()
    git(made, "init", "-q")
    for version in ("older", "newer"):
        (made / "train.py").write_text(TRAIN.replace("SCRIPT", version))
        (made / "rules.py").write_text(f"RULE = {version!r}\n")
        git(made, "add", ".")
        git(made, "commit", "-qm", version)
        if version == "older":
            git(made, "branch", "old")
            git(made, "tag", "v1")
    python(folder, "code/train.py")
    return made


def rules(left: Left) -> dict[str, tuple[str, str]]:
    """Step -> (version of the module, version of the script) that it ran."""
    steps = {name: Task(left.store, row["id"], row["uid"]) for name, row in left.steps("flow").items()}
    found = {name: step.artifacts["rule"].get() for name, step in steps.items() if "rule" in step.artifacts}
    return {name: (value["rule"], value["script"]) for name, value in found.items()}


def test_a_step_runs_the_branch_the_tag_or_the_commit_that_its_task_overrides_name(folder: Path, left: Left, code: Path) -> None:
    commit = git(code, "rev-parse", "v1")
    text = f"""
pipe.add_parameter("branch", "old")
named = {{"base_task_project": "tests", "base_task_name": "from code"}}
pipe.add_step("as it is", **named)
pipe.add_step("branch", task_overrides={{"script.branch": "old"}}, **named)
pipe.add_step("tag", task_overrides={{"script.tag": "v1"}}, **named)
pipe.add_step("commit", task_overrides={{"script.version_num": {commit!r}}}, **named)
pipe.add_step("told", task_overrides={{"script.branch": "${{pipeline.branch}}"}}, **named)
pipe.add_function_step("decide", lambda: "old", function_return=["branch"])
pipe.add_step("late", task_overrides={{"script.branch": "${{decide.parameters.return/branch}}"}}, **named)
pipe.add_step("like it", task_overrides={{"script.branch": "${{branch.script.branch}}"}}, **named)
"""
    run(folder, text + LOCAL)

    old = ("older", "older")
    names = ("branch", "tag", "commit", "told", "late", "like it")
    assert rules(left) == {"as it is": ("newer", "newer"), **dict.fromkeys(names, old)}
    steps = left.steps("flow")
    assert json.loads(steps["late"]["entry"])["repository"]["commit"] == commit
    assert json.loads(steps["late"]["entry"])["repository"]["branch"] == "old"
    assert (code / "rules.py").read_text() == "RULE = 'newer'\n", "the folder of the user stays as it is"


def test_a_branch_that_is_not_there_ends_the_run_with_its_name(folder: Path, left: Left, code: Path) -> None:
    text = 'pipe.add_step("a", base_task_project="tests", base_task_name="from code", task_overrides={"script.branch": "odl"})\n'

    said = run(folder, text + LOCAL, check=1)
    assert "step 'a': no branch 'odl'" in said
    assert left.run("flow")["status"] == "failed"
    assert left.steps("flow") == {}


@pytest.mark.exhaustive
def test_on_a_worker_the_branch_runs_as_well(folder: Path, left: Left, code: Path) -> None:
    text = 'pipe.add_step("a", base_task_project="tests", base_task_name="from code", task_overrides={"script.branch": "old"})\n'

    run(folder, text + "pipe.start()\n")
    work(folder)
    assert rules(left) == {"a": ("older", "older")}


# -- a factory --------------------------------------------------------------------------------------------------------

FACTORY = """
def factory(node):
    note(f"made {node.name} after {node.parents}")
    return Task.clone(Task.get_task(project_name="tests", task_name="template"), name="of a factory")

def before(pipeline, node, parameters):
    note(f"before {node.name}: {node.job.task_id() == node.base_task_id}")
    return node.name != "skipped"

given = {"base_task_factory": factory, "pre_execute_callback": before}
"""


@pytest.fixture
def template(folder: Path) -> None:
    """A template that factories clone."""
    python(folder, str(FLOWS / "template.py"))


@pytest.mark.parametrize("mode", ["local", "remote"])
def test_a_factory_is_asked_when_the_parents_have_ended_and_its_task_is_the_step(
    folder: Path, left: Left, template: None, mode: str
) -> None:
    text = """
def ended(pipeline, node):
    note(f"ended {node.name}")

pipe.add_step("made", parents=["one"], parameter_override={"General/n": "${one.parameters.return/x}"}, **given)
pipe.add_step("again", parents=["made"], **given)
pipe.add_function_step("child", number, {"n": "${made.parameters.General/n}"}, parents=["again"])
pipe.add_function_step("one", number, {"n": 5}, ["x"], post_execute_callback=ended)
pipe.add_function_step("beside", number, {"n": 7})
assert pipe.get_pipeline_dag()["made"].job is None
"""
    run(folder, FACTORY + text + (LOCAL if mode == "local" else "pipe.start()\n"))
    if mode == "remote":
        work(folder)

    assert set(left.statuses("flow").values()) == {"completed"}, left.statuses("flow")
    assert [line for line in left.noted("notes") if line != "ran 7"] == [
        "ran 5",
        "ended one",
        "made made after ['one']",
        "before made: True",
        "made again after ['made']",
        "before again: True",
        "ran 5",
    ]
    copies = left.rows("SELECT id FROM task WHERE name = 'of a factory'")
    assert copies == [], "each task that was made has become a step"


@pytest.mark.exhaustive
def test_a_factory_is_not_asked_for_a_step_that_is_skipped(folder: Path, left: Left, template: None) -> None:
    text = """
pipe.add_function_step("bad", fails)
pipe.add_step("never", parents=["bad"], **given)
pipe.add_function_step("below", number, parents=["never"])
pipe.add_step("skipped", **given)
pipe.add_function_step("beside", number, parents=["skipped"])
"""
    run(folder, FACTORY + text + LOCAL, check=1)

    skipped = dict.fromkeys(("never", "below", "skipped", "beside"), "skipped")
    assert left.statuses("flow") == {"bad": "failed", **skipped}
    assert left.noted("notes") == ["made skipped after []", "before skipped: True"]


@pytest.mark.exhaustive
def test_a_resumed_run_keeps_what_its_factories_have_made_and_asks_for_the_rest(folder: Path, left: Left, template: None) -> None:
    text = """
def fixed():
    assert os.path.exists("fixed")

pipe.add_step("first", base_task_factory=factory)
pipe.add_function_step("check", fixed, parents=["first"])
pipe.add_step("last", base_task_factory=factory, parents=["check"])
"""
    run(folder, FACTORY + text + LOCAL, check=1)
    assert left.statuses("flow") == {"first": "completed", "check": "failed", "last": "skipped"}
    first = left.steps("flow")["first"]["uid"]

    (folder / "fixed").touch()
    python(folder, "-m", "minipipe", "resume", "@last")
    rows = left.rows("SELECT name, uid, status FROM task WHERE parent_id = ? AND superseded = 0", left.run("flow")["id"])
    assert {row["name"]: row["status"] for row in rows} == dict.fromkeys(("first", "check", "last"), "completed")
    assert first in {row["uid"] for row in rows}
    assert left.noted("notes") == ["made first after []", "made last after ['check']"]


def test_what_is_no_task_from_a_factory_fails_the_run_with_that_word(folder: Path, left: Left) -> None:
    text = 'pipe.add_step("made", base_task_factory=lambda node: node.name)\n'

    assert "step 'made': its base_task_factory gave str, not a task" in run(folder, text + LOCAL, check=1)
    assert left.run("flow")["status"] == "failed"


def test_a_task_that_is_no_draft_cannot_be_a_step_itself(folder: Path, left: Left, template: None) -> None:
    (folder / "done.py").write_text("from minipipe import Task\nTask.init('tests', 'done')\n")
    python(folder, "done.py")
    text = 'pipe.add_step("a", base_task_project="tests", base_task_name="done", clone_base_task=False)\n'

    said = run(folder, text + LOCAL, check=1)
    assert "is completed and cannot be a step itself" in said
    assert "clone_base_task=True runs a copy" in said
    assert left.run("flow")["status"] == "failed"


# -- limits -----------------------------------------------------------------------------------------------------------

GREEDY = """
import os
from minipipe import Task
task = Task.init("tests", "greedy")
told = task.connect({"megabytes": 1})
task.execute_remotely()
task.upload_artifact("found", {"nice": os.nice(0), "size": len(bytearray(told["megabytes"] << 20))})
"""


def test_limits_of_a_step_hold_for_the_copy_of_a_template(folder: Path, left: Left) -> None:
    (folder / "greedy.py").write_text(GREEDY)
    python(folder, "greedy.py")
    text = """
named = {"base_task_project": "tests", "base_task_name": "greedy"}
pipe.add_step("small", memory_limit_mb=500, nice=7, **named)
pipe.add_step("large", memory_limit_mb=200, parameter_override={"General/megabytes": 1024}, **named)
"""
    run(folder, text + LOCAL, check=1)

    steps = left.steps("flow")
    assert {name: step["status"] for name, step in steps.items()} == {"small": "completed", "large": "failed"}
    assert steps["large"]["reason"].startswith("MemoryError")
    assert steps["large"]["reason"].endswith("(its memory limit is 200 MB)")
    before = int(subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout)
    small = Task(left.store, steps["small"]["id"], steps["small"]["uid"])
    assert small.artifacts["found"].get() == {"nice": min(19, before + 7), "size": 1 << 20}


def test_a_limit_that_cannot_be_is_refused_when_the_step_is_added(folder: Path) -> None:
    said = run(folder, 'pipe.add_step("a", base_task_name="x", nice=-5)\n', check=1)
    assert "step 'a': nice=-5 cannot be used" in said


# -- steps that are stored with the pipeline ---------------------------------------------------------------------------

EDITABLE = """
def before(pipeline, node, parameters):
    note(f"before {node.name}: {parameters['General/n']}")

pipe = PipelineController("flow", "tests", always_create_from_code=False)
named = {"base_task_project": "tests", "base_task_name": "template"}
pipe.add_function_step("one", number, {"n": 1}, ["x"])
pipe.add_step("copy", parameter_override={"General/n": "${one.parameters.return/x}"}, pre_execute_callback=before, **named)
pipe.add_function_step("gone", number, {"n": 3}, parents=["copy"])
pipe.create_draft()
pipe.start(queue=None)
"""
EDIT = """
import json
from minipipe import PipelineController, Task
found = PipelineController.get(pipeline_project="tests", pipeline_name="flow")
clone = PipelineController.clone(found)
steps = clone.task.get_configuration_object_as_dict("Pipeline")
print(json.dumps(steps))
EDITS
clone.task.set_configuration_object("Pipeline", config_dict=steps)
PipelineController.enqueue(clone, "services")
"""
EDITS = """
steps["copy"]["parameters"]["General/n"] = 20
del steps["gone"]
steps["one"]["queue"] = "other"
steps["more"] = {"base_task_id": steps["copy"]["base_task_id"], "parents": ["copy"],
                 "parameters": {"General/text": "${copy.parameters.General/n}", "General/note": "more"}}
"""


def edit(folder: Path, edits: str) -> str:
    """Edit the steps of a clone and queue it; gives what stood there before."""
    (folder / "edit.py").write_text(EDIT.replace("EDITS", edits))
    return python(folder, "edit.py").out


def test_stored_steps_are_edited_in_a_clone_and_a_worker_runs_what_stands_there(folder: Path, left: Left, template: None) -> None:
    run(folder, EDITABLE)
    before = json.loads(edit(folder, EDITS))
    assert list(before) == ["one", "copy", "gone"]
    assert before["copy"]["parameters"] == {"General/n": "${one.parameters.return/x}"}
    assert before["one"] == {"parents": [], "queue": None, "timeout": None}
    work(folder)

    assert left.statuses("flow") == {"one": "completed", "copy": "completed", "more": "completed"}
    assert left.noted("notes") == ["before copy: 20", "ran 1"] or left.noted("notes") == ["ran 1", "before copy: 20"]
    assert json.loads(left.noted("more")[0])[2] == "20"
    assert left.steps("flow")["one"]["queue"] == "other"
    assert [run["status"] for run in left.runs("flow")] == ["created", "completed"]


BAD_EDITS = {
    "steps['copy']['parameter'] = {}": "step 'copy': 'parameter' cannot be edited",
    "steps['one']['parameters'] = {}": "step 'one': 'parameters' cannot be edited",
    "steps['new'] = {'parents': ['one']}": "step 'new' was added without a task to copy",
    "steps['gone']['parents'] = ['cpoy']": "step 'gone': no step 'cpoy' to wait for",
    "steps['one']['parents'] = ['gone']": "steps wait for each other",
    "del steps['one']": "step 'copy': no step 'one'",
    "steps['one'] = 5": "cannot be read",
}


def test_a_bad_edit_fails_the_run_before_its_first_step(folder: Path, left: Left, template: None) -> None:
    run(folder, EDITABLE)
    head, clone = EDIT.split("clone =", 1)
    (folder / "edit.py").write_text(head + "".join(f"clone ={clone.replace('EDITS', edits)}" for edits in BAD_EDITS))
    python(folder, "edit.py")
    work(folder)

    draft, *failed = left.runs("flow")
    assert draft["status"] == "created"
    for one, (edits, said) in zip(failed, BAD_EDITS.items(), strict=True):
        assert one["status"] == "failed", edits
        assert said in one["reason"] or said in left.log(one), edits
        assert left.rows("SELECT name FROM task WHERE parent_id = ?", one["id"]) == [], edits


def test_without_being_asked_the_code_alone_says_which_steps_there_are(folder: Path, left: Left) -> None:
    run(folder, 'pipe.add_function_step("one", number)\npipe.create_draft()\npipe.start(queue=None)\n')
    edit(folder, "assert steps is None or steps == {}\nsteps = {'nonsense': {}}")
    work(folder)

    assert left.statuses("flow") == {"one": "completed"}


@pytest.mark.exhaustive
def test_a_run_in_this_process_keeps_its_steps_for_clones_of_it(folder: Path, left: Left, template: None) -> None:
    run(folder, EDITABLE.replace("pipe.create_draft()\npipe.start(queue=None)", LOCAL))
    assert left.statuses("flow") == {"one": "completed", "copy": "completed", "gone": "completed"}
    edit(folder, "del steps['gone']")
    work(folder)
    assert [set(left.steps("flow")), left.runs("flow")[-1]["status"]] == [{"one", "copy"}, "completed"]
