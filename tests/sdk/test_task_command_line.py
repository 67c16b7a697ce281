"""Command lines read by argparse (the contract's 3.15)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import Task
from minipipe.sdk.auto import connection
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import Left, python, work

Become = Callable[[Task], Task]


@pytest.fixture(autouse=True)
def _no_command_line_from_before() -> Iterator[None]:
    connection.end()
    yield
    connection.end()


def parser(**settings: Any) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(**settings)
    made.add_argument("data", type=Path)
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--layers", type=int, nargs="+", default=[1])
    made.add_argument("--flag", action="store_true")
    made.add_argument("--verbose", "-v", action="count", default=0)
    made.add_argument("--mode", choices=["a", "b"], default="a")
    made.add_argument("--limit", type=int)
    return made


def draft(**arguments: Any) -> Task:
    task = Task.create("command lines", "draft")
    task.set_parameters({f"Args/{name}": value for name, value in arguments.items()})
    return task


def test_a_connected_parser_is_recorded_in_args_whether_parsed_before_or_after(home: Store) -> None:
    expected = {
        "Args/data": "d.csv",
        "Args/lr": "0.5",
        "Args/layers": "[1, 2]",
        "Args/flag": "True",
        "Args/verbose": "2",
        "Args/mode": "a",
        "Args/limit": "",
    }
    words = ["d.csv", "--lr", "0.5", "--layers", "1", "2", "--flag", "-vv"]
    before, after, one, other = draft(), draft(), parser(), parser()
    one.parse_args(words)
    assert before.connect(one) is one
    after.connect(other)
    assert other.parse_args(words).layers == [1, 2]
    assert before.get_parameters() == after.get_parameters() == expected


def test_worker_mode_replaces_them_by_the_stored_values_as_the_parser_would_read_them(home: Store, as_worker: Become) -> None:
    task = draft(data="other.csv", lr="0.7", layers="[3, 4]", flag="True", verbose="3", mode="b", limit="9", unknown="1")
    made = as_worker(task).connect(parser())
    found = made.parse_args(["d.csv", "--lr", "0.5"])
    assert vars(found) == {
        "data": Path("other.csv"),
        "lr": 0.7,
        "layers": [3, 4],
        "flag": True,
        "verbose": 3,
        "mode": "b",
        "limit": 9,
    }


def test_worker_mode_lifts_required_for_options_positionals_groups_and_sub_commands(home: Store, as_worker: Become) -> None:
    made = argparse.ArgumentParser()
    made.add_argument("first")
    made.add_argument("rest", nargs="+", type=int)
    made.add_argument("--needed", required=True)
    group = made.add_mutually_exclusive_group(required=True)
    group.add_argument("--one")
    group.add_argument("--two")
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("--epochs", type=int, required=True)
    running = as_worker(draft(first="f", rest=[1, 2], needed="n", two="t", epochs="5"))
    running.connect(made)
    found = vars(made.parse_args(["train"]))
    assert found == {"first": "f", "rest": [1, 2], "needed": "n", "one": None, "two": "t", "command": "train", "epochs": 5}
    assert running.get_parameter("Args/command") == "train", "what only the command line has is added"


def test_a_stored_text_that_the_parser_cannot_read_gives_a_warning_and_the_parsed_value_stays(
    home: Store, as_worker: Become
) -> None:
    made = as_worker(draft(limit="many")).connect(parser())
    with pytest.warns(UserWarning, match="'limit': cannot read 'many'"):
        assert made.parse_args(["d", "--limit", "3"]).limit == 3


def test_another_parser_and_another_process_are_left_alone(home: Store) -> None:
    task = draft()
    task.connect(parser())
    parser().parse_args(["other"])
    assert task.get_parameters() == {}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (True, ["a", "b", "c"]),
        (False, []),
        ({}, []),
        ({"a": False}, ["b", "c"]),
        ({"*": False, "a": True}, ["a"]),
        ({"*": False}, []),
        ({"a": True}, ["a", "b", "c"]),
    ],
)
def test_a_dict_says_which_arguments_are_connected(wanted: Any, names: list[str]) -> None:
    assert [name for name in "abc" if connection.is_wanted(wanted, name)] == names


SCRIPT = """
import argparse, json, os, subprocess, sys
from minipipe import Task

