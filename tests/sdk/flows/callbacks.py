"""Callbacks of steps: when they run, what they get, what they can do."""

from __future__ import annotations

import os
from pathlib import Path

from cases import case, ended, main, note, noted, parameters, steps, wait_for

from minipipe import PipelineDecorator, Task

CONTROLLER = os.getpid()


def component(**options):
    """A component with one result, ``n``."""
    return PipelineDecorator.component(return_values=["n"], **options)


def heard(file, what):
    """A callback that notes what it gets."""

    def callback(pipeline, node, *rest):
        assert os.getpid() == CONTROLLER
        note(file, f"{what} {node.name} {node.status} {rest}")

    return callback


def all_three(file):
    return {
        "pre_execute_callback": heard(file, "pre"),
        "post_execute_callback": heard(file, "post"),
        "status_change_callback": heard(file, "status"),
    }


@component()
def number(n=1):
    return n


@component(name="first", **all_three("order-of-callbacks"))
def first(n):
    return n


@component(name="second", pre_execute_callback=heard("order-of-callbacks", "pre"))
def second(n):
    note("order-of-callbacks", "run second")
    return n


@case
def pre_runs_before_launch_post_after_the_end_and_before_children_launch():
    assert second(first(3)) == 3
    lines = [line for line in noted("order-of-callbacks") if not line.startswith("status")]
    assert lines == [
        "pre first pending ({'kwargs/n': 3},)",
        "post first completed ()",
        lines[2],
        "run second",
    ]
    assert lines[2].startswith("pre second pending ")


@component(name="changing", status_change_callback=heard("changes", "status"))
def changing():
    return 1


@case
def the_status_callback_hears_each_change_in_order_with_the_previous_status():
    assert changing() == 1
    while len(noted("changes")) < 3:
        ended("changing")
    assert [line.split()[-1] for line in noted("changes")] == ["('pending',)", "('queued',)", "('running',)"]


def hear_words(pipeline, node, previous):
    note("words", f"{previous}->{node.status}")


@component(name="worded", status_change_callback=hear_words)
def worded():
    raise KeyError("worded")


@case(ends="failed")
def the_node_has_the_new_status_when_the_status_callback_hears_of_it():
    worded()
    ended("worded")
    while len(noted("words")) < 3:
        ended("worded")
    assert noted("words") == ["pending->queued", "queued->running", "running->failed"]


def look(pipeline, node, values):
    task = Task.get_task(node.job.task_id())
    note("looked", f"{pipeline.id == task.parent} {task.name} {task.status} {node.job.status()} {node.executed} {values}")


@component(name="looked_at", pre_execute_callback=look)
def looked_at(n, m=2):
    return n + m


@case
def the_pre_callback_gets_pipeline_node_with_its_job_and_parameters():
    assert looked_at(1) == 3
    assert noted("looked") == ["True looked_at pending pending None {'kwargs/n': 1, 'kwargs/m': 2}"]


def look_after(pipeline, node):
    job = node.job
    note("looked-after", f"{node.status} {node.executed == job.task_id()} {job.is_completed()} {job.elapsed() >= 0}")


@component(name="looked_after", post_execute_callback=look_after)
def looked_after():
    return 1


@case
def the_post_callback_sees_the_final_end():
    assert looked_after() == 1
    assert noted("looked-after") == ["completed True True True"]


def refuse(pipeline, node, values):
    return False


@component(name="refused", pre_execute_callback=refuse, post_execute_callback=heard("refused", "post"))
def refused(n):
    note("refused", "ran")
    return n


@component()
def after_refused(n):
    note("refused", "child ran")
    return n


@case
def false_from_the_pre_callback_skips_the_step_and_its_descendants_and_does_not_fail_the_pipeline():
    result = refused(1)
    child = after_refused(result)
    assert result == None  # noqa: E711
    assert child == None  # noqa: E711
    assert [step["status"] for step in steps().values()] == ["skipped", "skipped"]
    assert noted("refused") == []


def nearly_refuse(pipeline, node, values):
    return 0


@component(name="nearly_refused", pre_execute_callback=nearly_refuse)
def nearly_refused():
    return 1


@case
def only_exactly_false_skips():
    assert nearly_refused() == 1


def change(pipeline, node, values):
    values["kwargs/n"] = values["kwargs/n"] * 10
    values["kwargs/items"] = [7]


