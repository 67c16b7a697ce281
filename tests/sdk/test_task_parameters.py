"""Parameters, `connect` and `connect_configuration` (the contract's 3.1 and 3.2)."""

from __future__ import annotations

import argparse
import copy
import enum
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from minipipe import Task, errors
from minipipe.sdk import flow, values
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import Left, python, work

Become = Callable[[Task], Task]


class Color(enum.Enum):
    red = 1
    blue = 2


def draft(**parameters: Any) -> Task:
    task = Task.create("parameters", "draft")
    if parameters:
        task.set_parameters(parameters)
    return task


# -- 3.1 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text", "tag"),
    [
        (1, "1", "int"),
        (2.5, "2.5", "float"),
        (True, "True", "bool"),
        ("abc", "abc", ""),
        (None, "", ""),
        ("", "", ""),
        ([1, 2], "[1, 2]", "list/int"),
        ((1, 2), "[1, 2]", "tuple/int"),
        ([1, "a"], '[1, "a"]', "list"),
        ([], "[]", "list"),
        (["a"], '["a"]', "list/str"),
        ({}, "{}", "dict"),
        (Color.red, "red", ""),
    ],
)
def test_texts_and_tags(home: Store, value: Any, text: str, tag: str) -> None:
    task = draft()
    task.connect({"it": value})
    (row,) = home.database.rows("SELECT section, name, text, type FROM parameter WHERE task_id = ?", (task.row_id,))
    assert tuple(row) == ("General", "it", text, tag)


def test_nested_dicts_flatten_with_a_slash(home: Store) -> None:
    task = draft()
    task.connect({"a": 1, "b": {"c": 1, "d": {"e": 2}}}, name="net")
    assert task.get_parameters() == {"net/a": "1", "net/b/c": "1", "net/b/d/e": "2"}
    assert task.get_parameters_as_dict() == {"net": {"a": "1", "b": {"c": "1", "d": {"e": "2"}}}}
    task.set_parameters_as_dict({"General": {"x": {"y": 3}}})
    assert task.get_parameters(cast=True) == {"General/x/y": 3}


def test_get_parameters_gives_texts_of_all_sections_and_cast_gives_typed_values(home: Store) -> None:
    task = draft()
    task.connect({"none": None, "empty": "", "list": [1, 2], "flag": False})
    task.connect({"x": 1.5}, name="other")
    assert task.get_parameters() == {
        "General/none": "",
        "General/empty": "",
        "General/list": "[1, 2]",
        "General/flag": "False",
        "other/x": "1.5",
    }
    cast = task.get_parameters(cast=True)
    assert cast == {"General/none": None, "General/empty": "", "General/list": [1, 2], "General/flag": False, "other/x": 1.5}
    assert (task.get_parameter("x", 7), task.get_parameter("other/x", cast=True), task.get_parameter("list")) == (
        7,
        1.5,
        "[1, 2]",
    )


def test_a_bare_key_and_general_are_the_same_cell_and_the_later_entry_wins(home: Store) -> None:
    task = draft(x=1, y=2)
    changed = task.get_parameters()
    changed["x"] = 5
    task.set_parameters(changed)
    assert task.get_parameters() == {"General/x": "5", "General/y": "2"}
    task.set_parameters({"x": 1, "General/x": 2})
    assert task.get_parameters() == {"General/x": "2"}


def test_set_replaces_everything_update_merges_and_delete_returns_bool(home: Store) -> None:
    task = draft(a=1, b=2)
    task.set_parameters({"c": 3}, {"sec/d": 4}, e=5)
    assert task.get_parameters() == {"General/c": "3", "sec/d": "4", "General/e": "5"}
    task.update_parameters({"c": 30}, f=6)
    assert task.get_parameters() == {"General/c": "30", "sec/d": "4", "General/e": "5", "General/f": "6"}
    assert (task.delete_parameter("sec/d"), task.delete_parameter("sec/d")) == (True, False)
    task.set_parameter("g", "7", description="seven", value_type=int)
    assert task.get_parameter("g", cast=True) == 7
    task.set_parameter("d", {"a": "b"})
    assert task.get_parameter("d") == '{"a": "b"}'
    assert home.database.row("SELECT type FROM parameter WHERE name = 'd'")["type"] == "dict/str"  # type: ignore[index]
    assert home.database.row("SELECT description FROM parameter WHERE name = 'g'")["description"] == "seven"  # type: ignore[index]


def test_a_value_of_an_unsupported_type_is_left_out_with_a_warning_and_the_rest_is_stored(home: Store) -> None:
    task = draft()
    with pytest.warns(UserWarning, match="General/bad: a object cannot be stored"):
        task.connect({"good": 1, "bad": object()})
    with pytest.warns(UserWarning, match="General/bad: a object cannot be stored"):
        task.update_parameters({"bad": object(), "better": 2})
    assert task.get_parameters() == {"General/good": "1", "General/better": "2"}


