"""How arguments and results travel."""

from __future__ import annotations

import functools
import importlib
import math
import os
import random
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import neighbour
from cases import case, log_of, main, parameters, raised, rows, steps

from minipipe import PipelineDecorator, Task


def component(*names, **options):
    """A component with these return names."""
    return PipelineDecorator.component(return_values=list(names), **options)


# -- results ----------------------------------------------------------------------------------------------------------


@component("pair")
def pair():
    return 1, "two"


@component("a", "b", "c")
def three(value):
    return value


@PipelineDecorator.component(return_values="a, b")
def commas():
    return 1, 2


@PipelineDecorator.component(return_values=None)
def nothing():
    return 1


@component()
def nothing_either():
    return 1


@PipelineDecorator.component()
def default_name():
    return 2


@case
def one_name_holds_the_whole_returned_object_tuples_included():
    found = pair()
    assert found == (1, "two")
    assert found.__class__ is tuple


@case
def n_names_take_the_parts_of_a_tuple_or_list():
    assert [int(one) for one in three((1, 2, 3))] == [1, 2, 3]
    assert [int(one) for one in three([4, 5, 6])] == [4, 5, 6]


@case
def a_surplus_result_is_dropped_with_a_warning_in_the_log():
    assert [int(one) for one in three((1, 2, 3, 4))] == [1, 2, 3]
    assert "warning: the step returned 4 values for 3 names (a, b, c): the surplus is dropped" in log_of("three")


@case
def a_missing_result_is_none_with_a_warning_in_the_log():
    a, b, c = three((1, 2))
    assert (int(a), int(b)) == (1, 2)
    assert c == None  # noqa: E711
    assert not c
    assert "warning: the step returned 2 values for 3 names (a, b, c): missing ones are None" in log_of("three")


@case
def any_other_object_becomes_the_first_of_n_results():
    a, b, _ = three("text")
    assert a == "text"
    assert b == None  # noqa: E711
    assert "warning: the step returned 1 value for 3 names" in log_of("three")


@case
def a_single_string_with_commas_is_one_name_and_its_value_unpacks():
    first, second = commas()
    assert (first, second) == (1, 2)
    (task,) = rows("SELECT a.name FROM artifact a JOIN task t ON t.id = a.task_id WHERE t.parent_id = :run AND a.role = 'output'")
    assert task["name"] == "a, b"


@case
def no_return_names_give_none_and_store_nothing():
    assert nothing() is None
    assert nothing_either() is None


@case
def the_default_return_name_is_return_object():
    assert default_name() == 2
    assert parameters("default_name")["return/return_object"] == "2"


@component("value")
def same(value):
    return value


def scalar_texts():
    return {"int": (7, "7"), "float": (2.5, "2.5"), "bool": (True, "True"), "str": ("x", "x")}


@case
def scalar_results_are_return_parameters_and_come_back_typed():
    for kind, (value, text) in scalar_texts().items():
        found = same(value)
        assert found == value
        assert found.__class__.__name__ == kind
        name = list(steps())[-1]
        assert parameters(name)["return/value"] == text
        assert parameters(name)["kwargs/value"] == text


@case
def any_other_result_is_an_artifact_of_the_step_under_its_name():
    assert same([1, 2]) == [1, 2]
    task = Task.get_task(steps()["same"]["uid"])
    assert list(task.artifacts) == ["value"]
    assert task.artifacts["value"].get() == [1, 2]


@case
def floats_that_json_does_not_know_come_back():
    assert math.isnan(same(math.nan))
    assert same(-math.inf) == -math.inf
    assert same([math.inf, 1.5]) == [math.inf, 1.5]


@component("kind")
def kind_of(value):
    return f"{type(value).__module__}.{type(value).__qualname__}"


@case
def scalar_arguments_keep_their_type():
    for value in (1, 1.0, True, "1", None):
        assert kind_of(value) == f"builtins.{type(value).__name__}"


