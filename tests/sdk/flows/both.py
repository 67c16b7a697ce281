"""Cases that both front ends must pass: the same steps as components of a decorated pipeline and as steps of a controller.

``both.py decorator|controller local|remote [CASE ...]``; a case is data, its expected end stands with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases import PATIENCE_S, note, wait_for

from minipipe import Logger, OutputModel, PipelineController, PipelineDecorator, Task


@dataclass(frozen=True)
class Of:
    """The result of another step."""

    step: str


@dataclass(frozen=True)
class S:
    """A step: name, function, arguments, options as the decorator calls them."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A sentence of the contract.

    Attributes:
        ends: status of the run.
        reason: part of why.
        statuses: step -> status of its task.
        attempts: step -> number of attempts.
        notes: file -> its lines.
        metrics: "title/series" -> [[iteration, value]] on the run's own task.
        artifacts: name -> value on the run's own task.
        models: name -> weights on the run's own task.
    """

    says: str
    steps: tuple[S, ...]
    statuses: dict[str, str]
    ends: str = "completed"
    reason: str = ""
    attempts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    metrics: dict[str, list[list[float]]] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


# -- what steps do ----------------------------------------------------------------------------------------------------


def number(n=1, file=""):
    if file:
        note(file, f"ran {n}")
    return n


def breaks(n=1):
    raise KeyError(f"no luck with {n}")


def hangs(file):
    Path(file).touch()
    wait_for("never-comes")


def gives_up():
    Task.current_task().mark_stopped(force=True)
    wait_for("never-comes")


def breaks_after(file):
    wait_for(file)
    raise KeyError("after")


def passes_after(file):
    wait_for(file)
    return 1


def lucky(file, times):
    if note(file, "ran") < times:
        raise KeyError("not yet")
    return 1


def slow(file, times=1):
    if note(file, "ran") <= times:
        time.sleep(PATIENCE_S)
    return 1


def measures(fails=False):
    for iteration, value in ((0, 3.0), (1, 1.0), (2, 2.0)):
        Logger.current_logger().report_scalar("loss", "train", value, iteration=iteration)
    Task.current_task().upload_artifact("table", [1, 2, 3])
    folder = Path(tempfile.mkdtemp(dir="."))  # a local file is recorded where it lies, and several cases run at a time
    for name in ("model_2", "model_1", "best"):
        (folder / f"{name}.pt").write_text(name)
        OutputModel(name=name).update_weights(str(folder / f"{name}.pt"))
    if fails:
        raise KeyError("measured")
    return 1


def takes(items):
    note("takes", items)
    return 1


def receives(value):
    note("received", value)
    return 1


# -- what callbacks do ------------------------------------------------------------------------------------------------


class OfTheCallback(Exception):
    """What a bad callback raises."""


def hear(file, what, answer=None):
    def callback(pipeline, node, *rest):
        note(file, " ".join([what, node.name, node.status, *(str(one) for one in rest)]))
        return answer

    return callback


def change(pipeline, node, values):
    values["kwargs/n"] = values["kwargs/n"] * 10


def explode(pipeline, node, *rest):
    raise OfTheCallback("boom")


def stop(**how):
    def callback(pipeline, node):
        pipeline.stop(**how)
        note("stopped", "returned")

    return callback


def ask(file, most):
    def predicate(pipeline, node, done):
        note(file, f"{node.name} {done}")
        return done < most

    return predicate


def sees_the_job(pipeline, node, values):
    task = Task.get_task(task_id=node.job.task_id())
    note("job", f"{task.name} {task.status} {task.parent == pipeline.id} {node.job.elapsed()} {node.executed} {node.job_type}")


def sees_the_end(pipeline, node):
    job = node.job
    last = job.get_metric("loss", "train")
    note("job", f"{node.status} {node.executed == job.task_id()} {job.is_completed()} {job.elapsed() >= 0} {last}")


CASES = (
    # -- failure
    Case(
        "descendants_of_a_failed_step_are_skipped_and_other_branches_go_on",
        (
            S("bad", breaks),
            S("child", number, {"n": Of("bad")}),
            S("grandchild", number, {"n": Of("child")}),
            S("other", number, {"file": "other"}),
            S("after", number, {"n": Of("other"), "file": "other"}),
        ),
        {"bad": "failed", "child": "skipped", "grandchild": "skipped", "other": "completed", "after": "completed"},
        ends="failed",
        reason="bad failed",
        notes={"other": ["ran 1", "ran 1"]},
    ),
    Case(
        "with_continue_on_fail_the_failure_does_not_fail_the_pipeline_and_descendants_are_skipped",
        (S("bad", breaks, {}, {"continue_on_fail": True}), S("child", number, {"n": Of("bad")}), S("other", number)),
        {"bad": "failed", "child": "skipped", "other": "completed"},
    ),
    Case(
        "continue_behaviour_takes_the_place_of_continue_on_fail",
        (S("bad", breaks, {}, {"continue_behaviour": {"continue_on_fail": True}}),),
        {"bad": "failed"},
    ),
    Case(
        "continue_behaviour_that_does_not_tolerate_fails_the_pipeline",
        (S("bad", breaks, {}, {"continue_on_fail": True, "continue_behaviour": {"continue_on_fail": False}}),),
        {"bad": "failed"},
        ends="failed",
        reason="bad failed",
    ),
    Case(
        "with_skip_children_on_fail_false_the_children_run_and_get_none",
        (
            S("bad", breaks, {}, {"continue_behaviour": {"skip_children_on_fail": False}}),
            S("child", receives, {"value": Of("bad")}),
            S("grandchild", number, {"n": Of("child"), "file": "spared"}),
        ),
        {"bad": "failed", "child": "completed", "grandchild": "completed"},
        notes={"received": ["None"], "spared": ["ran 1"]},
    ),
    Case(
        "an_aborted_step_fails_the_pipeline_although_its_failure_would_not",
        (S("gone", gives_up, {}, {"continue_on_fail": True}), S("child", number, {"n": Of("gone")})),
        {"gone": "stopped", "child": "skipped"},
        ends="failed",
        reason="gone stopped",
    ),
    Case(
        "with_continue_on_abort_it_does_not_and_with_skip_children_on_abort_false_its_children_run",
        (
            S("gone", gives_up, {}, {"continue_behaviour": {"skip_children_on_abort": False}}),
            S("child", number, {"file": "after-abort"}, {"parents": ["gone"]}),
            S("skipping", gives_up, {}, {"continue_behaviour": {"continue_on_fail": False}}),
            S("skipped", number, {"n": Of("skipping")}),
        ),
        {"gone": "stopped", "child": "completed", "skipping": "stopped", "skipped": "skipped"},
        notes={"after-abort": ["ran 1"]},
    ),
    Case(
        "abort_on_failure_stops_running_steps_and_skips_waiting_ones",
        (
            S("hangs", hangs, {"file": "hanging"}),
            S("waits", number, {"n": Of("hangs")}),
            S("bad", breaks_after, {"file": "hanging"}),
        ),
        {"hangs": "stopped", "waits": "skipped", "bad": "failed"},
        ends="failed",
        reason="bad failed",
        options={"abort_on_failure": True},
    ),
    # -- retries
    Case(
        "retry_on_failure_n_runs_the_same_task_up_to_n_more_times",
        (S("lucky", lucky, {"file": "lucky", "times": 3}, {"retry_on_failure": 2}),),
        {"lucky": "completed"},
        attempts={"lucky": 3},
        notes={"lucky": ["ran"] * 3},
    ),
    Case(
        "after_the_last_retry_the_step_has_failed",
        (S("unlucky", lucky, {"file": "unlucky", "times": 9}, {"retry_on_failure": 1}),),
        {"unlucky": "failed"},
        ends="failed",
        attempts={"unlucky": 2},
    ),
    Case(
        "a_retry_callable_is_asked_after_each_failed_attempt_with_the_retries_done",
        (S("asks", lucky, {"file": "asks", "times": 9}, {"retry_on_failure": ask("asked", 2)}),),
        {"asks": "failed"},
        ends="failed",
        attempts={"asks": 3},
        notes={"asked": ["asks 0", "asks 1", "asks 2"]},
    ),
    Case(
        "a_retry_callable_that_raises_means_no_retry",
        (S("vain", lucky, {"file": "vain", "times": 9}, {"retry_on_failure": explode}),),
        {"vain": "failed"},
        ends="failed",
        attempts={"vain": 1},
    ),
    Case(
        "the_pipelines_retries_hold_for_steps_that_say_nothing",
        (
            S("plain", lucky, {"file": "plain", "times": 9}),
            S("own", lucky, {"file": "own", "times": 9}, {"retry_on_failure": 0}),
        ),
        {"plain": "failed", "own": "failed"},
        ends="failed",
        attempts={"plain": 2, "own": 1},
        options={"retry_on_failure": 1},
    ),
    # -- limits
    Case(
        "a_step_over_its_time_limit_fails_and_its_children_are_skipped",
        (S("slow", slow, {"file": "slow"}, {"time_limit": 0.3}), S("child", number, {"n": Of("slow")})),
        {"slow": "failed", "child": "skipped"},
        ends="failed",
        reason="slow failed",
    ),
    Case(
        "a_step_over_its_time_limit_is_retried_like_any_failure",
        (S("slow", slow, {"file": "slow-once"}, {"time_limit": 2.0, "retry_on_failure": 1}),),
        {"slow": "completed"},
        attempts={"slow": 2},
    ),
    # -- callbacks
    Case(
        "pre_comes_before_launch_and_post_after_the_end_and_before_children_launch",
        (
            S(
                "first",
                number,
                {"n": 3, "file": "order"},
                {"pre_execute_callback": hear("order", "pre"), "post_execute_callback": hear("order", "post")},
            ),
            S("second", number, {"n": Of("first"), "file": "order"}, {"post_execute_callback": hear("order", "post")}),
        ),
        {"first": "completed", "second": "completed"},
        notes={
            "order": [
                "pre first pending {'kwargs/n': 3, 'kwargs/file': 'order'}",
                "ran 3",
                "post first completed",
                "ran 3",
                "post second completed",
            ]
        },
    ),
    Case(
        "the_status_callback_hears_each_change_with_the_status_before",
        (S("heard", number, {}, {"status_change_callback": hear("heard", "now")}),),
        {"heard": "completed"},
        notes={"heard": ["now heard queued pending", "now heard running queued", "now heard completed running"]},
    ),
    Case(
        "callbacks_see_the_job_of_the_node",
        (S("seen", measures, {}, {"pre_execute_callback": sees_the_job, "post_execute_callback": sees_the_end}),),
        {"seen": "completed"},
        notes={"job": ["seen pending True -1.0 None training", "completed True True True (1.0, 3.0, 2.0)"]},
    ),
    Case(
        "the_post_callback_runs_for_a_failed_step_too",
        (S("bad", breaks, {}, {"post_execute_callback": hear("post-failed", "post")}),),
        {"bad": "failed"},
        ends="failed",
        notes={"post-failed": ["post bad failed"]},
    ),
    Case(
        "false_from_the_pre_callback_skips_the_step_and_its_descendants_and_fails_nothing",
        (
            S(
                "refused",
                number,
                {"file": "refused"},
                {"pre_execute_callback": hear("refusal", "pre", False), "post_execute_callback": hear("refused", "post")},
            ),
            S("child", number, {"n": Of("refused"), "file": "refused"}),
            S("other", number),
        ),
        {"refused": "skipped", "child": "skipped", "other": "completed"},
        notes={"refused": [], "refusal": ["pre refused pending {'kwargs/n': 1, 'kwargs/file': 'refused'}"]},
    ),
    Case(
        "only_exactly_false_skips",
        (S("nearly", number, {}, {"pre_execute_callback": hear("nearly", "pre", 0)}),),
        {"nearly": "completed"},
    ),
    Case(
        "parameters_that_the_pre_callback_changes_take_effect",
        (S("changed", number, {"n": 2, "file": "changed"}, {"pre_execute_callback": change}),),
        {"changed": "completed"},
        notes={"changed": ["ran 20"]},
    ),
    Case(
        "an_exception_in_a_pre_callback_fails_the_pipeline_with_that_error",
        (S("exploding", number, {"file": "exploding"}, {"pre_execute_callback": explode}),),
        {"exploding": "stopped"},
        ends="failed",
        reason="OfTheCallback: boom",
        notes={"exploding": []},
    ),
    Case(
        "an_exception_in_a_post_callback_fails_the_pipeline_before_its_children_run",
        (
            S("first", number, {}, {"post_execute_callback": explode}),
            S("child", number, {"n": Of("first"), "file": "after-explosion"}),
        ),
        {"first": "completed", "child": "stopped"},
        ends="failed",
        reason="OfTheCallback: boom",
        notes={"after-explosion": []},
    ),
    Case(
        "an_exception_in_a_status_callback_changes_nothing",
        (S("first", number, {}, {"status_change_callback": explode}),),
        {"first": "completed"},
    ),
    Case(
        "a_callback_may_stop_the_pipeline_which_then_completes",
        (S("first", number, {}, {"post_execute_callback": stop()}), S("child", number, {"n": Of("first")})),
        {"first": "completed", "child": "skipped"},
        notes={"stopped": ["returned"] * 3},
    ),
    Case(
        "stop_with_mark_failed_fails_the_pipeline",
        (S("first", number, {}, {"post_execute_callback": stop(mark_failed=True)}), S("child", number, {"n": Of("first")})),
        {"first": "completed", "child": "skipped"},
        ends="failed",
    ),
    Case(
        "stop_with_mark_aborted_leaves_the_pipeline_stopped",
        (S("first", number, {}, {"post_execute_callback": stop(mark_aborted=True)}), S("child", number, {"n": Of("first")})),
        {"first": "completed", "child": "skipped"},
        ends="stopped",
    ),
    # -- the cache
    Case(
        "an_equal_step_is_served_from_the_cache_and_its_callbacks_run",
        (
            S("first", number, {"n": 71, "file": "kept"}, {"cache": True}),
            S(
                "again",
                number,
                {"n": 71, "file": "kept"},
                {
                    "cache": True,
                    "parents": ["first"],
                    "pre_execute_callback": hear("served", "pre"),
                    "post_execute_callback": hear("served", "post"),
                },
            ),
        ),
        {"first": "completed", "again": "completed"},
        attempts={"first": 1, "again": 0},
        notes={"kept": ["ran 71"], "served": ["pre again pending {'kwargs/n': 71, 'kwargs/file': 'kept'}", "post again cached"]},
    ),
    Case(
        "a_parameter_that_the_pre_callback_changed_decides_what_the_cache_serves",
        (
            S("first", number, {"n": 720, "file": "keyed"}, {"cache": True}),
            S("again", number, {"n": 72, "file": "keyed"}, {"cache": True, "parents": ["first"], "pre_execute_callback": change}),
        ),
        {"first": "completed", "again": "completed"},
        attempts={"first": 1, "again": 0},
    ),
    # -- monitors
    Case(
        "every_monitored_point_artifact_and_model_is_mirrored_under_the_same_or_another_name",
        (
            S(
                "measured",
                measures,
                {},
                {
                    "monitor_metrics": [("loss", "train"), (("loss", "train"), ("all", "measured"))],
                    "monitor_artifacts": ["table", ("table", "other table")],
                    "monitor_models": ["best", "model_*", ("model_1", "first"), ("*", "last")],
                },
            ),
        ),
        {"measured": "completed"},
        metrics={"loss/train": [[0, 3.0], [1, 1.0], [2, 2.0]], "all/measured": [[0, 3.0], [1, 1.0], [2, 2.0]]},
        artifacts={"table": [1, 2, 3], "other table": [1, 2, 3]},
        models={"best": "best", "model_2": "model_2", "first": "model_1", "last": "best"},
    ),
    Case(
        "a_failed_step_is_mirrored_too",
        (S("bad", measures, {"fails": True}, {"monitor_metrics": [("loss", "train")], "monitor_models": ["*"]}),),
        {"bad": "failed"},
        ends="failed",
        metrics={"loss/train": [[0, 3.0], [1, 1.0], [2, 2.0]]},
        models={"best": "best"},
    ),
    Case(
        "a_cached_step_is_mirrored_too",
        (
            S("first", measures, {}, {"cache": True}),
            S(
                "again",
                measures,
                {},
                {
                    "cache": True,
                    "parents": ["first"],
                    "monitor_metrics": [("loss", "train")],
                    "monitor_artifacts": ["table"],
                    "monitor_models": ["model_*"],
                },
            ),
        ),
        {"first": "completed", "again": "completed"},
        attempts={"again": 0},
        metrics={"loss/train": [[0, 3.0], [1, 1.0], [2, 2.0]]},
        artifacts={"table": [1, 2, 3]},
        models={"model_2": "model_2"},
    ),
    # -- the rest
    Case(
        "a_step_waits_for_its_parents_although_no_data_comes_from_them",
        (
            S("second", number, {"n": 2, "file": "parents"}, {"parents": ["first"]}),
            S("first", number, {"n": 1, "file": "parents"}),
        ),
        {"first": "completed", "second": "completed"},
        notes={"parents": ["ran 1", "ran 2"]},
    ),
    Case(
        "results_inside_a_list_and_a_dict_travel_by_reference",
        (
            S("one", number, {"n": 1}),
            S("two", number, {"n": 2}),
            S("both", takes, {"items": [Of("one"), {"deep": (Of("two"), 3)}]}),
        ),
        {"one": "completed", "two": "completed", "both": "completed"},
        notes={"takes": ["[1, {'deep': (2, 3)}]"]},
    ),
)


# -- the two front ends -----------------------------------------------------------------------------------------------


def swap(value, result):
    """A value with something else in the place of each `Of`."""
    if isinstance(value, Of):
        return result(value.step)
    if isinstance(value, dict):
        return {key: swap(part, result) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(swap(part, result) for part in value)
    return value


def in_order(case: Case) -> list[S]:
    """The steps so that parents come first: a component can only name steps that were called."""
    return sorted(case.steps, key=lambda step: bool(step.options.get("parents")))


def decorated(case: Case, mode: str) -> None:
    """Run a case as a decorated pipeline."""
    if mode == "local":
        PipelineDecorator.run_locally()

    @PipelineDecorator.pipeline(name=case.says, project="tests", version="1.0", **case.options)
    def logic() -> None:
        found: dict[str, Any] = {}
        for step in in_order(case):
            component = PipelineDecorator.component(step.function, name=step.name, return_values=["result"], **step.options)
            found[step.name] = component(**swap(step.arguments, found.__getitem__))

    logic()


def controlled(case: Case, mode: str) -> None:
    """Run a case as a controller."""
    pipe = PipelineController(case.says, "tests", "1.0", **case.options)
    for step in case.steps:
        options = dict(step.options)
        options["cache_executed_step"] = options.pop("cache", False)
        arguments = swap(step.arguments, lambda name: f"${{{name}.result}}")
        pipe.add_function_step(step.name, step.function, arguments, ["result"], **options)
    if mode == "local":
        pipe.start_locally(run_pipeline_steps_locally=True)
        Path(f"{case.says}.nodes").write_text(json.dumps({name: node.status for name, node in pipe.get_pipeline_dag().items()}))
    else:
        pipe.start()


def main() -> None:
    """Run cases as the command line says."""
    front, mode, *names = sys.argv[1:]
    for case in CASES:
        if names and case.says not in names:
            continue
        sys.argv[1:] = [front, mode, case.says]
        try:
            (decorated if front == "decorator" else controlled)(case, mode)
        except SystemExit:
            continue
        except Exception as error:
            if not Task.running_locally():
                raise
            Path(f"{case.says}.raised").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