@component(name="changed", pre_execute_callback=change)
def changed(n, items=()):
    return [n, list(items)]


@case
def changed_parameters_take_effect():
    assert changed(2) == [20, [7]]
    assert parameters("changed")["kwargs/n"] == "20"


def leave_the_lazy_one(pipeline, node, values):
    values["kwargs/m"] = 5


@component(name="half_lazy", pre_execute_callback=leave_the_lazy_one)
def half_lazy(n, m=0):
    return n + m


@case
def changing_one_parameter_leaves_a_lazy_one_a_reference():
    assert half_lazy(number(4)) == 9
    uid = steps()["number"]["uid"]
    assert parameters("half_lazy")["kwargs_artifacts/n"] == f"{uid}.n"


@case
def a_step_that_closes_over_a_lazy_result_waits_for_it_and_its_callbacks():
    lazy = changed(3)

    @component(name="closing")
    def closing():
        return lazy[0] + 1

    assert closing() == 31


@case(ends="failed", raises="OfTheCallback")
def a_call_that_waits_for_a_step_whose_callback_raises_gets_that_error():
    lazy = exploding()

    @component(name="closing")
    def closing():
        note("exploding", "closing ran")
        return lazy + 1

    closing()


def stop(pipeline, node):
    pipeline.stop()
    note("stopping", "stopped")


@component(name="stops", post_execute_callback=stop)
def stops():
    wait_for("go-stop")
    return 1


@case
def a_callback_may_stop_the_pipeline():
    child = after_refused(stops())
    Path("go-stop").touch()
    assert child == None  # noqa: E711
    wait_for("stopping")  # `stop` returns in the callback's own thread
    assert noted("stopping") == ["stopped"]
    assert [step["status"] for step in steps().values()] == ["completed", "skipped"]


class OfTheCallback(Exception):
    """What a bad callback raises."""


def explode(pipeline, node, *values):
    raise OfTheCallback("boom")


@component(name="exploding", pre_execute_callback=explode)
def exploding():
    note("exploding", "ran")
    return 1


@component(name="exploding_after", post_execute_callback=explode)
def exploding_after():
    wait_for("go-explode")
    return 1


@component()
def child_of_explosion(n):
    note("exploding", "child ran")
    return n


@case(ends="failed", raises="OfTheCallback")
def an_exception_in_a_pre_callback_fails_the_pipeline_with_that_error():
    int(exploding())
    note("exploding", "went on")


@case(ends="failed")
def an_exception_in_a_post_callback_fails_the_pipeline_with_that_error():
    child_of_explosion(exploding_after())
    Path("go-explode").touch()


@component(name="status_explodes", status_change_callback=explode)
def status_explodes():
    return 1


@case
def an_exception_in_a_status_callback_is_logged_only():
    assert status_explodes() == 1


@component(name="again", **all_three("again"))
def again(n):
    return n


@case
def callbacks_hold_for_each_call_of_a_component():
    assert [int(again(n)) for n in range(3)] == [0, 1, 2]
    for name in ("again", "again_1", "again_2"):
        lines = [line.split()[0] for line in noted("again") if line.split()[1] == name]
        assert lines[0] == "pre"
        assert lines.count("post") == 1


@component(name="broken", post_execute_callback=heard("broken", "post"))
def broken():
    raise KeyError("broken")


@case(ends="failed")
def the_post_callback_runs_for_a_failed_step_too():
    broken()
    ended("broken")
    while not noted("broken"):
        ended("broken")
    assert noted("broken") == ["post broken failed ()"]


@component(name="kept", cache=True, **all_three("kept"))
def kept(n):
    note("kept-ran")
    return n


@case
def callbacks_run_for_a_cached_step_as_for_any_other():
    assert kept(1) == 1
    assert kept(1) == 1
    assert noted("kept-ran") == ["x"]
    lines = [line for line in noted("kept") if " kept_1 " in line]
    assert lines[0].startswith("pre kept_1 pending")
    assert "post kept_1 cached ()" in lines


@case
def a_changed_parameter_decides_what_the_cache_serves():
    for n in (1, 2):
        assert keyed(n) == 5
    assert noted("keyed-ran") == ["x"]


def make_five(pipeline, node, values):
    values["kwargs/n"] = 5


@component(name="keyed", cache=True, pre_execute_callback=make_five)
def keyed(n):
    note("keyed-ran")
    return n


if __name__ == "__main__":
    main()
