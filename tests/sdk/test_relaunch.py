"""A relaunched run gets the arguments that a fresh run with the same words gets: equal values of equal types."""

from __future__ import annotations

import enum
import itertools
import math
from pathlib import Path
from typing import Any, Literal

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minipipe import PipelineController, Task
from minipipe.engine import execution
from minipipe.sdk import launch, overrides, pipeline
from minipipe.sdk.definition import Definition, as_stored
from minipipe.store import edits, steering
from minipipe.store.home import Store


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBERS = st.integers(-(10**12), 10**12)
FLOATS = st.floats(allow_nan=False)
# annotation (None: none), value in code, texts that people may type for it
KINDS = st.one_of(
    st.tuples(st.sampled_from([int, None, int | None]), NUMBERS, st.one_of(NUMBERS.map(str), FLOATS.map(str))),
    st.tuples(st.sampled_from([float, None]), FLOATS, st.one_of(NUMBERS.map(str), FLOATS.map(str))),
    st.tuples(st.just(float), NUMBERS, FLOATS.map(str)),
    st.tuples(st.sampled_from([str, None]), PLAIN, PLAIN),
    st.tuples(st.just(str | None), st.none(), PLAIN),
    st.tuples(st.none(), st.none(), PLAIN),
    st.tuples(st.sampled_from([bool, None]), st.booleans(), st.sampled_from(["true", "False", "1", "0", "yes", "off"])),
    st.tuples(st.sampled_from([list, None, list[int]]), st.lists(NUMBERS, max_size=3), st.lists(NUMBERS, max_size=3).map(str)),
    st.tuples(st.sampled_from([tuple, None]), st.tuples(NUMBERS), st.sampled_from(["[1, 2]", "(1, a)", "[]", "[1.5, [2]]"])),
    st.tuples(st.just(tuple | None), st.none(), st.sampled_from(["[1, 2]", "", "(3,)"])),
    st.tuples(st.sampled_from([dict, None]), st.just({"a": 1}), st.sampled_from(['{"a": [1, null]}', "{a: 1, 2: b}", "{}"])),
    st.tuples(st.sampled_from([Color, Color | None]), st.just(Color.RED), st.sampled_from(["RED", "BLUE"])),
    st.tuples(st.none(), st.just(Color.RED), st.sampled_from(["RED", "BLUE"])),
    st.tuples(st.just(Literal["a", 2]), st.just("a"), st.sampled_from(["a", "2"])),
)
NAMES = (f"pipeline {number}" for number in itertools.count())


def same(one: Any, other: Any) -> bool:
    """Equal values of equal types, at any depth."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and repr(one) == repr(other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(KINDS, min_size=1, max_size=3), hidden=st.booleans())
@example(kinds=[(None, None, "[1]"), (tuple | None, None, "[1, 2]"), (Literal["a", 2], "a", "2")], hidden=False)
def test_a_relaunched_run_equals_a_fresh_run_with_those_parameters(
    home: Store, kinds: list[tuple[Any, Any, str]], hidden: bool
) -> None:
    code = {f"p{number}": value for number, (_, value, _) in enumerate(kinds)}
    types = {f"p{number}": kind for number, (kind, _, _) in enumerate(kinds) if kind is not None}
    words = {f"p{number}": text for number, (_, _, text) in enumerate(kinds)}
    definition = Definition(next(NAMES), "tests", types=types, sections={"p0": "Own"} if hidden else {})

    fresh = overrides.applied(definition.name, code, definition.known(code), words)

    made = launch.make(definition, code)
    cells = overrides.cells(definition.name, overrides.known_of(home, made.id), words)
    again = edits.clone(home, made.id, "again", parameters=cells)
    relaunched = overrides.stored(home, again.id, code, definition.known(code))

    assert fresh.keys() == relaunched.keys()
    for name in fresh:
        assert same(fresh[name], relaunched[name]), (name, fresh[name], relaunched[name])
    third = edits.clone(home, again.id, "a clone of the clone")
    assert repr(overrides.stored(home, third.id, code, definition.known(code))) == repr(relaunched)


def test_the_same_from_python_a_clone_is_told_and_queued(home: Store) -> None:
    pipe = PipelineController("walk", "tests", "1.0")
    pipe.add_parameter("n", 1, param_type="int")
    pipe.add_parameter("word", "x")
    assert pipe.task.status == "created"

    clone = PipelineController.clone(pipe)
    clone.task.set_parameters({"Args/n": "7", "Args/word": "y"})
    PipelineController.enqueue(clone, "night")
    twin = Task.clone(pipe.task.id, name="twin")
    twin.set_parameter("Args/n", 3)
    Task.enqueue(twin.id, "night")

    known = Definition("walk", "tests", types={"n": int}).known({"n": 1, "word": "x"})
    told = [overrides.stored(home, one.row_id, {"n": 1, "word": "x"}, known) for one in (clone.task, twin, pipe.task)]
    assert told == [{"n": 7, "word": "y"}, {"n": 3, "word": "x"}, {"n": 1, "word": "x"}]
    assert [task.status for task in (clone.task, twin, pipe.task)] == ["queued", "queued", "created"]
    steering.abort(home, [clone.task.row_id, twin.row_id])
    pipeline.write_down(None)


def test_how_a_pipeline_runs_may_be_changed_in_a_clone(home: Store) -> None:
    definition = Definition("pipe", "tests", default_queue="gpu", target_project="elsewhere", add_pipeline_tags=True)
    made = launch.make(definition, {"n": 1})
    task = Task.get_task(task_id=made.uid)
    assert {key: value for key, value in task.get_parameters(cast=True).items() if key != "Args/n"} == {
        "pipeline/default_queue": "gpu",
        "pipeline/target_project": "elsewhere",
        "pipeline/add_pipeline_tags": True,
    }

    clone = Task.clone(task)
    clone.set_parameter("pipeline/default_queue", "night")
    clone.set_parameter("pipeline/add_pipeline_tags", "false")
    clone.set_parameter("pipeline/target_project", "")

    told = as_stored(home, clone.row_id, definition)
    assert (told.default_queue, told.target_project, told.add_pipeline_tags) == ("night", None, False)
    assert as_stored(home, made.id, definition) == definition


def test_modules_that_a_queued_script_imports_are_watched_from_then_on(home: Store, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "deep.py").write_text("x = 1")
    (folder / "helper.py").write_text("import deep, json")
    (folder / "unused.py").write_text("")
    (folder / "main.py").write_text("import helper")
    task = Task.create("tests", "script", script=str(folder / "main.py"), working_directory=str(folder))
    assert "files" not in edits.facts(home, task.row_id)

    Task.enqueue(task, "night")

    files = edits.facts(home, task.row_id)["files"]
    assert {Path(file).name for file in files} == {"helper.py", "deep.py"}
    (folder / "deep.py").write_text("x = 2")
    assert execution.changed_files(edits.facts(home, task.row_id)) == [str(folder / "deep.py")]
    Task.dequeue(task)
    Task.enqueue(task, "night")
    assert execution.changed_files(edits.facts(home, task.row_id)) == []