@case
def none_and_the_empty_text_differ():
    assert kind_of(None) == "builtins.NoneType"
    assert kind_of("") == "builtins.str"
    assert same(None) == None  # noqa: E711
    assert same("") == ""


# -- objects ----------------------------------------------------------------------------------------------------------


@component("text", "name", "writable")
def read(path):
    return path.read_text(), path.name, os.access(path, os.W_OK) and os.getuid() != 0


@component("tree")
def tree(path):
    return {str(one.relative_to(path)): one.read_text() for one in sorted(path.rglob("*")) if one.is_file()}


@case
def a_path_argument_that_exists_travels_as_its_content():
    path = Path("travels.txt")
    path.write_text("before")
    text, name, writable = read(path)
    assert (text, name, writable) == ("before", "travels.txt", False)
    path.write_text("after")
    assert read(path)[0] == "after"
    assert text == "before"


@case
def a_folder_travels_as_a_folder():
    Path("folder/inner").mkdir(parents=True)
    Path("folder/a.txt").write_text("a")
    Path("folder/inner/b.txt").write_text("b")
    assert tree(Path("folder")) == {"a.txt": "a", "inner/b.txt": "b"}


@component("path")
def write(text):
    path = Path("written-by-a-step.txt").absolute()
    path.write_text(text)
    return path


@component("size")
def spoil(path):
    path.chmod(0o600)
    path.write_text("spoilt")
    return path.stat().st_size


@case
def a_path_result_gives_a_path_of_a_read_only_copy():
    found = write("content")
    assert found.__class__ is type(Path())
    assert found.read_text() == "content"
    assert found.resolve() != Path("written-by-a-step.txt").resolve()
    assert found.stat().st_mode & 0o222 == 0
    Path("written-by-a-step.txt").write_text("changed")
    assert read(found)[0] == "content"
    assert spoil(found) == 6
    assert read(found)[0] == "content"


@case
def a_path_that_does_not_exist_stays_a_path():
    assert same(Path("no-such-file")) == Path("no-such-file")


@case
def bytes_come_back():
    assert same(b"\x00\xff") == b"\x00\xff"
    assert same(bytearray(b"ab")) == bytearray(b"ab")


@dataclass
class Point:
    x: int
    y: int = 0

    def moved(self):
        return Point(self.x + 1, self.y)


@component("point")
def move(point):
    assert isinstance(point, Point)
    return point.moved()


@component("points")
def make_points(n):
    return {"points": [Point(i) for i in range(n)]}


@case
def instances_of_classes_of_the_script_are_the_same_class_again_in_the_controller():
    found = move(Point(1))
    assert isinstance(found, Point)
    assert found.__class__ is Point
    assert found == Point(2)
    assert all(type(one) is Point for one in make_points(2)["points"])


@case
def results_of_custom_classes_travel_on_to_other_steps():
    assert move(move(Point(1))) == Point(3)


@case
def large_arguments_and_results_travel():
    text, table = "x" * 3_000_000, {str(i): [i] * 3 for i in range(50_000)}
    assert same(text) == text
    assert same(table) == table


@component("value")
def change(values):
    values.append(4)
    return values


@case
def a_step_works_on_a_copy_and_a_later_step_gets_the_stored_result():
    mine = [1, 2, 3]
    first = same(mine)
    assert change(first) == [1, 2, 3, 4]
    first.append(5)
    assert same(first) == [1, 2, 3]
    assert mine == [1, 2, 3]


@component("parts")
def parts(value):
    return [value["a"][0] + 1, value["b"], value["c"]["d"][1].x, value["e"]]


@case
def a_container_with_lazy_results_travels_as_such():
    point, number, text = move(Point(1)), same(4), same("t")
    value = {"a": (number, 1), "b": text, "c": {"d": [None, point]}, "e": [number, number]}
    assert parts(value) == [5, "t", 2, [4, 4]]


@case
def a_container_may_hold_the_same_lazy_result_and_large_values():
    one, big = same(1), "x" * 100_000
    assert same([one, big, {"one": one}]) == [1, big, {"one": 1}]