def test_a_text_keeps_the_type_of_its_cell_and_another_value_sets_its_own(home: Store) -> None:
    task = draft(lr=1)
    task.set_parameter("lr", "2")
    assert task.get_parameters(cast=True) == {"General/lr": 2}
    task.set_parameter("lr", 0.5)
    assert task.get_parameters(cast=True) == {"General/lr": 0.5}
    task.set_parameter("lr", "many")
    assert task.get_parameters(cast=True) == {"General/lr": "many"}


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("3", int, 3),
        ("-1_000", int, -1000),
        ("2.5", int, 2.5),
        ("1e3", float, 1000.0),
        ("0", bool, False),
        ("2", bool, True),
        ("TRUE", bool, True),
        ("false", bool, False),
        (" Yes", bool, True),
        ("off", bool, False),
        ("[1, 2]", list, [1, 2]),
        ("[a, 1.5, true, null, 'b c']", list, ["a", 1.5, True, None, "b c"]),
        ("[1, 2]", tuple, (1, 2)),
        ("{lr: 0.1, net: {deep: [1, x]}}", dict, {"lr": 0.1, "net": {"deep": [1, "x"]}}),
        ("red", Color, Color.red),
        ("2", Color, None),
        ("", int, None),
        ("", bool, None),
        ("", list, None),
        ("", Color, None),
        ("", str, ""),
        ("None", Optional[int], None),  # noqa: UP045
        ("7", int | None, 7),
        ("x", int | str, "x"),
        ("b", Literal["a", "b"], "b"),
    ],
)
def test_casting_a_stored_text_for_code(text: str, wanted: Any, value: Any) -> None:
    if value is None and text == "2":
        with pytest.raises(errors.BadParameter, match="cannot read '2' as Color"):
            values.cast(text, wanted, "p")
        return
    found = values.cast(text, wanted, "p")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["[1", "{a: 1", "'a", "[1] 2", "[1 , 2", '["a]'])
def test_a_text_with_brackets_that_do_not_match_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"missing|too much"):
        flow.read(text)


def test_user_properties_are_set_in_any_status(home: Store) -> None:
    task = draft(a=1)
    task.mark_started()
    task.mark_completed()
    task.set_user_properties({"one": 1}, [{"name": "two", "value": "b", "type": "str", "description": "d"}], three=3.0)
    assert task.get_user_properties(value_only=True) == {"one": "1", "two": "b", "three": "3.0"}
    assert task.get_user_properties()["two"] == {
        "section": "properties",
        "name": "two",
        "value": "b",
        "type": "str",
        "description": "d",
    }
    task.delete_user_properties(["one", {"name": "two"}])
    assert task.get_user_properties(value_only=True) == {"three": "3.0"}


# -- 3.2, local mode ------------------------------------------------------------------------------------------------------


def test_local_mode_copies_the_dict_and_each_later_assignment_follows(home: Store) -> None:
    task, original = draft(), {"a": 1, "net": {"lr": 0.1}, "later": {}}
    connected = task.connect(original)
    assert connected == original
    connected["a"] = 2
    connected["net"]["lr"] = 0.2
    connected["net"]["new"] = {"deep": 1}
    connected["net"]["new"]["deep"] = 3
    connected["later"]["x"] = "y"
    connected.update(b=3)
    connected |= {"c": 4}
    assert connected.setdefault("d", 5) == 5
    assert original == {"a": 1, "net": {"lr": 0.1}, "later": {}}
    found = task.get_parameters(cast=True)
    assert found.pop("General/later") == {}
    assert found == {
        "General/a": 2,
        "General/net/lr": 0.2,
        "General/net/new/deep": 3,
        "General/later/x": "y",
        "General/b": 3,
        "General/c": 4,
        "General/d": 5,
    }


def test_the_connected_dict_travels_as_a_plain_one(home: Store) -> None:
    connected = draft().connect({"a": {"b": 1}})
    for plain in (pickle.loads(pickle.dumps(connected)), copy.deepcopy(connected), copy.copy(connected)):
        assert (plain, type(plain), type(plain["a"])) == ({"a": {"b": 1}}, dict, dict)
    assert json.dumps(connected) == '{"a": {"b": 1}}'


def test_non_str_keys_become_str_with_a_warning(home: Store) -> None:
    task = draft()
    with pytest.warns(UserWarning, match=r"name \d is a int"):
        connected = task.connect({1: "one", "n": {2: "two"}})
    assert connected == {"1": "one", "n": {"2": "two"}}
    assert task.get_parameters() == {"General/1": "one", "General/n/2": "two"}


