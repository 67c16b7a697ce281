"""What a task keeps and gives away: registered frames, facts of its code, export and import, recorded and refused names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from minipipe import Task, context, errors
from minipipe.sdk import git_facts, task_registered
from minipipe.store import steering
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.sdk.sdk_scripts import python, work


@pytest.fixture
def draft(home: Store) -> Task:
    """A task that does nothing yet."""
    return Task.create("kept", "it")


@pytest.fixture
def task(draft: Task) -> Task:
    """A task that runs."""
    draft.mark_started()
    return draft


def frame_of(task: Task, name: str) -> pandas.DataFrame:
    return Task.get_task(task.id).artifacts[name].get()


# -- registered frames and artifacts that go ----------------------------------------------------------------------------


def test_a_registered_frame_is_stored_again_when_changed_and_at_the_end(home: Store) -> None:
    task = Task.init("kept", "frames")
    frame = pandas.DataFrame({"a": [1, 2]})
    task.register_artifact("table", frame, {"source": "sensor"})
    artifact = task.artifacts["table"]
    assert (artifact.type, artifact.metadata["source"]) == ("data-audit-table", "sensor")
    path = artifact.get_local_copy()
    assert path is not None and path.endswith("table.csv.gz")
    first = artifact.timestamp
    task_registered.settle(False)
    assert task.artifacts["table"].timestamp == first, "nothing changed"
    frame["b"] = [3, 4]
    task_registered.settle(False)
    assert list(frame_of(task, "table")) == ["a", "b"]
    frame["c"] = [5, 6]
    assert task.get_registered_artifacts()["table"] is frame
    task.close()
    assert list(frame_of(task, "table")) == ["a", "b", "c"] and task.get_registered_artifacts() == {}
    assert sane(home.path) == []


def test_the_name_of_a_registered_frame_is_taken_until_it_is_unregistered(task: Task) -> None:
    frame = pandas.DataFrame({"a": [1], "b": [2]})
    task.register_artifact("table", frame, uniqueness_columns=["a"])
    with pytest.raises(ValueError, match="'table' is a registered frame"):
        task.upload_artifact("table", 1)
    frame["b"] = [3]
    task.unregister_artifact("table")
    assert frame_of(task, "table")["b"].tolist() == [2], "only column a counts"
    task.upload_artifact("table", 1)
    with pytest.raises(ValueError, match="no frame is registered as 'table'"):
        task.unregister_artifact("table")
    with pytest.raises(ValueError, match="takes a pandas DataFrame, not list"):
        task.register_artifact("list", [1])
    with pytest.raises(ValueError, match="no column 'z'"):
        task.register_artifact("table", frame, uniqueness_columns=["z"])


def test_a_worker_stores_the_last_change_of_a_frame_of_a_step(
    home: Store, as_worker: Callable[[Task], Task], draft: Task
) -> None:
    task = as_worker(draft)
    frame = pandas.DataFrame({"a": [1]})
    task.register_artifact("table", frame)
    frame["b"] = [2]
    context.end()
    assert list(frame_of(task, "table")) == ["a", "b"]


def test_artifacts_are_removed_and_what_was_missing_is_named(task: Task, capsys: pytest.CaptureFixture[str], home: Store) -> None:
    for name in ("a", "b", "c"):
        task.upload_artifact(name, {"x": name})
    assert task.delete_artifacts(["a"]) is True
    with pytest.raises(ValueError, match="no artifact 'nothing'"):
        task.delete_artifacts(["b", "nothing"])
    assert list(task.artifacts) == ["c"]
    assert task.delete_artifacts(["no"], raise_on_errors=False) is False and "no artifact 'no'" in capsys.readouterr().err
    task.mark_completed()
    assert sane(home.path) == []


# -- code ---------------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


SCRIPT = """
import json
from minipipe import Task
task = Task.init("kept", "versioned")
print(json.dumps(task.get_script()))
"""


def test_a_script_in_a_repository_knows_commit_branch_repository_and_what_was_changed(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "train.py").write_text(SCRIPT)
    bare = python(folder, "below/train.py")
    assert {"branch", "repository"} <= json.loads(bare.out).keys() and "commit" not in json.loads(bare.out)

    git(folder, "init", "-q")
    git(folder, "remote", "add", "origin", "https://me:secret@host/repo.git")
    git(folder, "add", "below")
    git(folder, "commit", "-qm", "first")
    (folder / "below" / "train.py").write_text(SCRIPT + "# changed\n")
    found = json.loads(python(folder, "below/train.py").out)
    assert (found["commit"], found["branch"]) == (git(folder, "rev-parse", "HEAD"), "main")
    assert found["repository"] == "https://host/repo.git"
    assert "+# changed" in found["diff"] and found["entry_point"].endswith("below/train.py")


def test_facts_are_read_from_gits_own_files_also_packed_detached_and_in_a_work_tree(tmp_path: Path) -> None:
    assert git_facts.facts(tmp_path) == {}
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q")
    assert git_facts.facts(root) == {}, "nothing was committed"
    (root / "a").write_text("1")
    git(root, "add", "a")
    git(root, "commit", "-qm", "first")
    commit = git(root, "rev-parse", "HEAD")
    assert git_facts.facts(root) == {"repository": str(root), "branch": "main", "commit": commit}
    git(root, "pack-refs", "--all")
    assert git_facts.facts(root)["commit"] == commit
    git(root, "worktree", "add", "-q", "-b", "side/way", str(tmp_path / "tree"))
    assert git_facts.facts(tmp_path / "tree")["branch"] == "side/way"
    git(root, "checkout", "-q", commit)
    assert git_facts.facts(root) == {"repository": str(root), "commit": commit}
    (root / ".git" / "HEAD").unlink()
    assert git_facts.facts(root) == {}


def test_what_was_changed_is_asked_beside_the_script_and_stored_when_it_is_asked_for(
    draft: Task, tmp_path: Path, home: Store
) -> None:
    root = tmp_path / "repo"
    root.mkdir()
    (root / "a.py").write_text("1\n")
    git(root, "init", "-q")
    git(root, "add", "a.py")
    git(root, "commit", "-qm", "first")
    (root / "a.py").write_text("2\n" * (git_facts.MOST_BYTES // 2))
    entry = {"file": str(root / "a.py"), **git_facts.facts(root)}
    git_facts.ask(home, draft.row_id, entry)
    git_facts.settle(home, draft.row_id)
    diff = draft.get_script()["diff"]
    assert diff is not None and "-1\n+2\n" in diff and "more bytes" in diff[-40:] and len(diff) <= git_facts.MOST_BYTES + 40
    git_facts.ask(home, draft.row_id, {"file": str(root / "a.py")})
    assert git_facts._asked == {}, "without a commit nothing is asked"


# -- export and import --------------------------------------------------------------------------------------------------


def test_an_exported_task_comes_back_in_another_store(
    draft: Task, tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft.set_parameters({"General/rate": 0.5, "Args/names": ["a", "b"]})
    draft.set_user_properties(owner="me")
    draft.set_configuration_object("net", config_dict={"depth": 3})
    draft.set_comment("words")
    draft.set_tags(["t"])
    draft.set_model_label_enumeration({"cat": 1})
    text = json.dumps(draft.export_task())
    other = copy_store(tmp_path / "other")
    monkeypatch.setenv("MINIPIPE_HOME", str(other.path))
    made = Task.import_task(json.loads(text))
    assert made is not None and made.id != draft.id
    assert made.get_parameters(cast=True) == draft.get_parameters(cast=True)
    assert made.get_user_properties(value_only=True) == {"owner": "me"}
    assert made.get_configuration_object_as_dict("net") == {"depth": 3}
    assert (made.name, made.get_project_name(), made.comment, made.get_tags()) == ("it", "kept", "words", ["t"])
    assert (made.get_labels_enumeration(), made.status, made.get_script()) == ({"cat": 1}, "created", draft.get_script())
    other.close()


def test_an_imported_script_runs_as_the_one_that_was_exported(home: Store, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("print('done')\n")
    source = Task.create("kept", "script", script=str(tmp_path / "work.py"), argparse_args=[("n", "3")])
    made = Task.import_task(source.export_task())
    assert made is not None
    assert made.data.script.diff == "print('done')\n" and made.get_parameters() == {"Args/n": "3"}
    assert made.export_task()["minipipe"]["entry"] == source.export_task()["minipipe"]["entry"]


def test_update_task_changes_what_it_names_and_import_replaces_all(draft: Task) -> None:
    draft.set_parameters({"General/a": 1, "General/b": 2})
    assert draft.update_task(
        {"name": "new", "hyperparams": {"General": {"a": {"value": "5"}}}, "configuration": {"c": {"value": "x"}}}
    )
    assert (draft.name, draft.get_parameters()) == ("new", {"General/a": "5", "General/b": "2"})
    assert draft.get_configuration_objects()["c"] == "x"
    Task.import_task({"name": "new", "hyperparams": {"General": {"a": {"value": "6"}}}}, draft)
    assert draft.get_parameters() == {"General/a": "6"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "what export_task gives"),
        ({}, "what export_task gives"),
        ({"name": "x", "hyperparams": [1]}, "hyperparams is a dict"),
        ({"name": "x", "type": "no"}, "'no' is no task type"),
        ({"name": "x", "minipipe": {"version": 99}}, "written by a newer minipipe"),
    ],
)
def test_what_is_no_exported_task_is_refused_and_leaves_nothing(home: Store, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task.import_task(data)
    assert Task.query_tasks() == []


def test_only_a_draft_can_be_imported_into(task: Task) -> None:
    with pytest.raises(ValueError, match="is in_progress, not a draft"):
        task.update_task({"name": "x"})


def test_data_is_the_task_in_clearmls_words_and_read_only(task: Task) -> None:
    task.upload_artifact("a", {"x": 1})
    task.set_user_properties(owner="me")
    data = task.data
    assert (data.id, data.name, data.status, data.execution.artifacts[0].key) == (task.id, "it", "in_progress", "a")
    assert data.hyperparams["properties"]["owner"]["value"] == "me" and data.models.output == []
    assert data.project == task.project and data.script.branch == ""
    with pytest.raises(AttributeError, match="no field 'nothing'"):
        _ = data.nothing
    assert task.log.name.endswith(task.id[:8])
    assert (Task.normalize_id(" a "), Task.resolve_id(task), Task.resolve_id("x")) == ("a", task.id, "x")


def test_projects_and_tasks_are_listed_in_clearmls_form(task: Task) -> None:
    assert [project.name for project in Task.get_projects()] == ["kept"]
    assert task.get_project_object().id == task.project
    assert [one.id for one in Task.get_all(name="it").response.tasks] == [task.id]
    assert (task.output_uri, task.storage_uri, task.get_output_destination("x")) == (None, None, None)
    task.output_uri = "s3://bucket/"  # type: ignore[method-assign]
    assert (task.storage_uri, task.get_output_destination("x")) == ("s3://bucket/", "s3://bucket/x")


# -- being stopped, being published -------------------------------------------------------------------------------------


def test_a_task_is_published_as_soon_as_it_completes_if_that_was_asked_for(home: Store) -> None:
    for enable, end, expected in (
        (True, "mark_completed", "published"),
        (False, "mark_completed", "completed"),
        (True, "mark_failed", "failed"),
    ):
        task = Task.init("kept", f"{enable} {end}", reuse_last_task_id=False)
        task.publish_on_completion()
        task.publish_on_completion(enable)
        getattr(task, end)()
        assert task.status == expected
    assert sane(home.path) == []


def test_a_stop_request_stops_what_waits_and_marks_what_runs(draft: Task) -> None:
    Task.enqueue(draft, "default")
    draft.stop_request(status_message="enough")
    assert (draft.status, draft.get_status_message()) == ("stopped", "enough")


def test_an_abort_callback_is_called_when_somebody_stops_the_task(
    home: Store, as_worker: Callable[[Task], Task], draft: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, called, sent = as_worker(draft), [], []
    before = signal.signal(signal.SIGTERM, lambda number, frame: sent.append(number))
    try:
        task.register_abort_callback(lambda: called.append("forgotten"))
        task.register_abort_callback(None)
        task.register_abort_callback(lambda: called.append("first"))
        task.register_abort_callback(lambda: called.append("second"), callback_execution_timeout=9)
        steering.abort(home, [task.row_id])
        row = home.database.row("SELECT abort_grace_s FROM task WHERE id = ?", (task.row_id,))
        assert row is not None and row[0] == 10.0
        os.kill(os.getpid(), signal.SIGTERM)
        assert (called, sent) == (["second"], [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, before)
    errors_found = []

    def elsewhere() -> None:
        try:
            task.register_abort_callback(print)
        except errors.UsageError as error:
            errors_found.append(error.message)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors_found == ["an abort callback is registered in the main thread"]
    with pytest.raises(ValueError, match="belongs to the process that executes the task"):
        Task.create("kept", "other").register_abort_callback(print)


def test_packages_and_container_travel_with_an_exported_task(draft: Task) -> None:
    draft.set_packages(["numpy"])
    draft.set_base_docker("image:1 --ipc=host")
    made = Task.import_task(draft.export_task())
    assert made is not None
    assert (made.get_requirements(), made.get_base_docker()) == ({"pip": "numpy"}, "image:1 --ipc=host")
    assert made.data.script.requirements.pip == "numpy" and made.data.container.image == "image:1"


# -- one script, several tasks ------------------------------------------------------------------------------------------

FORKED = """
from minipipe import Task
task = Task.init("kept", "forked")