@component("n")
def size_of(value):
    return len(value)


@case
def a_result_in_a_set_or_an_attribute_is_fetched():
    assert size_of({same(1), same(1)}) == 1
    point = Point(same(3))
    assert move(point) == Point(4)


# -- how they are stored ----------------------------------------------------------------------------------------------


@case
def a_lazy_result_is_a_parameter_that_names_its_task():
    first = same([1])
    same(first)
    uid = steps()["same"]["uid"]
    assert parameters("same_1")["kwargs_artifacts/value"] == f"{uid}.value"


@case
def any_other_argument_is_a_parameter_that_names_what_is_passed():
    same([1])
    assert parameters("same")["kwargs_artifacts/value"].endswith(".result_same_value")


# -- signatures -------------------------------------------------------------------------------------------------------


@component("all")
def signature(a, b=2, *rest, c=3, **others):
    return [a, b, list(rest), c, others]


@component("all")
def positional(a, /, b, *, c=3):
    return [a, b, c]


@case
def defaults_are_applied_and_recorded():
    assert signature(1) == [1, 2, [], 3, {}]
    assert parameters("signature") == {"kwargs/a": "1", "kwargs/b": "2", "kwargs/c": "3"}


@case
def surplus_positional_arguments_are_stored_as_0_1_and_keyword_ones_by_name():
    assert signature(1, 5, 6, 7, c=8, d=9) == [1, 5, [6, 7], 8, {"d": 9}]
    found = parameters("signature")
    assert {found[f"kwargs/{name}"] for name in ("0", "1", "d")} == {"6", "7", "9"}


@case
def positional_only_and_keyword_only_arguments_work():
    assert positional(1, 2) == [1, 2, 3]
    assert positional(1, b=2, c=4) == [1, 2, 4]


@case
def a_required_argument_that_is_left_out_is_none_with_a_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = signature()
    assert found == [None, 2, [], 3, {}]
    (warning,) = caught
    assert "'a'" in str(warning.message)
    assert warning.filename == __file__


@case
def an_unknown_keyword_is_a_type_error_at_the_call():
    for wrong in (lambda: same(1, valeu=2), lambda: same(1, 2), lambda: same(1, value=2)):
        assert str(raised(TypeError, wrong))
    assert not steps()


# -- what a function names --------------------------------------------------------------------------------------------


def plus_ten(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs) + 10

    return wrapped


def plus_twenty(function):
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs) + 20

    return wrapped


@component("n")
@plus_ten
def with_wraps(n=1):
    return n


@component("n")
@plus_twenty
def without_wraps(n=2):
    return n


@component("n")
@plus_ten
@plus_twenty
def decorated_twice(n=3):
    return n


@case
def a_user_decorator_runs_in_the_step_and_hides_neither_name_nor_defaults():
    assert (with_wraps(), without_wraps(), decorated_twice()) == (11, 22, 33)
    assert list(steps()) == ["with_wraps", "without_wraps", "decorated_twice"]
    assert parameters("without_wraps")["kwargs/n"] == "2"


FACTOR = 3


def scale(n):
    return n * FACTOR


@component("n")
def uses_globals(n):
    return scale(n) + math.floor(1.5) + len(os.sep)


@case
def functions_constants_and_imports_of_the_module_travel():
    assert uses_globals(2) == 8


@component("n", helper_functions=[neighbour.double])
def calls_helper(n):
    return double(n) + 100  # noqa: F821


@case
def helper_functions_can_be_called_by_name():
    assert calls_helper(1) == 102


@component("n")
def uses_neighbour(n):
    return neighbour.double(n)


@component("n")
def imports_neighbour(n):
    import neighbour as other
    from neighbour import double

    return double(n) + other.double(1)


@case
def modules_next_to_the_script_are_importable_in_the_step():
    assert uses_neighbour(2) == 4
    assert imports_neighbour(2) == 6


