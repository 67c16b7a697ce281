"""Calling components: laziness, parallelism, edges, names."""

from __future__ import annotations

from pathlib import Path

from cases import case, edges, ended, main, note, noted, raised, steps, wait_for

from minipipe import PipelineDecorator, Task, TaskTypes
from minipipe.sdk.proxy import is_lazy, peek


@PipelineDecorator.component(return_values=["n"])
def number(n=1):
    return n


@PipelineDecorator.component(return_values=["a", "b"])
def two(n=1):
    return n, n + 1


@PipelineDecorator.component(return_values=["n"])
def when(path):
    wait_for(path)
    return 1


@PipelineDecorator.component(return_values=["name"])
def meet(mine, other):
    Path(mine).touch()
    wait_for(other)
    return mine


@PipelineDecorator.component(return_values=["total"])
def total(items):
    return sum(items.values() if isinstance(items, dict) else items)


@PipelineDecorator.component(return_values=["deep"])
def deep(thing):
    return thing["rows"][0][1] + thing["rows"][1]["x"]


@PipelineDecorator.component(return_values=["total"])
def surplus(first, *others, **named):
    return [first, *others, named]


# -- lazy and parallel ------------------------------------------------------------------------------------------------


@case
def calling_a_component_makes_one_step_task_and_returns_at_once_with_a_lazy_result():
    result = when("go-at-once")
    assert is_lazy(result)
    assert peek(result) == (False, None)
    assert list(steps()) == ["when"]
    Path("go-at-once").touch()
    assert result == 1
    assert list(steps()) == ["when"]


@case
def several_names_give_a_plain_list_of_lazy_results():
    results = two()
    assert type(results) is list
    assert [is_lazy(one) for one in results] == [True, True]
    a, b = results
    assert (a, b) == (1, 2)


@case
def passing_a_lazy_result_on_does_not_wait():
    first = when("go-pass-on")
    second = number([first, {"x": first}])
    assert peek(first) == (False, None)
    Path("go-pass-on").touch()
    assert second == [1, {"x": 1}]


@case
def two_steps_that_wait_for_each_other_both_complete():
    left, right = meet("here-left", "here-right"), meet("here-right", "here-left")
    assert (left, right) == ("here-left", "here-right")


@case
def a_loop_of_calls_runs_its_steps_in_parallel():
    found = [meet(f"loop-{i}", f"loop-{(i + 1) % 3}") for i in range(3)]
    assert found == ["loop-0", "loop-1", "loop-2"]


# -- edges ------------------------------------------------------------------------------------------------------------


@case
def edges_come_from_data_and_from_nothing_else():
    a, b = number(1), number(2)
    number(a)
    assert edges() == {("number", "data", "number_2")}
    assert total([a, b]) == 3


@case
def an_edge_comes_from_a_result_in_a_list():
    a, b = number(1), number(2)
    assert total([a, b, 4]) == 7
    assert edges() == {("number", "data", "total"), ("number_1", "data", "total")}


@case
def an_edge_comes_from_a_result_in_a_dict():
    assert total({"a": number(1), "b": 4}) == 5
    assert edges() == {("number", "data", "total")}


@case
def an_edge_comes_from_a_result_in_a_tuple():
    assert total((number(1), 4)) == 5
    assert edges() == {("number", "data", "total")}


@case
def edges_come_from_results_at_any_depth():
    a, b = two(5)
    assert deep({"rows": [(0, a), {"x": b}]}) == 11
    assert edges() == {("two", "data", "deep")}


@case
def edges_come_from_surplus_positional_and_keyword_arguments():
    found = surplus(number(1), number(2), number(3), x=number(4), y=[number(5)])
    assert found == [1, 2, 3, {"x": 4, "y": [5]}]
    assert {parent for parent, _, _ in edges()} == {"number", "number_1", "number_2", "number_3", "number_4"}


@PipelineDecorator.component(return_values=[])
def early():
    wait_for("go-early")
    note("order", "early")


@PipelineDecorator.component(return_values=[], parents=["early"])
def late():
    note("order", "late")


@case
def a_step_waits_for_its_explicit_parents():
    early()
    late()
    assert edges() == {("early", "order", "late")}
    assert steps()["late"]["status"] == "pending"
    Path("go-early").touch()
    ended("late")
    assert noted("order") == ["early", "late"]


@PipelineDecorator.component(return_values=["n"], parents=["nuber"])
def orphan():
    return 1


@case
def a_parent_that_is_no_step_is_an_error_at_the_call_that_names_the_nearest_one():
    number()
    error = raised(ValueError, orphan)
    assert "'nuber'" in str(error)
    assert "'number'" in str(error)
    assert list(steps()) == ["number"]


@case
def using_a_value_gives_a_control_edge_to_the_steps_that_are_called_afterwards():
    if number(1) == 1:
        number(2)
    assert edges() == {("number", "control", "number_1")}


@case
def a_data_edge_is_not_shown_as_a_control_edge_too():
    a = number(1)
    assert a == 1
    number(a)
    assert edges() == {("number", "data", "number_1")}


# -- names ------------------------------------------------------------------------------------------------------------


@PipelineDecorator.component(return_values=["n"], name="number_1")
def taken():
    return 0


@case
def repeated_calls_are_called_name_name_1_name_2():
    for n in range(3):
        number(n)
    assert list(steps()) == ["number", "number_1", "number_2"]


@case
def taken_names_are_left_out():
    taken()
    for n in range(3):
        number(n)
    assert list(steps()) == ["number_1", "number", "number_2", "number_3"]


@PipelineDecorator.component(return_values=["n"], name="a step's own name", task_type="qc", tags=["red", "blue"])
def described():
    return 1


@PipelineDecorator.component(return_values=["n"], task_type=TaskTypes.data_processing, tags="green")
def typed():
    return 1


@case
def name_task_type_and_tags_are_those_of_the_step_task():
    described()
    typed()
    pipeline = PipelineDecorator.get_current_pipeline()
    found = [Task.get_task(step["uid"]) for step in steps().values()]
    assert [(one.name, one.task_type, one.get_tags()) for one in found] == [
        ("a step's own name", "qc", ["blue", "red"]),
        ("typed", "data_processing", ["green"]),
    ]
    assert {one.parent for one in found} == {pipeline.id}


@case
def the_step_task_lives_in_the_project_of_its_pipeline():
    number()
    (uid,) = [step["uid"] for step in steps().values()]
    name = "the_step_task_lives_in_the_project_of_its_pipeline"
    assert Task.get_task(uid).get_project_name() == f"tests/.pipelines/{name}"
    assert PipelineDecorator.get_current_pipeline().task.get_project_name() == f"tests/.pipelines/{name}"


@case(target_project="elsewhere", add_pipeline_tags=True)
def target_project_and_pipeline_tags_hold_for_every_step():
    number()
    (uid,) = [step["uid"] for step in steps().values()]
    assert Task.get_task(uid).get_project_name() == "elsewhere"
    assert Task.get_task(uid).get_tags() == [f"pipe: {PipelineDecorator.get_current_pipeline().id}"]


@case(target_project=True)
def target_project_true_is_the_project_of_the_pipeline_itself():
    number()
    (uid,) = [step["uid"] for step in steps().values()]
    assert Task.get_task(uid).get_project_name() == PipelineDecorator.get_current_pipeline().task.get_project_name()


if __name__ == "__main__":
    main()
