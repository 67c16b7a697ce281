"""What a script task needs: packages, code of a repository, a container."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import Task
from minipipe.sdk import notice, task_needs
from minipipe.store import edits, environments
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import Left, python, work


@pytest.fixture
def task(home: Store, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(notice, "_said", set())
    return Task.create("p", "needy")


@pytest.fixture
def left(folder: Path) -> Iterator[Left]:
    found = Left(folder)
    yield found
    if (folder / ".minipipe").exists():
        found.store.close()


def test_packages_come_from_a_list_or_a_file_and_travel_to_copies(task: Task, tmp_path: Path) -> None:
    (tmp_path / "needs.txt").write_text("numpy>=1.26\n\npandas\n")
    assert task.get_requirements() == {}
    task.set_packages(["a-thing", "b==1"])
    assert task.get_requirements() == {"pip": "a-thing\nb==1"}
    made = environments.of_task(task.store, task.row_id)
    assert made is not None
    assert made.requirements.lines == ("a-thing", "b==1")
    copy = Task.clone(task)
    assert environments.of_task(task.store, copy.row_id) == made
    task.set_packages(str(tmp_path / "needs.txt"))
    assert task.get_requirements() == Task.clone(task).get_requirements() == {"pip": "numpy>=1.26\npandas"}
    assert environments.of_task(task.store, task.row_id) is None, "this Python has them"
    task.set_packages([])
    assert task.get_requirements() == {}
    with pytest.raises(ValueError, match="cannot be read"):
        task.set_packages("nowhere.txt")


def test_a_container_is_kept_with_the_task_and_said_to_be_recorded_once(task: Task, capsys: Any) -> None:
    assert task.get_base_docker() == ""
    task.set_base_docker(docker_image="python:3.11", docker_arguments=["--ipc=host", "-e A=1"])
    assert task.get_base_docker() == "python:3.11 --ipc=host -e A=1"
    task.set_base_docker("other --gpus all", docker_setup_bash_script=["a", "b"])
    assert task.get_base_docker() == "other --gpus all"
    container = edits.facts(task.store, task.row_id)["container"]
    assert container == {"image": "other", "arguments": "--gpus all", "setup": "a\nb"}
    assert capsys.readouterr().err.count("Task.set_base_docker is recorded") == 1


def test_a_script_is_read_again_from_the_commit_that_is_named(
    home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text("print('first')\n")
    names = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "init.defaultBranch=main")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first"), ("tag", "v1")):
        subprocess.run(["git", *names, *words], cwd=code, check=True)
    (code / "train.py").write_text("print('second')\n")
    draft = Task.create("p", "train", script=str(code / "train.py"))
    assert "second" in edits.facts(home, draft.row_id)["source"]
    draft.set_repo(str(code), commit="v1")
    entry = edits.facts(home, draft.row_id)
    assert "first" in entry["source"]
    assert entry["file"].startswith(str(home.path / "trees"))
    for wrong in ({"commit": "v9"}, {"entry_point": "missing.py"}):
        with pytest.raises(ValueError, match="no commit 'v9'|no script"):
            draft.set_script(str(code), **wrong)
    assert edits.facts(home, draft.row_id) == entry
    diff = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-print('first')\n+print('third')\n"
    draft.set_script(str(code), commit="v1", diff=diff)
    assert "third" in edits.facts(home, draft.row_id)["source"]


def test_packages_that_are_added_join_what_the_script_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, empty in (("_added", {}), ("_ignored", set()), ("_file", [])):
        monkeypatch.setattr(task_needs, name, empty)
    source = "import numpy, os, json\nfrom sklearn.svm import SVC\ndef f():\n    import pandas.io\nfrom clearml import Task\n"
    assert task_needs.of_process(source) is None
    Task.add_requirements("torch", "2.1")
    Task.add_requirements("tensorboard", ">=2")
    Task.ignore_requirements("pandas")
    wanted = task_needs.of_process(source)
    assert wanted is not None
    assert [line.partition("=")[0] for line in wanted.lines] == ["numpy", "scikit-learn", "tensorboard>", "torch"]
    assert "torch==2.1" in wanted.lines
    (tmp_path / "all.txt").write_text("only==1\n")
    Task.force_requirements_env_freeze(requirements_file=tmp_path / "all.txt")
    found = task_needs.of_process(source)
    assert found is not None
    assert found.lines == ("only==1",)


@pytest.mark.index
def test_a_template_runs_on_a_worker_with_the_packages_that_its_script_added(folder: Path, left: Left) -> None:
    (folder / "train.py").write_text(
        "import json\nfrom minipipe import Task\nTask.add_requirements('six', '1.15.0')\n"
        "task = Task.init('needs', 'train')\ntask.execute_remotely('default')\n"
        "import six\nprint('told', six.__version__)\n"
    )
    python(folder, "train.py")
    done = work(folder)
    (row,) = left.rows("SELECT uid, attempt, status, reason, entry FROM task")
    assert row["status"] == "completed", (row["reason"], done.out, done.err)
    assert "six==1.15.0" in json.loads(row["entry"])["packages"]
    assert b"told 1.15.0" in left.store.log_path(row["uid"], row["attempt"]).read_bytes()