def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--counter", type=int, default=-1)
    return parser.parse_args()

def init():
    return Task.init("lines", os.environ.get("NAME", "it"), auto_connect_arg_parser=json.loads(os.environ.get("WANTED", "true")))

if os.environ.get("FIRST") == "parse":
    args = parse()
    early = args.lr
    task = init()
else:
    task = init()
    args = parse()
    early = args.lr
if args.counter < 0:
    command = [sys.executable, __file__, "child", "--lr", "9", "--counter", "1"]
    subprocess.run(command, check=True, env={**os.environ, "WANTED": "true"})
print(json.dumps([args.data, args.lr, early, args.counter]))
"""


def parameters(left: Left, name: str) -> dict[str, str]:
    sql = "SELECT p.section, p.name, p.text FROM parameter p JOIN task t ON t.id = p.task_id WHERE t.name = ?"
    return {f"{row['section']}/{row['name']}": row["text"] for row in left.rows(sql, name)}


def test_arguments_parsed_before_or_after_init_land_in_args_and_a_child_has_its_own_command_line(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT)
    for first in ("parse", "init"):
        done = python(folder, "script.py", "d", "--lr", "0.1", NAME=first, FIRST=first)
        assert [json.loads(line) for line in done.out.splitlines()] == [["child", 9.0, 9.0, 1], ["d", 0.1, 0.1, -1]]
    python(folder, "script.py", "d", "--lr", "0.1", NAME="some", WANTED='{"counter": false}')
    python(folder, "script.py", "d", "--lr", "0.1", NAME="none", WANTED="false")
    left = Left(folder)
    every = {"Args/data": "d", "Args/lr": "0.1", "Args/counter": "-1"}
    assert parameters(left, "parse") == parameters(left, "init") == every
    assert parameters(left, "some") == {"Args/data": "d", "Args/lr": "0.1"}
    assert parameters(left, "none") == {}


def test_a_worker_overrides_at_the_parse_and_a_created_script_needs_no_command_line(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT)
    python(folder, "script.py", "d", "--lr", "0.1", NAME="source")
    python(folder, "script.py", "d", "--lr", "0.1", NAME="off", WANTED="false")
    change = (
        "from minipipe import Task\n"
        "for name in ('source', 'off'):\n"
        "    t = Task.clone(Task.get_by_name(name), name=name + ' copy'); t.set_parameter('Args/lr', '0.7'); Task.enqueue(t, 'default')\n"
        "t = Task.create('lines', 'created', script='script.py', argparse_args=[('data', 'x'), ('--lr', '0.9')])\n"
        "Task.enqueue(t, 'default')"
    )
    python(folder, "-c", change)
    for first in ("parse", "init"):
        python(
            folder,
            "-c",
            f"from minipipe import Task; t = Task.clone(Task.get_by_name('created'), name='{first}'); Task.enqueue(t, 'default')",
        )
        work(folder, "default", FIRST=first, WANTED="true")
    left = Left(folder)
    said = {}
    for name in ("source copy", "off copy", "created", "parse", "init"):
        (row,) = left.rows("SELECT * FROM task WHERE name = ?", name)
        assert row["status"] == "completed", left.log(row)
        said[name] = json.loads(left.log(row).splitlines()[-1])
    assert said["source copy"] == ["d", 0.7, 0.7, -1]
    assert said["off copy"][1:] == [0.7, 0.1, -1], "until init nobody knows that this worker's environment connects it"
    assert said["created"] == said["parse"] == said["init"] == ["x", 0.9, 0.9, -1]