@component("n")
def tries_neighbour():
    try:
        import neighbour
    except ImportError:
        return "not importable"
    return neighbour.__name__


@case(enable_local_imports=False)
def without_local_imports_modules_next_to_the_script_are_not_importable():
    assert tries_neighbour() == "not importable"


@case
def with_local_imports_modules_next_to_the_script_are_importable():
    assert tries_neighbour() == "neighbour"


@component("where")
def whereabouts():
    import sys

    return [os.getcwd(), sys.executable]


@case
def a_step_runs_in_the_controllers_folder_with_its_python():
    import sys

    assert whereabouts() == [os.getcwd(), sys.executable]


def make_adder(n):
    @component("n", name="adder")
    def add(m):
        return m + n

    return add


@case
def closures_travel_with_what_they_close_over():
    assert make_adder(5)(1) == 6
    assert make_adder(7)(1) == 8
    assert list(steps()) == ["adder", "adder_1"]


power = PipelineDecorator.component(return_values=["n"], name="power")(lambda n: n**2)


@case
def a_lambda_is_a_step_too():
    assert power(4) == 16


@case
def a_component_of_an_importable_module_runs_by_name():
    assert neighbour.tripled(2) == 6
    (entry,) = [step["entry"] for step in steps().values()]
    assert '"kind": "import"' in entry


@case
def components_may_be_made_and_imported_while_the_logic_runs():
    Path("imported_late.py").write_text(
        "from minipipe import component\n@component(return_values=['n'])\ndef late(n):\n    return n + 1\n"
    )

    @component("n")
    def made_late(n):
        return n * 10

    importlib.invalidate_caches()
    sys.path.insert(0, os.getcwd())
    import imported_late

    assert made_late(imported_late.late(1)) == 20
    assert list(steps()) == ["late", "made_late"]


@component("n")
def calls_another():
    return same(3)


LOCK = threading.Lock()


@component("n")
def uses_a_lock():
    with LOCK:
        return 1


@case
def a_global_that_cannot_travel_is_an_error_at_the_call_that_names_step_name_and_type():
    error = raised(TypeError, uses_a_lock)
    assert "'uses_a_lock'" in str(error)
    assert "'LOCK'" in str(error)
    assert "_thread.lock" in str(error)
    assert "hint:" in str(error)
    assert not steps()


@case
def an_argument_that_cannot_travel_is_an_error_at_the_call_that_names_step_argument_and_type():
    error = raised(TypeError, lambda: same(threading.Lock()))
    assert "same()" in str(error)
    assert "'value'" in str(error)
    assert "_thread.lock" in str(error)
    assert not steps()


@case
def a_call_that_fails_uses_up_no_name():
    same(1)
    for _ in range(2):
        raised(TypeError, lambda: same(threading.Lock()))
    same(2)
    assert list(steps()) == ["same", "same_1"]


FLAG = {"value": "at import"}


@component("flag")
def flag():
    return FLAG["value"]


@case
def globals_travel_as_they_stand_at_the_call():
    assert flag() == "at import"
    FLAG["value"] = "at the call"
    found = flag()
    FLAG["value"] = "later"
    assert found == "at the call"


@component("drawn")
def draws():
    return random.random()


@case
def the_seed_that_a_script_sets_reaches_its_steps():
    assert float(draws()) == random.Random(1337).random()
    Task.set_random_seed(7)
    try:
        assert [float(draws()), float(draws())] == [random.Random(7).random()] * 2
    finally:
        Task.set_random_seed(1337)


@case
def an_argument_that_is_no_parameter_is_an_artifact_of_the_pipeline_called_result_step_argument():
    assert list(same([5, 6])) == [5, 6]
    pipeline = Task.current_task()
    assert parameters("same")["kwargs_artifacts/value"] == f"{pipeline.id}.result_same_value"
    assert pipeline.artifacts["result_same_value"].get() == [5, 6]


if __name__ == "__main__":
    main()
