"""Controllers whose steps are copies of templates: references, overrides, cache, limits. ``copies.py local|remote [CASE ...]``

A case is a generator: it adds steps, yields when the pipeline is to run, and asserts what it finds then.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import neighbour
from cases import PATIENCE_S, note, noted, raised, wait_for

from minipipe import OutputModel, PipelineController, Task

CASES: dict[str, tuple[Callable[..., Iterator[None]], dict[str, Any]]] = {}
TEMPLATE = {"base_task_project": "tests", "base_task_name": "template"}


def case(_function: Any = None, *, ends: str = "completed", **options: Any) -> Any:
    """Make a generator a case.

    Args:
        ends: status that its run must end with; the reader of the script takes it from the text.
        options: of the controller.
    """

    def decorate(function: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
        CASES[function.__name__] = function, options
        return function

    return decorate(_function) if _function is not None else decorate


def copy(pipe: PipelineController, name: str, override: dict[str, Any] | None = None, **options: Any) -> None:
    """Add a copy of the template; bare keys are in General."""
    full = {key if "/" in key else f"General/{key}": value for key, value in (override or {}).items()}
    pipe.add_step(name, parameter_override=full, **{**TEMPLATE, **options})


def told(pipe: PipelineController, name: str, cast: bool = True) -> dict[str, Any]:
    """Parameters of a step, by bare key."""
    found = step(pipe, name).get_parameters(cast=cast)
    return {key.partition("/")[2]: value for key, value in found.items()}


def step(pipe: PipelineController, name: str) -> Task:
    """The task of a step."""
    return Task.get_task(task_id=pipe.get_pipeline_dag()[name].job.task_id())


def statuses(pipe: PipelineController) -> dict[str, str]:
    """Step -> status of its node."""
    return {name: node.status for name, node in pipe.get_pipeline_dag().items()}


def show(*values, **more):
    note("shown", json.dumps([*values, more]))
    return "done"


def helping(n):
    return n + 100


def to_bytes(value):
    return b"mine:" + json.dumps(value).encode()


def from_bytes(data):
    assert data.startswith(b"mine:")
    return json.loads(data[5:])


def listed(items):
    return [Task.current_task().name, items]


# -- references -------------------------------------------------------------------------------------------------------


@case
def a_pipeline_parameter_alone_is_typed_and_inside_text_it_is_text(pipe):
    pipe.add_parameter("n", 7)
    pipe.add_parameter("rate", 0.25)
    pipe.add_parameter("items", [3, 4])
    pipe.add_parameter("nothing")
    override = {"n": "${pipeline.n}", "rate": "${pipeline.rate}", "items": "${pipeline.items}", "note": "typed"}
    copy(pipe, "a", {**override, "text": "n=${pipeline.n}, ${pipeline.rate}; ${pipeline.items} ${pipeline.nothing}"})
    yield
    assert noted("typed") == [json.dumps([7, 0.25, "n=7, 0.25; [3, 4] None", [3, 4]])]
    assert told(pipe, "a")["n"] == 7
    assert told(pipe, "a")["items"] == [3, 4]


@case
def a_reference_to_a_step_is_filled_in_when_the_step_has_ended(pipe):
    copy(pipe, "a", {"n": 3})
    text = "id ${a.id}, ${a.artifacts.out.url} of ${a.parameters.General/n}"
    more = {"t/metadata": "${a.artifacts.out.metadata.kind of}", "t/dotted": "${a.artifacts.a\\.dotted name.name}"}
    copy(pipe, "b", {"text": text, "n": "${a.parameters.General/n}", "note": "filled", **more})
    yield
    uid, url = step(pipe, "a").id, step(pipe, "a").artifacts["out"].url
    assert noted("filled") == [json.dumps([3, 0.5, f"id {uid}, {url} of 3", [1, 2]])]
    assert told(pipe, "b")["metadata"] == "small"
    assert told(pipe, "b")["dotted"] == "a.dotted name"
    assert told(pipe, "b")["n"] == 3, "a text keeps the type of its cell"
    assert pipe.get_pipeline_dag()["b"].parents == ["a"]


def two_models():
    for name, text in (("first", "1"), ("second", "22")):
        Path(f"{name}.bin").write_text(text)
        OutputModel(Task.current_task(), name=name).update_weights(f"{name}.bin", auto_delete_file=False)


@case
def a_reference_to_a_model_gives_what_is_known_of_it(pipe):
    pipe.add_function_step("a", two_models)
    copy(pipe, "b", {"text": "${a.models.output.-1.name} ${a.models.output.0.name} ${a.models.output.-1.url}", "note": "models"})
    yield
    model = step(pipe, "a").models["output"][-1]
    assert json.loads(noted("models")[0])[2] == f"second first {model.url}"
    assert model.url.startswith("minipipe://")
    assert pipe.get_pipeline_dag()["b"].parents == ["a"]


@case
def references_inside_lists_and_dicts_are_filled_in_and_make_parents(pipe):
    pipe.add_parameter("n", 5)
    copy(pipe, "a", {"text": 'quotes " and \\'})
    copy(pipe, "b", {"items": ["${a.parameters.General/text}", {"deep": ["${pipeline.n}", "x${a.id}"]}], "note": "deep"})
    yield
    assert json.loads(noted("deep")[0])[3] == ['quotes " and \\', {"deep": [5, f"x{step(pipe, 'a').id}"]}]
    assert pipe.get_pipeline_dag()["b"].parents == ["a"]


@case
def functions_take_results_texts_and_parameters_at_any_depth(pipe):
    pipe.add_parameter("n", 5)
    pipe.add_function_step("f", lambda: ([1, 2], 3), function_return=["x", "y"])
    copy(pipe, "a", {"n": 4})
    values = {
        "alone": "${f.x}",
        "scalar": "${f.y}",
        "typed": "${pipeline.n}",
        "text": "${pipeline.n} of ${a.id}",
        "inside": ["${f.x}", {"${pipeline.n}": ("${a.parameters.General/n}", "${f.parameters.return/y}!")}],
    }
    pipe.add_function_step("g", show, values)
    yield
    (more,) = [more for *_, more in map(json.loads, noted("shown")) if "alone" in more]  # other cases show things too
    assert more == {
        "alone": [1, 2],
        "scalar": 3,
        "typed": 5,
        "text": f"5 of {step(pipe, 'a').id}",
        "inside": [[1, 2], {"5": ["4", "3!"]}],
    }
    assert sorted(pipe.get_pipeline_dag()["g"].parents) == ["a", "f"]


@case(ends="failed")
def a_missing_artifact_fails_the_step_with_that_reason_and_nothing_hangs(pipe):
    copy(pipe, "a")
    copy(pipe, "b", {"text": "${a.artifacts.absent.url}"})
    copy(pipe, "c", {"text": "${b.id}"})
    pipe.add_function_step("f", show, {"deep": ["${a.parameters.General/absent}"]})
    yield
    assert statuses(pipe) == {"a": "completed", "b": "failed", "c": "skipped", "f": "failed"}
    assert step(pipe, "b").get_status_message() == "parameter General/text: step 'a' has no artifact 'absent'"
    assert "step 'a' has no parameter 'General/absent'" in step(pipe, "f").get_status_message()


@case
def the_queue_of_a_step_may_be_a_parameter_of_the_pipeline(pipe):
    pipe.add_parameter("where", "other")
    pipe.set_default_execution_queue("third")
    copy(pipe, "a", execution_queue="${pipeline.where}")
    copy(pipe, "b")
    yield
    assert step(pipe, "a").get_executed_queue(return_name=True) == "other"
    assert step(pipe, "b").get_executed_queue(return_name=True) == "third"


# -- copies -----------------------------------------------------------------------------------------------------------


@case
def a_copy_is_a_task_of_its_own_and_the_template_stays_as_it_was(pipe):
    template = Task.get_task(project_name="tests", task_name="template")
    before = template.get_parameters()
    copy(pipe, "a", {"n": 9}, base_task_id=template.id, base_task_project=None, base_task_name=None)
    assert pipe.get_pipeline_dag()["a"].base_task_id == template.id
    yield
    assert step(pipe, "a").id != template.id
    assert step(pipe, "a").parent == pipe.id
    assert step(pipe, "a").get_project_name() == pipe.task.get_project_name()
    assert (template.status, template.get_parameters(), list(template.artifacts)) == ("created", before, [])


@case
def a_text_keeps_the_type_of_its_cell_and_another_value_sets_its_own(pipe):
    copy(pipe, "a", {"n": "12", "rate": 3, "note": "cells"})
    yield
    assert noted("cells") == [json.dumps([12, 3.0, "", [1, 2]])]
    assert told(pipe, "a")["n"] == 12


def set_n(pipeline, node, values):
    note("override", json.dumps({key: values[key] for key in sorted(values)}))
    values["General/n"] = 100
    values["General/text"] = "by the callback"
    del values["General/rate"]


@case
def the_callback_of_a_copy_sees_its_overrides_resolved_and_may_change_them(pipe):
    copy(pipe, "a", {"n": 2})
    override = {"n": 3, "rate": 0.9, "text": "${a.parameters.General/n}", "note": "changed copy"}
    copy(pipe, "b", override, pre_execute_callback=set_n)
    yield
    seen = {"General/n": 3, "General/note": "changed copy", "General/rate": 0.9, "General/text": "2"}
    assert noted("override") == [json.dumps(seen)]
    assert noted("changed copy") == [json.dumps([100, 0.5, "by the callback", [1, 2]])]


@case
def configurations_of_a_copy_can_be_overridden(pipe):
    copy(pipe, "a", configuration_overrides={"General": {"x": 1}, "raw": "a = ${b.c}"})
    yield
    assert step(pipe, "a").get_configuration_object("raw") == "a = ${b.c}"
    assert json.loads(step(pipe, "a").get_configuration_object("General")) == {"x": 1}


@case(add_pipeline_tags=True, target_project="elsewhere")
def pipeline_tags_and_target_project_hold_for_copies_and_functions(pipe):
    copy(pipe, "a")
    pipe.add_function_step("f", show, tags=["mine"], project_name="ignored")
    yield
    for name, own in (("a", []), ("f", ["mine"])):
        assert step(pipe, name).get_tags() == sorted([f"pipe: {pipe.id}", *own])
        assert step(pipe, name).get_project_name() == "elsewhere"


@case(target_project=None)
def without_a_target_project_a_function_step_lives_where_it_says(pipe):
    pipe.add_function_step("f", show, project_name="its own")
    pipe.add_function_step("g", show)
    yield
    assert step(pipe, "f").get_project_name() == "its own"
    assert step(pipe, "g").get_project_name() == pipe.task.get_project_name()


@case
def independent_steps_run_at_the_same_time(pipe):
    for name, other in (("a", "b"), ("b", "a")):
        pipe.add_function_step(name, meet, {"mine": f"here-{name}", "other": f"here-{other}"})
    yield
    assert statuses(pipe) == {"a": "completed", "b": "completed"}


def meet(mine, other):
    Path(mine).touch()
    wait_for(other)


@case
def all_arguments_of_a_function_take_their_defaults(pipe):
    pipe.add_function_step("f", defaults)
    pipe.add_function_step("g", defaults, {"b": [5]})
    yield
    assert told(pipe, "f") == {"a": 1, "c": "x"} | {"b": told(pipe, "f")["b"]}
    assert sorted(noted("defaults")) == [json.dumps([1, [2], "x"]), json.dumps([1, [5], "x"])]


def defaults(a=1, b=(2,), c="x"):
    note("defaults", json.dumps([a, list(b), c]))


# -- failures ---------------------------------------------------------------------------------------------------------


@case(ends="failed")
def a_failed_copy_skips_its_children_and_other_branches_go_on(pipe):
    copy(pipe, "a", {"fails": True})
    copy(pipe, "b", parents=["a"])
    copy(pipe, "c")
    yield
    assert statuses(pipe) == {"a": "failed", "b": "skipped", "c": "completed"}
    assert set(pipe.get_processed_nodes()) == {"c"}
    assert pipe.get_running_nodes() == {}
    assert not pipe.is_successful()
    assert pipe.is_successful(fail_condition="aborted")
    assert not pipe.is_successful(fail_condition="failed")


@case
def a_tolerated_failure_completes_the_pipeline_which_is_not_successful_by_its_steps(pipe):
    copy(pipe, "a", {"fails": True}, continue_on_fail=True)
    copy(pipe, "b", parents=["a"])
    yield
    assert statuses(pipe) == {"a": "failed", "b": "skipped"}
    assert pipe.get_pipeline_dag()["a"].executed == step(pipe, "a").id
    assert pipe.get_pipeline_dag()["b"].skip_job
    assert not pipe.is_successful()
    assert pipe.is_successful(fail_on_step_fail=False)


@case(ends="failed")
def copies_are_retried_and_limited_in_time_like_functions(pipe):
    copy(pipe, "a", {"fails": True}, retry_on_failure=1)
    copy(pipe, "b", {"waits": "never-comes"}, time_limit=0.4)
    yield
    attempts = {name: step(pipe, name)._column("attempt") for name in ("a", "b")}
    assert attempts == {"a": 2, "b": 1}
    assert "0.4" in step(pipe, "b").get_status_message()


@case(ends="failed")
def a_pipeline_over_its_time_limit_stops_its_steps_and_fails(pipe):
    pipe.set_pipeline_execution_time_limit(0.6 / 60)
    copy(pipe, "a", {"waits": "never-comes"})
    copy(pipe, "b", parents=["a"])
    started = time.monotonic()
    yield
    assert time.monotonic() - started < PATIENCE_S / 2
    assert statuses(pipe) == {"a": "aborted", "b": "skipped"}


# -- the cache --------------------------------------------------------------------------------------------------------


@case
def a_copy_is_served_from_the_cache_unless_it_is_told_something_else(pipe):
    copy(pipe, "a", {"n": 31}, cache_executed_step=True)
    copy(pipe, "same", {"n": 31}, cache_executed_step=True, parents=["a"], monitor_metrics=[("loss", "train")])
    copy(pipe, "other", {"n": 32}, cache_executed_step=True, parents=["a"])
    copy(pipe, "uncached", {"n": 31}, parents=["a"])
    yield
    assert statuses(pipe) == {"a": "completed", "same": "cached", "other": "completed", "uncached": "completed"}
    assert step(pipe, "same").artifacts["out"].get() == {"n": 31}
    assert pipe.task.get_reported_scalars()["loss"]["train"]["y"] == [0, 31, 62]
    assert pipe.is_successful()


@case
def an_id_of_a_step_counts_in_the_key_by_what_the_step_holds(pipe):
    pipe.add_function_step("one", lambda: [1], function_return=["x"])
    pipe.add_function_step("two", lambda: [1], function_return=["x"])
    pipe.add_function_step("three", lambda: [3], function_return=["x"])
    copy(pipe, "first", {"text": "of ${one.id}"}, cache_executed_step=True)
    copy(pipe, "equal", {"text": "of ${two.id}"}, cache_executed_step=True, parents=["first"])
    copy(pipe, "unequal", {"text": "of ${three.id}"}, cache_executed_step=True, parents=["first"])
    pipe.add_function_step("f", show, {"x": ["${one.id}"]}, cache_executed_step=True)
    pipe.add_function_step("g", show, {"x": ["${two.id}"]}, cache_executed_step=True, parents=["f"])
    pipe.add_function_step("h", show, {"x": "${one.id}"}, cache_executed_step=True)
    pipe.add_function_step("i", show, {"x": "${three.id}"}, cache_executed_step=True, parents=["h"])
    yield
    assert {name: status for name, status in statuses(pipe).items() if status == "cached"} == {"equal": "cached", "g": "cached"}


@case
def a_copy_of_a_function_step_runs_its_function(pipe):
    known = Task.get_task(project_name="tests", task_name="function template")
    copy(pipe, "a", {"kwargs/n": 8}, base_task_id=known.id, base_task_project=None, base_task_name=None)
    yield
    assert told(pipe, "a")["result"] == 16


def double(n=1):
    return n * 2


def double_of_what_is_not_negative(n=1):
    assert n >= 0
    return n * 2


@case(ends="failed")
def the_job_of_a_node_says_what_became_of_its_task(pipe):
    def before(pipeline, node, values):
        note("job before", [node.job.is_pending(), node.job.started(), node.job.elapsed(), node.job.worker()])

    pipe.add_function_step("good", print, {"end": "the last words"}, pre_execute_callback=before)
    copy(pipe, "bad", {"fails": True, "n": 3}, parents=["good"])
    yield
    good, bad = (pipe.get_pipeline_dag()[name].job for name in ("good", "bad"))
    assert noted("job before") == ["[True, False, -1.0, None]"]
    assert (good.task.id, good.status(), good.status_message()) == (good.task_id(), "completed", "")
    assert (good.is_completed(), good.is_failed(), good.is_aborted(), good.is_stopped(), good.is_running()) == (
        True, False, False, True, False,
    )  # fmt: skip
    assert (bad.is_completed(), bad.is_failed(), bad.is_stopped(), bad.status()) == (False, True, True, "failed")
    assert "the template was told to fail" in bad.status_message()
    assert bad.get_metric("loss", "train") == (0.0, 6.0, 6.0)
    assert bad.iterations() == 2
    assert good.started() and good.elapsed() >= 0 and good.worker()
    assert "the last words" in "".join(good.get_console_output())
    assert good.wait(timeout=0.0)


@case
def the_graph_is_current_whether_or_not_somebody_updates_it(pipe):
    seen = []

    def graph(pipeline):
        return {name: node.status for name, node in PipelineController.get(pipeline.id).get_pipeline_dag().items()}

    def look(pipeline, node):
        seen.append(graph(pipeline))
        seen.append(pipeline.update_execution_plot())
        seen.append(graph(pipeline))

    pipe.add_function_step("a", show, post_execute_callback=look)
    pipe.add_function_step("b", show, parents=["a"])
    yield
    assert seen == [{"a": "completed", "b": "pending"}, None, {"a": "completed", "b": "pending"}]


def measures_and_waits(go):
    task = Task.current_task()
    task.get_logger().report_scalar("loss", "train", 0.5, iteration=3)
    task.upload_artifact("seen", {"so": "far"})
    wait_for(go)


def looks_at_the_pipeline(go):
    end = time.monotonic() + PATIENCE_S
    task = Task.get_task(task_id=Task.current_task().parent)
    while not task.get_reported_scalars() or "seen" not in task.artifacts:
        assert time.monotonic() < end, "what runs is not mirrored"
        time.sleep(0.01)
    Path(go).touch()


@case
def what_is_monitored_comes_while_the_step_runs(pipe):
    go = f"{pipe.id}.go"
    monitored = {"monitor_metrics": [("loss", "train")], "monitor_artifacts": ["seen"]}
    pipe.add_function_step("measures", measures_and_waits, {"go": go}, **monitored)
    pipe.add_function_step("looks", looks_at_the_pipeline, {"go": go})
    yield
    assert pipe.task.get_reported_scalars()["loss"]["train"]["x"] == [3]
    assert pipe.task.artifacts["seen"].get() == {"so": "far"}


def gives_up():
    Task.current_task().mark_stopped(force=True)
    wait_for("never")


@case(ends="failed")
def a_step_that_is_stopped_is_not_retried_and_conditions_forgive_it(pipe):
    pipe.add_function_step("a", gives_up, retry_on_failure=3)
    yield
    assert step(pipe, "a")._column("attempt") == 1
    assert statuses(pipe) == {"a": "aborted"}
    assert not pipe.is_successful() and not pipe.is_successful(fail_condition="aborted")
    assert "one of all, failed, aborted" in str(raised(ValueError, lambda: pipe.is_successful(fail_condition="nonsense")))


@case
def a_tolerated_stop_completes_the_pipeline_and_a_condition_forgives_it(pipe):
    pipe.add_function_step("a", gives_up, continue_behaviour={"continue_on_fail": False})
    yield
    assert statuses(pipe) == {"a": "aborted"}
    assert not pipe.is_successful() and not pipe.is_successful(fail_condition="aborted")
    assert pipe.is_successful(fail_condition="failed") and pipe.is_successful(fail_on_step_fail=False)


# -- other fields of a task, and tasks that run themselves ------------------------------------------------------------


@case
def task_overrides_change_fields_of_the_copy_and_may_name_those_of_other_steps(pipe):
    pipe.add_parameter("word", "spoken")
    copy(pipe, "a", {}, task_overrides={"comment": "of ${pipeline.word}", "tags": ["one", "two"], "container.image": "python:3"})
    copy(
        pipe,
        "b",
        {},
        task_overrides={
            "comment": "${a.comment}; ${a.container.image}; ${a.id}",
            "tags": "${a.tags}",
            "script.binary": "${a.script.entry_point}",
        },
    )
    yield
    a, b = step(pipe, "a"), step(pipe, "b")
    assert a.comment == "of spoken"
    assert sorted(a.get_tags()) == ["one", "two"] == sorted(b.get_tags())
    assert b.comment == f"of spoken; python:3; {a.id}"
    assert pipe.get_pipeline_dag()["b"].parents == ["a"]
    assert Task.get_task(project_name="tests", task_name="template").comment == ""


@case
def a_queue_may_be_named_by_what_another_step_was_told(pipe):
    copy(pipe, "a", {"text": "third"})
    copy(pipe, "b", {"note": "queued"}, execution_queue="${a.parameters.General/text}")
    yield
    assert step(pipe, "b").get_executed_queue(return_name=True) == "third"
    assert len(noted("queued")) == 1


@case
def with_clone_base_task_false_the_draft_itself_is_the_step(pipe):
    draft = Task.clone(Task.get_task(project_name="tests", task_name="template"), name="of its own")
    pipe.add_step("itself", base_task_id=draft.id, clone_base_task=False, parameter_override={"General/n": 41})
    copy(pipe, "after", {"n": "${itself.parameters.General/n}", "note": "after-itself"})
    yield
    assert step(pipe, "itself").id == draft.id
    assert (draft.status, draft.get_parameter("General/n"), draft.parent) == ("completed", "41", pipe.id)
    assert json.loads(noted("after-itself")[0])[0] == 41


@case
def a_factory_makes_the_task_of_a_step_when_the_pipeline_starts(pipe):
    made = []

    def factory(node):
        task = Task.clone(Task.get_task(project_name="tests", task_name="template"), name=f"for {node.name}")
        made.append(task.id)
        return task

    pipe.add_step("made", base_task_factory=factory, parameter_override={"General/n": 9, "General/note": "factory"})
    assert made == []
    yield
    assert step(pipe, "made").id == made[-1]
    assert json.loads(noted("factory")[0])[0] == 9


@case
def a_pipeline_as_base_task_is_a_whole_run_below_the_step(pipe):
    inner = PipelineController.get(pipeline_project="tests", pipeline_name="inner pipeline")
    pipe.add_step("whole", base_task_id=inner.id, parameter_override={"Args/n": 20})
    copy(pipe, "after", {"text": "${whole.id}", "note": "after-whole"}, parents=["whole"])
    yield
    whole = step(pipe, "whole")
    assert (whole.status, whole.parent, str(whole.task_type)) == ("completed", pipe.id, "controller")
    below = Task.get_tasks(task_filter={"parent": whole.id})
    assert {(one.name, one.status, one.get_parameter("return/result", cast=True)) for one in below} == {
        ("doubled", "completed", 40)
    }
    assert json.loads(noted("after-whole")[0])[2] == whole.id
    assert inner.task.status == "completed"
    assert PipelineController.get(pipeline_project="tests", pipeline_name="inner pipeline").id == inner.id
    assert [node.status for node in PipelineController.get(whole.id).get_pipeline_dag().values()] == ["completed"]


@case(ends="failed")
def the_failure_of_a_pipeline_as_base_task_is_the_failure_of_its_step(pipe):
    inner = PipelineController.get(pipeline_project="tests", pipeline_name="inner pipeline")
    pipe.add_step("whole", base_task_id=inner.id, parameter_override={"Args/n": -1})
    copy(pipe, "after", parents=["whole"])
    yield
    assert statuses(pipe) == {"whole": "failed", "after": "skipped"}


@case
def a_configuration_object_is_overridden_as_text_or_as_a_dict(pipe):
    copy(pipe, "a", {}, configuration_overrides={"plain": "x = ${not.ours}", "dict": {"k": [1, None]}})
    yield
    assert step(pipe, "a").get_configuration_object("plain") == "x = ${not.ours}"
    assert step(pipe, "a").get_configuration_object_as_dict("dict") == {"k": [1, None]}


@case
def an_argument_that_is_no_parameter_is_an_artifact_of_the_pipeline_called_step_dot_argument(pipe):
    pipe.add_function_step("a", show, {"more": {"deep": [1, 2]}})
    yield
    assert step(pipe, "a").get_parameters()["kwargs_artifacts/more"] == f"{pipe.id}.a.more"
    assert pipe.task.artifacts["a.more"].get() == {"deep": [1, 2]}


@case
def helper_functions_reach_a_function_that_travels_by_its_name(pipe):
    pipe.add_function_step("a", neighbour.calls_a_helper, {"n": 4}, ["n"], helper_functions=[helping])
    yield
    assert step(pipe, "a").get_parameter("return/n", cast=True) == 104


@case(artifact_serialization_function=to_bytes, artifact_deserialization_function=from_bytes)
def what_is_no_parameter_goes_through_the_pipelines_own_functions(pipe):
    pipe.add_function_step("a", listed, {"items": [1, 2]}, ["items"])
    pipe.add_function_step("b", listed, {"items": "${a.items}"}, ["items"])
    yield
    assert step(pipe, "b").artifacts["items"].get() == b'mine:["b", ["a", [1, 2]]]'
    assert pipe.task.artifacts["a.items"].type == "custom"


# -- callbacks of the pipeline ----------------------------------------------------------------------------------------


@case(created=True)
def the_pipelines_callbacks_come_around_those_of_each_step(pipe):
    def hear(what):
        return lambda pipeline, node, *rest: note("around", f"{what} {node.name} {node.status}")

    copy(pipe, "a", pre_execute_callback=hear("pre"), post_execute_callback=hear("post"))
    pipe.add_function_step("refused", show, parents=["a"])
    copy(pipe, "c", parents=["refused"])
    yield
    if noted("around")[1:2] == ["created a pending"]:  # only start() takes them
        assert noted("around") == [
            "pre a pending",
            "created a pending",
            "completed a completed",
            "post a completed",
            "created refused pending",
        ]
        assert statuses(pipe) == {"a": "completed", "refused": "skipped", "c": "skipped"}


def created(pipeline, node, values):
    note("around", f"created {node.name} {node.status}")
    return node.name != "refused"


def completed(pipeline, node):
    note("around", f"completed {node.name} {node.status}")


# -- looking at the pipeline ------------------------------------------------------------------------------------------


def look(pipeline, node):
    line = [node.name, pipeline.is_running(), sorted(pipeline.get_running_nodes()), sorted(pipeline.get_processed_nodes())]
    note("looking", json.dumps([*line, pipeline.elapsed() >= 0, pipeline.wait(0.0001)]))


@case
def a_callback_may_look_at_the_pipeline(pipe):
    assert (pipe.is_running(), pipe.elapsed(), pipe.wait()) == (False, -1.0, True)
    copy(pipe, "a", post_execute_callback=look)
    copy(pipe, "b", parents=["a"])
    yield
    assert [json.loads(line) for line in noted("looking")] == [["a", True, [], ["a"], True, False]]
    assert pipe.is_successful()
    assert set(pipe.get_processed_nodes()) == {"a", "b"}


@case
def reports_artifacts_tags_and_configuration_of_the_pipeline_may_come_before_its_start(pipe):
    pipe.get_logger().report_scalar("before", "start", 1.0, iteration=0)
    pipe.upload_artifact("early", [1])
    pipe.add_tags(["early"])
    assert pipe.connect_configuration({"x": 1}, name="settings") == {"x": 1}
    pipe.add_parameter("late", 4, "comes after the task was made")
    copy(pipe, "a", {"n": "${pipeline.late}"})
    yield
    task = pipe.task
    assert task.artifacts["early"].get() == [1]
    assert "early" in pipe.tags
    assert task.get_configuration_object_as_dict("settings") == {"x": 1}
    assert task.get_reported_scalars()["before"]["start"]["y"] == [1.0]
    assert task.get_parameters()["Args/late"] == "4"
    assert told(pipe, "a")["n"] == 4


# -- running cases ----------------------------------------------------------------------------------------------------


def run(name: str, mode: str) -> None:
    """Run one case; ``NAME.logic`` says how its assertions ended."""
    function, options = CASES[name]
    options = dict(options)
    callbacks = (created, completed) if options.pop("created", False) else (None, None)
    pipe = PipelineController(name, "tests", "1.0", **options)
    steps = function(pipe)
    trouble = ""
    try:
        next(steps)
        ended: Exception | None = None
        try:
            if mode == "local":
                pipe.start_locally(run_pipeline_steps_locally=True)
            else:
                pipe.start(step_task_created_callback=callbacks[0], step_task_completed_callback=callbacks[1])
        except Exception as error:
            ended = error
            if Task.running_locally():
                raise
        next(steps, None)
        if ended is not None:
            raise ended
    except AssertionError:
        trouble = traceback.format_exc()
        raise
    finally:
        if not isinstance(sys.exc_info()[1], SystemExit):
            Path(f"{name}.logic").write_text(trouble or "\n")


def main() -> None:
    """Run cases as the command line says."""
    mode, *names = sys.argv[1:]
    if mode == "template":  # a run of one function, whose step others copy
        pipe = PipelineController("function templates", "tests", target_project="tests")
        pipe.add_function_step("function template", double, function_return=["result"])
        pipe.start_locally(run_pipeline_steps_locally=True)
        return
    if mode == "inner":  # a pipeline that others have as a step
        pipe = PipelineController("inner pipeline", "tests", "1.0")
        pipe.add_parameter("n", 1, param_type="int")
        pipe.add_function_step("doubled", double_of_what_is_not_negative, {"n": "${pipeline.n}"}, ["result"])
        pipe.start_locally(run_pipeline_steps_locally=True)
        return
    for name in names or CASES:
        sys.argv[1:] = [mode, name]
        try:
            run(name, mode)
        except SystemExit:
            continue
        except AssertionError:
            if not Task.running_locally():
                raise


if __name__ == "__main__":
    main()
