"""One rule for names, and one for values that no store can hold: the same from Python and from the command."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minipipe import PipelineController, Task, errors
from minipipe.cli import root
from minipipe.store import queues, tasks
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.store import making

HALF = "\ud800"
REFUSED = {"empty": "", "blank": " \t", "NUL": "a\0b", "half a pair": f"a{HALF}"}
TAKEN = {
    "line end": "a\nb",
    "10 kB": "n" * 10_000,
    "path": "../../x",
    "emoji": "\N{GRINNING FACE}",
    "bidi": "\u202egnp.exe",
    "option": "-rf",
    "device": "CON",
    "clearml": "Train / stage: a #2",
}


@pytest.fixture
def store(tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store that the command and the SDK of this process use."""
    made = copy_store(tmp_path / "store")
    monkeypatch.setenv("MINIPIPE_HOME", str(made.path))
    monkeypatch.chdir(tmp_path)
    yield made
    assert sane(made.path) == []


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command; never a traceback."""
    result = CliRunner().invoke(root, list(arguments))
    assert "Traceback" not in result.output, result.output
    return result.exit_code, result.output


NAMED: dict[str, Callable[[Task, str], Any]] = {
    "task": lambda task, name: task.set_name(name),
    "copy": lambda task, name: Task.clone(task, name=name),
    "project": lambda task, name: task.move_to_project(new_project_name=name),
    "tag": lambda task, name: task.set_tags([name]),
    "more tags": lambda task, name: task.add_tags([name]),
    "artifact": lambda task, name: task.upload_artifact(name, 1),
    "queue": lambda task, name: Task.enqueue(Task.clone(task), queue_name=name),
    "step": lambda task, name: PipelineController("p", "names", "1.0").add_function_step(name, print),
}


@pytest.mark.parametrize("what", NAMED)
def test_what_is_no_name_is_refused_by_name_and_anything_else_is_a_name(store: Store, what: str) -> None:
    task = Task.create(project_name="names", task_name="one")
    for name in REFUSED.values():
        if what in ("queue", "project", "copy") and not name:
            continue  # nothing is named: ClearML's rule says what is taken instead
        with pytest.raises(errors.UsageError, match="name .* cannot be used") as caught:
            NAMED[what](task, name)
        assert isinstance(caught.value, ValueError) and caught.value.cause and caught.value.hint
        assert str(caught.value).isascii()
    for name in TAKEN.values():
        NAMED[what](task, name)
    if what == "artifact":
        assert set(TAKEN.values()) == set(task.artifacts)
    if what == "task":
        assert task.name == TAKEN["clearml"]


@pytest.mark.parametrize("case", REFUSED)
def test_a_queue_that_python_refuses_is_refused_by_the_command(store: Store, case: str) -> None:
    with pytest.raises(errors.UsageError):
        queues.create(store, REFUSED[case])
    if case != "NUL":  # no command line can hold one
        code, output = command("queue", "create", "--", REFUSED[case])
        assert code == 2 and "the queue name" in output, output


@pytest.mark.parametrize("case", TAKEN)
def test_a_queue_that_python_takes_is_taken_by_the_command(store: Store, case: str) -> None:
    assert command("queue", "create", "--", TAKEN[case])[0] == 0
    assert not queues.create(store, TAKEN[case])  # it was there already
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", command("queue")[1]) is None
    assert command("queue", "remove", "--", TAKEN[case])[0] == 0


def test_a_step_with_a_slash_in_its_name_is_found_by_it(store: Store) -> None:
    run = making.run(store)
    step = making.task(store, making.step(store, "load/raw data", parent_id=run.id))
    code, output = command("show", f"{run.uid}/load/raw data")
    assert code == 0 and step["uid"][:8] in output


VALUES: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": -math.inf,
    "beyond 64 bits": 2**63,
    "bidi": "\u202e\x1b[31m",
    "NUL": "a\0b",
    "double keys": {"a": 1, "b": {"a": 2}},
    "half a pair": HALF,
    "half a pair inside": [HALF],
    "bytes": b"\xff",
}


@pytest.mark.parametrize("case", VALUES)
def test_a_parameter_comes_back_exactly_or_is_refused_by_name(store: Store, case: str) -> None:
    task = Task.create(project_name="names", task_name="one")
    value = VALUES[case]
    if case == "half a pair":
        with pytest.raises(errors.UsageError, match="parameter General/odd: .*cannot be stored"):
            task.set_parameter("General/odd", value)
        assert task.get_parameters() == {}
    elif case == "bytes":
        with pytest.warns(UserWarning, match="parameter General/odd: a bytes cannot be stored; left out"):
            task.set_parameter("General/odd", value)
        assert task.get_parameters() == {}
    else:
        task.set_parameter("General/odd", value)
        found = task.get_parameters(cast=True)["General/odd"] if not isinstance(value, str) else task.get_parameter("General/odd")
        assert found == value or (value != value and found != found), found


@pytest.mark.parametrize("case", VALUES)
def test_an_entry_of_a_dict_comes_back_exactly_or_is_refused_by_name(store: Store, case: str) -> None:
    task = Task.create(project_name="names", task_name="one")
    value = VALUES[case]
    if case == "half a pair":
        with pytest.raises(errors.UsageError, match="parameter D/odd: .*cannot be stored"):
            task.connect({"odd": value, "even": 2}, name="D")
        assert task.get_parameters() == {}  # all or nothing
        return
    if case == "bytes":
        with pytest.warns(UserWarning, match="parameter D/odd: a bytes cannot be stored; left out"):
            task.connect({"odd": value, "even": 2}, name="D")
        assert task.get_parameters() == {"D/even": "2"}
        return
    task.connect({"odd": value, "even": 2}, name="D")
    found = task.get_parameters(cast=True)
    assert found.pop("D/even") == 2
    flat = {"D/odd/a": 1, "D/odd/b/a": 2} if case == "double keys" else {"D/odd": value}
    assert repr(found) == repr(flat)


@pytest.mark.parametrize("case", [*VALUES, "set", "tuple", "keys of several types"])
def test_an_artifact_comes_back_exactly(store: Store, case: str) -> None:
    """Whatever can be pickled can be an artifact."""
    more: dict[str, Any] = {"set": {1, "a"}, "tuple": (1, [2]), "keys of several types": {1: 2, "1": 3, None: 4}}
    value = {**VALUES, **more}[case]
    task = Task.create(project_name="names", task_name="one")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is pickled, it is not serialisable")
        task.upload_artifact("odd", value)
    found = Task.get_task(task_id=task.id).artifacts["odd"].get()
    assert type(found) is type(value) and (found == value or repr(found) == repr(value))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda task: task.set_comment(HALF), "the text"),
        (lambda task: task.set_parameter(HALF, 1), "the text|parameter name"),
        (lambda task: task.connect({"a": HALF}), "parameter General/a"),
        (lambda task: task.set_user_properties(a=HALF), "parameter properties/a"),
        (lambda task: task.set_configuration_object("c", HALF), "the text"),
        (lambda task: task.get_logger().report_scalar(HALF, "s", 1.0, 1), "the text"),
        (lambda task: Task.get_task(task_id=HALF), "the text"),
        (lambda task: Task.create(project_name=HALF, task_name="x"), "the project name|the text"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_comes_in(store: Store, call: Callable[[Task], Any], what: str) -> None:
    task = Task.create(project_name="names", task_name="one")
    with pytest.raises(errors.UsageError, match=what) as caught:
        call(task)
    assert "half of a surrogate pair" in caught.value.cause and str(caught.value).isascii()
    assert store.database.rows("SELECT count(*) FROM task")[0][0] == 1


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (("nothing=1",), "has no parameter 'nothing'"),
        (("n=many",), "cannot read 'many' as int"),
        (("n:=nan",), "not JSON"),
        (('w:="\\ud800"',), "parameter Args/w"),
        (("w=\udcff",), "parameter Args/w"),
        ((f"{HALF}=1",), "has no parameter '\\ud800'"),
        (("n=1", "n=2"), "it is given twice: --set n=1 and --set n=2"),
        (("n=1", "n:=2"), "it is given twice: --set n=1 and --set n:=2"),
        (("n=1", "Args/n=2"), "n and Args/n are the same"),
    ],
)
def test_rerun_refuses_by_name_and_makes_no_run(store: Store, tmp_path: Path, pairs: tuple[str, ...], said: str) -> None:
    parameters = (
        tasks.Parameter("Args", "n", "1", "int", "1"),
        tasks.Parameter("Args", "w", "x", "", '"x"'),
    )
    entry = {"kind": "script", "cwd": str(tmp_path), "roots": [], "file": "flow.py", "source": "pass\n", "argv": []}
    new = tasks.NewTask("controller", "p", "names/.pipelines/p", entry, is_run=True, parameters=parameters)
    run = tasks.submit(store, new)
    code, output = command("rerun", run.uid, *(word for pair in pairs for word in ("--set", pair)))
    assert code == 2 and said in output, output
    assert store.database.rows("SELECT count(*) FROM task")[0][0] == 1
    if len(pairs) == 2 and "given twice" in said:
        Path("flow.py").write_text("raise SystemExit('it ran')\n")
        code, output = command("run", "flow.py", *(word for pair in pairs for word in ("--set", pair)))
        assert code == 2 and said in output and "it ran" not in output