class Base:
    depth = 3
    name = "base"


class Net(Base):
    name = "net"
    _hidden = 1
    loss = object()

    def method(self) -> None:
        """No parameter."""


def test_a_class_is_read_along_its_mro_and_an_instance_by_its_dict(home: Store) -> None:
    task = draft()
    assert task.connect(Net, name="class") is Net
    net = Net()
    net.width, net._secret, net.tool = 5, 1, print  # type: ignore[attr-defined]
    assert task.connect(net, name="object") is net
    assert task.get_parameters() == {"class/depth": "3", "class/name": "net", "object/width": "5"}
    task.connect(argparse.Namespace(x=1), name="space")
    assert task.get_parameter("space/x") == "1"


class Own:
    """ClearML's `TaskParameters`, as far as `connect` knows it."""

    def __init__(self) -> None:
        self.held = {"a": 1}

    def to_dict(self) -> dict[str, Any]:
        return dict(self.held)

    def update_from_dict(self, given: dict[str, Any]) -> None:
        self.held.update(given)


def test_task_parameters_use_to_dict_and_update_from_dict(home: Store, as_worker: Become) -> None:
    task = draft(**{"General/a": 7})
    held = as_worker(task).connect(Own())
    assert held.held == {"a": 7}


def test_what_cannot_be_connected_is_an_error(home: Store) -> None:
    with pytest.raises(ValueError, match="a int cannot be connected"):
        draft().connect(5)


# -- 3.2, worker mode -----------------------------------------------------------------------------------------------------


def test_worker_mode_overrides_the_dict_in_place_and_casts_by_the_type_in_code(home: Store, as_worker: Become) -> None:
    task = draft()
    task.set_parameters(
        {"lr": "0.5", "n": "7", "flag": "false", "layers": "[3, 4]", "pair": "[1, 2]", "General/net/deep": "2", "only": "task"}
    )
    inner = {"deep": 1}
    params = {"lr": 0.1, "n": 1, "flag": True, "layers": [1], "pair": (0, 0), "net": inner, "color": Color.red, "code": "only"}
    returned = as_worker(task).connect(params)
    expected = {
        "lr": 0.5,
        "n": 7,
        "flag": False,
        "layers": [3, 4],
        "pair": (1, 2),
        "net": {"deep": 2},
        "color": Color.red,
        "code": "only",
    }
    assert params == returned == expected
    assert inner == {"deep": 2}, "whoever holds the inner dict sees it, too"
    assert task.get_parameter("code") == "only", "keys only in code are added to the task"
    assert "only" not in params, "keys only on the task are not added to the dict"


def test_assigning_a_connected_key_later_lets_the_stored_override_win_again(home: Store, as_worker: Become) -> None:
    task = draft(lr=0.5, **{"General/net/deep": 2})
    params: dict[str, Any] = {}
    connected = as_worker(task).connect(params)
    connected["lr"] = 0.1
    connected["net"] = {"deep": 1, "wide": 9}
    connected["new"] = 3
    assert connected == params == {"lr": 0.5, "net": {"deep": 2, "wide": 9}, "new": 3}
    connected["net"]["deep"] = 100
    assert connected["net"] == params["net"] == {"deep": 2, "wide": 9}
    assert task.get_parameters(cast=True) == {"General/lr": 0.5, "General/net/deep": 2, "General/net/wide": 9, "General/new": 3}


def test_ignore_remote_overrides_keeps_local_behaviour(home: Store, as_worker: Become) -> None:
    task = draft(lr=0.5)
    connected = as_worker(task).connect({"lr": 0.1}, ignore_remote_overrides=True)
    assert (connected, task.get_parameter("lr")) == ({"lr": 0.1}, "0.1")
    connected["lr"] = 0.2
    assert (connected, task.get_parameter("lr")) == ({"lr": 0.2}, "0.2")


def test_overrides_of_a_class_and_an_object_come_back_by_setattr(home: Store, as_worker: Become) -> None:
    class Config:
        lr = 0.1
        name = "a"

    task = draft(**{"General/lr": "0.7", "object/width": 9})
    running = as_worker(task)
    running.connect(Config)
    net = argparse.Namespace(width=5)
    running.connect(net, name="object")
    assert (Config.lr, Config.name, net.width) == (0.7, "a", 9)


def test_a_text_that_cannot_be_cast_gives_one_warning_and_the_value_in_code_stays(home: Store, as_worker: Become) -> None:
    task = draft(n="many")
    with pytest.warns(UserWarning, match="cannot read 'many' as int") as warned:
        assert as_worker(task).connect({"n": 3}) == {"n": 3}
    assert len(warned) == 1