def square(n, note="none"):
    print("square", n * n, note)

def cube(n):
    print("cube", n ** 3)

made = [task.create_function_task(square, n=3, note="mine"), task.create_function_task(cube, "third power", n=2)]
if Task.running_locally():
    made[0].set_parameter("Function/n", 5)
    for draft in made:
        print(draft.name)
        Task.enqueue(draft, "default")
else:
    print("never here")
"""


def test_a_function_task_runs_the_script_up_to_its_call_with_the_arguments_that_were_stored(folder: Path) -> None:
    (folder / "forked.py").write_text(FORKED)
    assert python(folder, "forked.py").out.split("\n")[:2] == ["forked <square>", "forked <third power>"]
    work(folder)
    store = Store.open(folder / ".minipipe", create=False)
    logs = {}
    for row in store.database.rows("SELECT * FROM task WHERE template_id IS NOT NULL ORDER BY id"):
        assert (row["status"], row["reason"]) == ("completed", ""), row["reason"]
        logs[row["name"]] = store.log_path(row["uid"], row["attempt"]).read_text().splitlines()[1:]
    store.close()
    assert logs == {"forked <square>": ["square 25 mine"], "forked <third power>": ["cube 8"]}


def test_function_tasks_belong_to_the_main_task_and_have_names_of_their_own(home: Store) -> None:
    with pytest.raises(ValueError, match="belongs to the main task"):
        Task.create("kept", "other").create_function_task(print)
    task = Task.init("kept", "main", auto_connect_arg_parser=False)
    with pytest.raises(ValueError, match="cannot be called"):
        task.create_function_task(3)  # type: ignore[arg-type]
    draft = task.create_function_task(print, sep="x", file=object())
    assert draft.get_parameters() == {"Function/sep": "x", "Function/__func_readonly__": "print"}
    assert (draft.status, draft.parent, draft.get_system_tags()) == ("created", task.id, ["func"])
    with pytest.raises(ValueError, match="'print' already"):
        task.create_function_task(print)
    task.close()


def test_a_simulated_worker_gives_code_the_stored_values_and_ends_with_the_process(folder: Path) -> None:
    (folder / "real.py").write_text(
        "from minipipe import Task\n"
        "task = Task.init('kept', 'simulated')\n"
        "print(task.id, task.connect({'n': 1})['n'], Task.running_locally())\n"
    )
    uid, value, local = python(folder, "real.py").out.split()
    assert (value, local) == ("1", "True")
    (folder / "again.py").write_text(
        "import sys\nfrom minipipe import Task\n"
        "task = Task.get_task(sys.argv[1])\ntask.reset()\ntask.set_parameter('General/n', 7)\n"
        "Task.debug_simulate_remote_task(task.id)\n" + (folder / "real.py").read_text()
    )
    assert python(folder, "again.py", uid).out.split() == [uid, "7", "False"]
    found = python(folder, "-c", f"from minipipe import Task; print(Task.get_task('{uid}').status)").out
    assert found.strip() == "completed"
