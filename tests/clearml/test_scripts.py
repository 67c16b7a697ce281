"""What `minipipe run` makes of scripts that leave their process: templates, queued tasks, clones under other tasks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

TEMPLATE = """
from clearml import Task
task = Task.init("examples", "train one")
settings = task.connect({"rate": 0.1})
task.execute_remotely()
print("training with", settings["rate"])
"""

SEARCH = """
from clearml import Task
search = Task.init("examples", "search", task_type=Task.TaskTypes.optimizer)
template = Task.get_task(project_name="examples", task_name="train one")
for number in range(2):
    trial = Task.clone(source_task=template, name=f"trial {number}", parent=PARENT)
    trial.set_parameters({**trial.get_parameters(), "rate": number + 0.5})
    Task.enqueue(trial.id, queue_name="default")
"""

REMOTE = """
from clearml import Task
task = Task.init("examples", "elsewhere")
print("here")
task.execute_remotely(queue_name="default")
print("there", Task.running_locally())
"""


def test_a_template_says_where_it_is_and_how_it_is_used_and_nothing_after_it_runs(folder: Path, command: Command) -> None:
    (folder / "train.py").write_text(TEMPLATE)
    done = command("run", "train.py")

    assert done.stdout == ""
    assert "'train one' (examples) created: it runs when cloned into a queue" in done.stderr
    assert "next: pipe.add_step(name=…, base_task_project='examples', base_task_name='train one')" in done.stderr

    assert "train one" not in command("status").stdout  # a draft

    # What is cloned under another task is followed to its end like everything else that the script queued.
    for name, parent in (("outside", "template.id"), ("inside", "search.id")):
        (folder / f"{name}.py").write_text(SEARCH.replace("PARENT", parent))
        done = command("run", f"{name}.py")
        said = ["training with 0.5", "training with 1.5"] if name == "outside" else []  # a trial's console is in its log
        assert sorted(done.stdout.splitlines()) == said
        assert "completed trial 0" in done.stderr and "completed trial 1" in done.stderr
        listed = command("status").stdout
        assert "search" in listed and listed.count("trial 0") == 1  # those inside are trials of the search


def test_a_script_that_leaves_for_a_queue_goes_on_in_the_pool_and_the_command_ends_with_it(
    folder: Path, command: Command
) -> None:
    (folder / "remote.py").write_text(REMOTE)
    assert command("run", "remote.py").stdout == "here\nthere False\n"

    (folder / "remote.py").write_text(REMOTE + "raise ValueError('there')\n")
    done = command("run", "remote.py", check=1)
    assert "ValueError: there" in done.stderr

    done = command("run", "--detach", "remote.py")
    assert done.stdout.splitlines()[0] == "here" and "there" not in done.stdout
    assert "minipipe worker" in done.stderr
    command("worker", "--until-idle")
    assert "failed" in command("show", done.stdout.split()[-1]).stdout


def test_what_a_task_connects_is_changed_when_it_is_run_and_by_running_it_again(folder: Path, command: Command) -> None:
    (folder / "train.py").write_text(TEMPLATE.replace("task.execute_remotely()", ""))
    assert command("run", "train.py", "--set", "rate=0.5").stdout == "training with 0.5\n"
    again = command("run", "train.py").stderr.partition("task ")[2].split()[0]
    assert command("rerun", again, "--set", "rate=0.7").stdout == "training with 0.7\n"
