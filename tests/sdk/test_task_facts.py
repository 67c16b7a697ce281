"""What is known of a task and can be changed at any time (the names of the contract's section 2), and drafts made of scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minipipe import (
    Dataset,
    InputModel,
    NotSupported,
    OutputModel,
    PipelineController,
    PipelineDecorator,
    Task,
    TaskTypes,
)
from minipipe.errors import NotFound
from minipipe.sdk import notice
from minipipe.store.database import Database
from minipipe.store.home import Store


def draft(name: str = "draft") -> Task:
    return Task.create("facts", name)


def ended() -> Task:
    task = draft()
    task.mark_started()
    task.mark_completed()
    return task


def test_name_project_comment_and_tags_change_in_any_status(home: Store) -> None:
    task = ended()
    task.publish()
    task.set_name("one")
    assert task.name == "one"
    assert task.rename("two")
    assert task.name == "two"
    task.name, task.comment = "three", "why"
    assert (task.name, task.comment) == ("three", "why")
    task.set_comment("because")
    assert task.comment == "because"
    task.set_task_type(TaskTypes.qc)
    assert (task.task_type, task.status) == ("qc", "published")
    pipe = PipelineController("p", "p", "1")
    calls: list[Callable[[], Any]] = [
        lambda: task.set_task_type("odd"),
        lambda: Task.init("p", "t", task_type="odd"),
        lambda: Task.create("p", "t", task_type="odd"),
        lambda: pipe.add_function_step("s", draft, task_type="odd"),
        lambda: PipelineDecorator.component(task_type="odd")(draft),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="'odd' is no task type"):
            call()


def test_tags_are_set_added_and_removed(home: Store) -> None:
    task = draft()
    task.set_tags(["b", "a"])
    task.add_tags("c")
    task.add_tags(["c", "d"])
    assert task.get_tags() == ["a", "b", "c", "d"]
    task.remove_tags("a")
    task.remove_tags(["b", "unknown"])
    assert task.get_tags() == ["c", "d"]
    task.set_system_tags(["s"])
    assert (task.get_tags(), task.get_system_tags()) == (["c", "d"], ["s"])


def test_a_text_is_one_tag_and_its_words_are_tags_where_tags_are_added(home: Store, tmp_path: Path) -> None:
    """ClearML splits it in `add_tags`, and so in `Task.init`; never are its letters tags."""
    task = Task.init("p", "t", tags="candidate", auto_connect_frameworks=False)
    task.add_tags("old slow")
    assert task.get_tags() == ["candidate", "old", "slow"]
    task.remove_tags("old slow")
    assert task.get_tags() == ["candidate"]
    assert Task.get_task(project_name="p", tags="candidate").id == task.id
    assert Task.get_task(project_name="p", tags="c") is None

    model = OutputModel(task, name="m", tags="best of all")
    assert model.tags == ["best of all"]
    imported = InputModel.import_model("https://h/m.pt", tags="far away")
    assert imported.tags == ["far away"]
    task.close()
    data = Dataset.create("d", "p", dataset_tags="raw data")
    assert data.tags == ["raw data"]
    assert [row["id"] for row in Dataset.list_datasets("p", tags="raw data", only_completed=False)] == [data.id]


def test_a_task_moves_to_a_project_by_id_or_name(home: Store, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_said", set())
    task, other = draft(), Task.create("other", "there")
    assert task.project == Task.get_project_id("facts") != other.project
    assert task.set_project(project_id=other.project)
    assert (task.get_project_name(), task.project) == ("other", other.project)
    assert task.move_to_project(new_project_name="new", system_tags=["x"])
    assert (task.get_project_name(), Task.get_project_id("new")) == ("new", task.project)
    assert "projects have no tags here" in capsys.readouterr().err
    assert Task.get_project_id("unknown") is None
    Task.create("x/.pipelines/y", "hidden")
    assert Task.get_project_id("x/.pipelines/y") is not None
    assert Task.get_project_id("x/.pipelines/y", search_hidden=False) is None
    with pytest.raises(ValueError, match="no project was named"):
        task.set_project()
    with pytest.raises(ValueError, match="no project 'f{32}'"):
        task.set_project(project_id="f" * 32)


def test_the_parent_of_a_copy_of_a_copy_is_the_first_source_and_one_query_finds_it(
    home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draft()
    last = first
    for _ in range(20):
        last = Task.clone(last)
    asked: list[str] = []
    monkeypatch.setattr(Database, "row", lambda self, sql, *values: asked.append(sql) or (self.rows(sql, *values) or [None])[0])

    assert (last.parent, first.parent) == (first.id, None)
    assert len(asked) == 2

    home_of_both = draft("above")
    first.set_parent(home_of_both)
    assert last.parent == home_of_both.id


def test_a_parent_is_set_by_object_or_id_and_never_below_the_task_itself(home: Store) -> None:
    top, middle, low = draft("top"), draft("middle"), draft("low")
    assert low.parent is None
    low.set_parent(middle)
    middle.set_parent(top.id)
    assert (low.parent, middle.parent) == (middle.id, top.id)
    with pytest.raises(ValueError, match="cannot be its own parent"):
        top.set_parent(low)
    low.parent = None
    assert low.parent is None
    counted = {(row["scope"], row["status"]): row["n"] for row in home.database.rows("SELECT * FROM tally WHERE n <> 0")}
    assert counted == {(0, "created"): 2, (top.row_id, "created"): 1}


def test_archiving_hides_and_shows(home: Store) -> None:
    task = draft()
    assert not task.get_archived()
    task.set_archived(True)
    assert (task.get_archived(), task.get_system_tags(), Task.archived_tag) == (True, ["archived"], "archived")
    task.set_archived(False)
    assert not task.get_archived()


def test_the_log_has_a_file_url_and_its_last_lines_are_the_console_output(home: Store) -> None:
    task = draft()
    assert task.get_reported_console_output() == []
    task.mark_started()
    path = home.log_path(task.id, 1)
    path.parent.mkdir(parents=True)
    path.write_text(f"minipipe: {task.id} attempt 1 token 0\none\ntwo\n" + "long line\n" * 20_000 + "last\n")
    assert task.get_output_log_web_page() == Task.get_task_output_log_web_page(task.id) == path.as_uri()
    assert task.get_reported_console_output() == ["last"]
    assert task.get_reported_console_output(2) == ["long line", "last"]
    every = task.get_reported_console_output(10**6)
    assert (len(every), every[:2]) == (20_003, ["one", "two"])
    assert task.get_reported_console_output(0) == []


def test_scalars_and_the_last_iteration_are_read_back(home: Store) -> None:
    task = draft()
    assert (task.get_last_iteration(), task.get_all_reported_scalars()) == (0, {})
    task.mark_started()
    for number in range(5):
        task.get_logger().report_scalar("t", "s", number * 2, number * 10)
    assert task.get_last_iteration() == 40
    assert task.get_all_reported_scalars()["t"]["s"]["x"] == [0, 10, 20, 30, 40]
    assert task.get_reported_scalars(max_samples=1)["t"]["s"]["y"] == [4.0]
    assert task.get_last_scalar_metrics() == {"t": {"s": {"last": 8.0, "min": 0.0, "max": 8.0}}}


def test_facts_are_current_in_every_handle_without_being_reloaded(home: Store) -> None:
    task = draft()
    assert task.last_worker == ""
    same = Task.get_task(task_id=task.id)
    same.set_name("renamed")
    same.mark_started()
    same.logger.report_single_value("metric", 3)
    assert (task.name, task.status, task.get_status()) == ("renamed", "in_progress", "in_progress")
    assert task.get_reported_single_value("metric") == 3.0
    same.mark_failed(status_reason="no luck")
    task.reload()
    assert (task.get_status(), task.get_status_message()) == ("failed", "no luck")
    assert task.flush(wait_for_uploads=True)


def test_the_cache_folder_belongs_to_the_task(home: Store) -> None:
    one, two = draft(), draft()
    assert one.cache_dir != two.cache_dir
    assert one.cache_dir.is_relative_to(home.path)


# -- create ---------------------------------------------------------------------------------------------------------------


def test_create_stores_a_script_as_it_is_with_where_it_runs(home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repo" / "code").mkdir(parents=True)
    script = tmp_path / "repo" / "code" / "train.py"
    script.write_text("print(1)\n")
    monkeypatch.chdir(tmp_path)
    task = Task.create("p", repo="repo", script="code/train.py", task_type="testing", argparse_args=[("--lr", "0.1"), ("n", "2")])
    assert (task.name, task.get_project_name(), task.task_type, task.status) == ("train", "p", "testing", "created")
    assert task.get_script() == {
        "working_dir": str(tmp_path / "repo"),
        "entry_point": str(script),
        "branch": None,
        "repository": str(tmp_path / "repo"),
    }
    assert task.get_parameters() == {"Args/lr": "0.1", "Args/n": "2"}
    below = Task.create("p", "named", script="train.py", working_directory="repo/code")
    assert (below.name, below.get_script()["working_dir"]) == ("named", str(script.parent))


def test_create_from_a_base_task_copies_it_and_replaces_what_is_given(home: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.touch()
    second.touch()
    base = Task.create("p", "base", script=str(first), argparse_args=[("a", "1"), ("b", "2")])
    copy = Task.create(task_name="copy", base_task_id=base.id, script=str(second), argparse_args=[("b", "3")], task_type="qc")
    assert (copy.name, copy.get_project_name(), copy.parent, copy.task_type) == ("copy", "p", base.id, "qc")
    assert copy.get_script()["entry_point"] == str(second)
    assert copy.get_parameters() == {"Args/a": "1", "Args/b": "3"}


def test_create_refuses_what_is_not_there_and_what_is_not_offered(home: Store, tmp_path: Path) -> None:
    for wrong in ({"script": "missing.py"}, {"script": "x.py", "working_directory": "missing"}, {"task_type": "odd"}):
        with pytest.raises(ValueError, match=r"no script|does not exist|no task type"):
            Task.create("p", "n", **wrong)
    with pytest.raises(NotSupported):
        Task.create("p", "n", module="a.b")
    with pytest.raises(ValueError, match="git fetch failed"):
        Task.create("p", "n", repo="file:///nowhere/x.git", script="a.py")
    with pytest.warns(UserWarning, match="no project"):
        assert Task.get_tasks(project_name="p") == []


def test_what_create_only_records_is_said_once_and_kept(home: Store, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_said", set())
    for _ in range(2):
        task = Task.create("p", "n", packages=["numpy==1"], docker="image", binary="python3.9")
    said = capsys.readouterr().err
    assert [said.count(f"Task.create({name}=…) is recorded") for name in ("binary", "packages")] == [1, 0]
    row = home.database.row("SELECT settings FROM task WHERE id = ?", (task.row_id,))
    assert row is not None
    assert '"packages": ["numpy==1"]' in row["settings"]


def test_what_is_asked_of_a_task_that_somebody_deleted_says_so(home: Store) -> None:
    task = draft()
    Task.get_task(task_id=task.id).delete()

    calls: list[Callable[[], Any]] = [
        task.export_task,
        lambda: task.data,
        lambda: task.name,
        lambda: task.add_tags(["a"]),
        lambda: task.set_parameter("a", 1),
        lambda: task.upload_artifact("a", 1),
        lambda: task.set_configuration_object("a", "b"),
        lambda: task.set_user_properties(a=1),
        lambda: task.get_logger().report_scalar("a", "b", 1, 1),
        lambda: Task.clone(task),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="was deleted|is gone"):
            call()