def test_another_task_than_the_one_that_runs_is_never_overridden(home: Store, as_worker: Become) -> None:
    as_worker(draft())
    other = draft(a=1)
    assert other.connect({"a": 2}) == {"a": 2}
    assert other.get_parameter("a") == "2"


# -- connect_configuration ------------------------------------------------------------------------------------------------


def test_a_configuration_is_stored_as_text_and_worker_mode_refills_the_same_object(home: Store, as_worker: Become) -> None:
    task = draft()
    given, listed = {"a": 1, "b": {"c": 2}}, [1, 2]
    assert task.connect_configuration(given) is given
    assert task.connect_configuration(listed, "list") is listed
    assert json.loads(task.get_configuration_object("General") or "") == given
    assert task.get_configuration_object_as_dict("list") == [1, 2]
    task.set_configuration_object("General", config_dict={"a": 5})
    running = as_worker(task)
    other, numbers = {"a": 1, "gone": 2}, [9]
    assert running.connect_configuration(other) is other
    assert running.connect_configuration(numbers, name="list") is numbers
    assert (other, numbers) == ({"a": 5}, [1, 2])
    assert running.connect_configuration({"a": 1}, ignore_remote_overrides=True) == {"a": 1}


def test_a_path_stores_its_text_and_worker_mode_returns_a_file_with_the_stored_one(
    home: Store, as_worker: Become, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf.yaml").write_text("a: 1\n")
    task = draft()
    assert task.connect_configuration("conf.yaml", "file") == "conf.yaml"
    assert task.connect_configuration(Path("conf.yaml"), "path") == Path("conf.yaml")
    task.set_configuration_object("file", "a: 2\n")
    running = as_worker(task)
    text, path = running.connect_configuration("conf.yaml", "file"), running.connect_configuration(Path("conf.yaml"), "path")
    assert (type(text), Path(text).suffix, Path(text).read_text()) == (str, ".yaml", "a: 2\n")
    assert (isinstance(path, Path), path.read_text(), path != Path("conf.yaml")) == (True, "a: 1\n", True)


def test_nothing_stored_under_the_name_warns_and_the_codes_value_is_used_and_stored(home: Store, as_worker: Become) -> None:
    running = as_worker(draft())
    with pytest.warns(UserWarning, match="no configuration 'new' is stored"):
        assert running.connect_configuration({"a": 1}, "new") == {"a": 1}
    assert running.get_configuration_object_as_dict("new") == {"a": 1}


def test_a_configuration_that_cannot_be_read_is_a_value_error(home: Store, as_worker: Become, tmp_path: Path) -> None:
    task = draft()
    with pytest.raises(ValueError, match="missing.yaml cannot be read"):
        task.connect_configuration(tmp_path / "missing.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"(?s)binary cannot be read.*UTF-8"):
        task.connect_configuration(tmp_path / "binary")
    with pytest.raises(ValueError, match="a int is no configuration"):
        task.connect_configuration(5)
    with pytest.raises(ValueError, match="config_text or config_dict"):
        task.set_configuration_object("a")
    task.set_configuration_object("General", "a: not JSON")
    with pytest.raises(ValueError, match=r"(?s)'General' cannot be read.*not JSON"):
        as_worker(task).connect_configuration({"a": 1})


# -- a real worker --------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, random
from minipipe import Task
random.random()
task = Task.init("script", "it")
params = {"lr": 0.1, "net": {"layers": [1, 2]}, "code": "only"}
connected = task.connect(params)
connected["later"] = 1
config = task.connect_configuration({"a": 1}, "conf")
print(json.dumps([params, connected, config, Task.running_locally(), random.random()]))
"""


def test_a_clone_that_a_worker_runs_gets_what_was_changed_in_it(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT)
    here = json.loads(python(folder, "script.py").out)
    change = (
        "from minipipe import Task; t = Task.clone(Task.get_task(project_name='script', task_name='it'), name='copy');"
        "p = t.get_parameters(); p['lr'] = '0.5'; p['General/net/layers'] = [7]; p['later'] = 2; p['unknown'] = 1; t.set_parameters(p);"
        "t.set_configuration_object('conf', config_dict={'a': 2}); Task.enqueue(t.id, queue_name='default')"
    )
    python(folder, "-c", change)
    work(folder, "default")
    left = Left(folder)
    (row,) = left.rows("SELECT * FROM task WHERE name = 'copy'")
    there = json.loads(left.log(row).splitlines()[-1])
    params = {"lr": 0.5, "net": {"layers": [7]}, "code": "only"}
    assert row["status"] == "completed"
    assert there[:4] == [{**params, "later": 2}, {**params, "later": 2}, {"a": 2}, False]
    assert here[3:] == [True, there[4]], "the same numbers are drawn in both"
