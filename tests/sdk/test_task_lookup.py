"""Finding tasks (the contract's 3.6)."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from minipipe import PipelineController, Task, TaskTypes
from minipipe.store.home import Store


def made(name: str, project: str = "p", tags: tuple[str, ...] = (), status: str = "created", **more: Any) -> Task:
    """A task that came to a status the ordinary way; each is newer than the one before."""
    task = Task.create(project, name, **more)
    task.add_tags(list(tags))
    if status != "created":
        task.mark_started()
    if status == "completed":
        task.mark_completed()
    elif status == "failed":
        task.mark_failed(status_message="bad")
    return task


def names(found: list[Task]) -> list[str]:
    return [task.name for task in found]


# -- get_task -----------------------------------------------------------------------------------------------------------


def test_get_task_by_id_is_that_task_or_a_value_error(home: Store) -> None:
    task = made("a")
    assert Task.get_task(task_id=task.id).name == "a"
    assert Task.get_task(task.id).id == task.id
    with pytest.raises(ValueError, match="no task 'f{32}'"):
        Task.get_task(task_id="f" * 32)


def test_get_task_by_project_and_name_is_exact_and_takes_the_newest_change(home: Store) -> None:
    old, new = made("a"), made("a")
    made("a b")
    made("a", project="other")
    assert Task.get_task(project_name="p", task_name="a").id == new.id
    old.set_comment("changed last")
    assert Task.get_task(project_name="p", task_name="a").id == old.id
    assert Task.get_task(project_name="p", task_name="A") is None
    assert Task.get_task(project_name="p", task_name="none") is None


def test_archived_ones_are_taken_only_if_nothing_else_matches(home: Store) -> None:
    seen, hidden = made("a"), made("a")
    hidden.set_archived(True)
    assert Task.get_task(project_name="p", task_name="a").id == seen.id
    seen.set_archived(True)
    hidden.set_comment("newest")
    assert Task.get_task(project_name="p", task_name="a").id == hidden.id
    assert Task.get_task(project_name="p", task_name="a", allow_archived=False) is None


def test_an_unknown_project_is_a_value_error_and_nothing_to_look_for_too(home: Store) -> None:
    with pytest.raises(ValueError, match="no project 'nowhere'"):
        Task.get_task(project_name="nowhere", task_name="a")
    with pytest.raises(ValueError, match="nothing to look for"):
        Task.get_task()


def test_tags_and_task_filter_narrow_it(home: Store) -> None:
    done, failed = made("a", tags=("x",), status="completed"), made("a", tags=("y",), status="failed")
    assert Task.get_task(project_name="p", task_name="a").id == failed.id
    assert Task.get_task(project_name="p", task_name="a", tags=["x"]).id == done.id
    assert Task.get_task(project_name="p", task_name="a", task_filter={"status": ["completed"]}).id == done.id
    assert Task.get_task(task_name="a", tags=["z"]) is None


def test_get_by_name_takes_the_newest_of_all_projects(home: Store) -> None:
    made("a")
    other = made("a", project="other")
    assert Task.get_by_name("a").id == other.id
    assert Task.get_by_name("b") is None


# -- get_tasks and query_tasks --------------------------------------------------------------------------------------------


def test_the_name_is_a_regular_expression_searched_anywhere_newest_first(home: Store) -> None:
    for name in ("train 1", "train 2", "test 1", "Train 3"):
        made(name)
    assert names(Task.get_tasks(task_name="train")) == ["train 2", "train 1"]
    assert names(Task.get_tasks(task_name="^t.* 1$")) == ["test 1", "train 1"]
    assert names(Task.get_tasks()) == ["Train 3", "test 1", "train 2", "train 1"]
    with pytest.raises(ValueError, match=r"'\[' is no regular expression"):
        Task.get_tasks(task_name="[")


def test_the_project_is_exact_one_or_a_list_and_an_unknown_one_warns(home: Store) -> None:
    made("a")
    made("b", project="p2")
    made("c", project="p22")
    assert names(Task.get_tasks(project_name="p2")) == ["b"]
    assert names(Task.get_tasks(project_name=["p", "p22"])) == ["c", "a"]
    with pytest.warns(UserWarning, match="no project of the name 'none'"):
        assert Task.get_tasks(project_name="none") == []
    with pytest.warns(UserWarning, match="no project of the name 'none'"):
        assert names(Task.get_tasks(project_name=["p", "none"])) == ["a"]


def test_get_tasks_by_ids_and_without_archived_ones(home: Store) -> None:
    one, two = made("a"), made("b")
    two.set_archived(True)
    assert names(Task.get_tasks(task_ids=[one.id, two.id])) == ["b", "a"]
    assert names(Task.get_tasks(task_ids=[two.id])) == ["b"]
    assert names(Task.get_tasks(allow_archived=False)) == ["a"]


def test_query_tasks_gives_ids_or_dicts_with_the_fields_asked_for(home: Store) -> None:
    task = made("a", tags=("x",), status="completed")
    assert Task.query_tasks(project_name="p", task_name="a", tags=["x"]) == [task.id]
    fields = ["name", "status", "project.name", "project", "tags", "created", "last_iteration", "parent", "type"]
    (found,) = Task.query_tasks(project_name="p", additional_return_fields=fields)
    assert isinstance(found, dict)
    created = found.pop("created")
    assert isinstance(created, datetime.datetime) and created.tzinfo is not None
    assert found == {
        "id": task.id,
        "name": "a",
        "status": "completed",
        "project.name": "p",
        "project": task.project,
        "tags": ["x"],
        "last_iteration": 0,
        "parent": None,
        "type": "training",
    }
    with pytest.raises(ValueError, match=r"(?s)no field 'stauts'.*did you mean 'status'"):
        Task.query_tasks(additional_return_fields=["stauts"])


# -- tags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["x"], "x xy xz"),
        (["x", "y"], "x xy xz y yz"),
        (["x", "-y"], "x xz"),
        (["-y"], "none x xz z"),
        (["__$all", "x", "y"], "xy"),
        (["__$and", "x", "y"], "xy"),
        (["__$all", "x", "__$not", "y"], "x xz"),
        (["__$all", "x", "__$not", "y", "__$not", "z"], "x"),
        (["__$or", "x", "y"], "x xy xz y yz"),
        (["__$or", "x", "__$not", "z"], "none x xy xz y"),
        (["__$all", "z", "__$or", "x", "y"], "xz yz"),
        (["__$all", "__$or", "x", "y", "__$and", "__$or", "y", "z"], "xy xz y yz"),
    ],
)
def test_tags_are_or_by_default_and_know_operators(home: Store, tags: list[str], expected: str) -> None:
    for name in ("none", "x", "xy", "xz", "y", "yz", "z"):
        made(name, tags=tuple(name) if name != "none" else ())
    assert " ".join(sorted(names(Task.get_tasks(tags=tags)))) == expected
    assert " ".join(sorted(names(Task.get_tasks(task_filter={"tags": tags})))) == expected


def test_archived_is_a_system_tag(home: Store) -> None:
    made("seen")
    hidden = made("hidden")
    hidden.set_system_tags(["archived", "other"])
    assert (hidden.get_archived(), hidden.get_system_tags()) == (True, ["archived", "other"])
    assert names(Task.get_tasks(task_filter={"system_tags": [f"-{Task.archived_tag}"]})) == ["seen"]
    assert names(Task.get_tasks(task_filter={"system_tags": ["archived"]})) == ["hidden"]
    assert names(Task.get_tasks(task_filter={"system_tags": ["other"]})) == ["hidden"]
    hidden.set_system_tags([])
    assert (hidden.get_archived(), hidden.get_system_tags()) == (False, [])


# -- task_filter ----------------------------------------------------------------------------------------------------------


def test_task_filter_knows_status_type_and_project(home: Store) -> None:
    made("a", status="completed", task_type="testing")
    made("b", status="failed")
    made("c", project="other")
    assert names(Task.get_tasks(task_filter={"status": ["completed", "failed"]})) == ["b", "a"]
    assert names(Task.get_tasks(task_filter={"status": "-completed"})) == ["c", "b"]
    assert names(Task.get_tasks(task_filter={"type": [TaskTypes.testing]})) == ["a"]
    assert names(Task.get_tasks(task_filter={"project": [Task.get_project_id("other")]})) == ["c"]
    with pytest.raises(ValueError, match="'done' is no status"):
        Task.get_tasks(task_filter={"status": ["done"]})
    with pytest.raises(ValueError, match="'odd' is no task type"):
        Task.get_tasks(task_filter={"type": ["odd"]})


def test_task_filter_parent_finds_children_and_clones(home: Store) -> None:
    source, other = made("source"), made("other")
    copy = Task.clone(source, name="copy")
    Task.clone(copy, name="copy of the copy")
    made("child").set_parent(other)
    assert sorted(names(Task.get_tasks(task_filter={"parent": source.id}))) == ["copy", "copy of the copy"]
    assert names(Task.get_tasks(task_filter={"parent": other.id})) == ["child"]
    assert Task.get_tasks(task_filter={"parent": copy.id}) == []
    for task in Task.get_tasks():
        found = Task.get_tasks(task_filter={"parent": task.id})
        assert {one.parent for one in found} <= {task.id}


def test_task_filter_orders_and_pages(home: Store) -> None:
    for name in ("b", "a", "d", "c"):
        made(name)
    assert names(Task.get_tasks(task_filter={"order_by": ["name"]})) == ["a", "b", "c", "d"]
    assert names(Task.get_tasks(task_filter={"order_by": ["-name"]})) == ["d", "c", "b", "a"]
    assert names(Task.get_tasks(task_filter={"order_by": "-last_update"})) == ["c", "d", "a", "b"]
    assert names(Task.get_tasks(task_filter={"order_by": ["name"], "page_size": 3, "page": 1})) == ["d"]
    assert names(Task.get_tasks(task_filter={"order_by": ["name"], "page_size": 3})) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no field 'nmae'"):
        Task.get_tasks(task_filter={"order_by": ["nmae"]})


def test_task_filter_search_text_looks_into_name_comment_and_id(home: Store) -> None:
    one, two = made("Alpha"), made("beta")
    two.set_comment("about ALPHA_1%")
    assert names(Task.get_tasks(task_filter={"search_text": "alpha"})) == ["beta", "Alpha"]
    assert names(Task.get_tasks(task_filter={"search_text": "a_1%"})) == ["beta"]
    assert names(Task.get_tasks(task_filter={"search_text": one.id[:12]})) == ["Alpha"]


def test_task_filter_status_changed_compares_times(home: Store) -> None:
    made("a")
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    for text, expected in (
        (f">{(now - hour).isoformat()}", ["a"]),
        (f">{(now + hour).isoformat()}", []),
        (f"<={(now + hour).replace(tzinfo=None).isoformat()}", ["a"]),
    ):
        assert names(Task.get_tasks(task_filter={"status_changed": [text]})) == expected
    with pytest.raises(ValueError, match="'soon' is no time"):
        Task.get_tasks(task_filter={"status_changed": [">soon"]})


def test_task_filter_all_and_any_match_patterns(home: Store) -> None:
    one, two = made("net 1"), made("other")
    two.set_comment("net 2")
    fields = ["name", "comment"]
    assert names(Task.get_tasks(task_filter={"_any_": {"fields": fields, "pattern": r"net \d"}})) == ["other", "net 1"]
    assert Task.get_tasks(task_filter={"_all_": {"fields": fields, "pattern": r"net \d"}}) == []
    one.set_comment("net 3")
    assert names(Task.get_tasks(task_filter={"_all_": {"fields": fields, "pattern": r"net \d"}})) == ["net 1"]
    with pytest.raises(ValueError, match="no text 'colour'"):
        Task.get_tasks(task_filter={"_any_": {"fields": ["colour"], "pattern": "x"}})
    with pytest.raises(ValueError, match="is no pattern"):
        Task.get_tasks(task_filter={"_any_": "x"})


@pytest.mark.parametrize("look", [Task.get_tasks, Task.query_tasks, lambda task_filter: Task.get_task(task_filter=task_filter)])
def test_an_unknown_key_is_an_error(home: Store, look: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"(?s)no key 'stauts'.*did you mean 'status'"):
        look(task_filter={"stauts": ["completed"]})


@pytest.mark.parametrize("odd", [None, float("nan"), ["a"], b"a", 3])
def test_a_name_that_is_no_text_is_refused_in_words(home: Store, odd: Any) -> None:
    pipe = PipelineController("p", "p", "1")
    with pytest.raises(ValueError, match=r"the step name .* cannot be used"):
        pipe.add_function_step(odd, print)
    task = Task.create("p", "t")
    with pytest.raises(ValueError, match=r"the task name .* cannot be used"):
        task.set_name(odd)
    if odd is not None:
        with pytest.raises(ValueError, match=r"the task name .* cannot be used"):
            Task.create("p", odd)
    task.set_comment("words")
    task.set_comment(None)
    assert (task.name, task.comment) == ("t", "")
