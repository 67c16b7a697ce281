"""What steps and logic report; pipelines' names, versions, arguments; the cache seen from inside."""

from __future__ import annotations

import math
from pathlib import Path

from cases import case, ended, log_of, main, note, noted, parameters, rows, steps

from minipipe import Logger, PipelineDecorator, Task


def component(**options):
    """A component with one result, ``n``."""
    return PipelineDecorator.component(return_values=["n"], **options)


def pipeline():
    """The task of the running pipeline."""
    return PipelineDecorator.get_current_pipeline().task


# -- metrics ----------------------------------------------------------------------------------------------------------


@component(monitor_metrics=[("loss", "train"), (("loss", "test"), ("Overview", "test loss"))])
def reports(n=4):
    logger = Logger.current_logger()
    for i in range(n):
        logger.report_scalar("loss", "train", 1 / (i + 1), iteration=i)
        logger.report_scalar("loss", "test", -i, iteration=10 * i)
        logger.report_scalar("loss", "other", i, iteration=i)
    return n


@case
def monitor_metrics_mirrors_every_point_once_in_order_under_the_same_or_another_name():
    assert reports() == 4
    found = pipeline().get_reported_scalars()
    assert found["loss"] == {"train": {"name": "train", "x": [0, 1, 2, 3], "y": [1.0, 1 / 2, 1 / 3, 1 / 4]}}
    assert found["Overview"]["test loss"] == {"name": "test loss", "x": [0, 10, 20, 30], "y": [0.0, -1.0, -2.0, -3.0]}


@component(monitor_metrics=[("loss", "train")])
def reports_and_breaks():
    Logger.current_logger().report_scalar("loss", "train", 7, iteration=1)
    raise KeyError("after reporting")


@case(ends="failed")
def points_of_a_failed_step_are_mirrored_too():
    reports_and_breaks()
    ended("reports_and_breaks")
    assert pipeline().get_reported_scalars()["loss"]["train"]["y"] == [7.0]


@component(cache=True, monitor_metrics=[("loss", "train")], monitor_artifacts=["n", ("thing", "the thing")])
def cached_reports(n):
    note("cached-reports")
    Logger.current_logger().report_scalar("loss", "train", n, iteration=n)
    Task.current_task().upload_artifact("thing", {"n": n})
    return [n]


@case
def a_cached_step_mirrors_the_points_and_artifacts_of_its_original():
    assert cached_reports(1) == [1]
    assert cached_reports(1) == [1]
    assert noted("cached-reports") == ["x"]
    assert ended("cached_reports_1")["cached_from"] == ended("cached_reports")["id"]
    assert pipeline().get_reported_scalars()["loss"]["train"]["y"] == [1.0, 1.0]
    cached = Task.get_task(steps()["cached_reports_1"]["uid"])
    assert cached.get_reported_scalars()["loss"]["train"]["y"] == [1.0]
    assert cached.artifacts["thing"].get() == {"n": 1}
    assert parameters("cached_reports_1") == parameters("cached_reports")


@component()
def single_values():
    logger = Task.current_task().get_logger()
    logger.report_single_value("accuracy", 0.5)
    logger.report_single_value("accuracy", 0.75)
    logger.report_scalar("t", "s", math.nan, 0)
    logger.report_text("a line for %s", 20, True, "the log")
    print("printed")
    return 1


@case
def a_step_reports_scalars_single_values_and_text():
    assert single_values() == 1
    task = Task.get_task(steps()["single_values"]["uid"])
    assert task.get_reported_single_value("accuracy") == 0.75
    assert math.isnan(task.get_reported_scalars()["t"]["s"]["y"][0])
    assert task.get_last_scalar_metrics()["Summary"]["accuracy"]["last"] == 0.75
    assert "a line for the log\nprinted\n" in log_of("single_values")


# -- artifacts --------------------------------------------------------------------------------------------------------


@component(monitor_artifacts=["n", ("table", "renamed")])
def makes(n):
    Task.current_task().upload_artifact("table", {"rows": n}, metadata={"k": 1})
    return [n]


@case
def monitor_artifacts_puts_the_same_content_on_the_pipeline_under_the_same_or_another_name():
    assert makes(3) == [3]
    step = Task.get_task(steps()["makes"]["uid"]).artifacts
    mine = pipeline().artifacts
    assert mine["n"].get() == [3]
    assert mine["renamed"].get() == {"rows": 3}
    assert "table" not in mine
    assert mine["renamed"].url == step["table"].url
    assert mine["renamed"].metadata == {"k": "1"}


@component()
def to_the_pipeline():
    assert PipelineDecorator.upload_artifact("from a step", [1, 2]) is True
    PipelineDecorator.get_logger().report_scalar("of", "the pipeline", 3, iteration=1)
    PipelineDecorator.get_logger().report_single_value("best", 4)
    return 1


@case
def upload_artifact_and_get_logger_of_the_pipeline_act_on_its_task_from_steps_and_from_the_logic():
    assert to_the_pipeline() == 1
    PipelineDecorator.upload_artifact("from the logic", {"a": 1})
    PipelineDecorator.get_logger().report_scalar("of", "the logic", 5, iteration=2)
    task = pipeline()
    assert task.artifacts["from a step"].get() == [1, 2]
    assert task.artifacts["from the logic"].get() == {"a": 1}
    assert task.get_reported_single_value("best") == 4
    found = task.get_reported_scalars()["of"]
    assert (found["the pipeline"]["y"], found["the logic"]["y"]) == ([3.0], [5.0])
    assert list(Task.get_task(steps()["to_the_pipeline"]["uid"]).artifacts) == []


@component()
def uploads():
    task = Task.current_task()
    task.upload_artifact("twice", 1)
    task.upload_artifact("twice", 2)
    task.upload_artifact("made by hand", [1], serialization_function=lambda value: bytes(value))
    Path("uploaded.txt").write_text("content")
    task.upload_artifact("file", Path("uploaded.txt"))
    try:
        task.upload_artifact("not pickled", object(), auto_pickle=False)
    except ValueError as error:
        return str(error)
    return "no error"


@case
def a_second_upload_replaces_the_first_and_auto_pickle_false_refuses():
    assert "not pickled" in uploads()
    artifacts = Task.get_task(steps()["uploads"]["uid"]).artifacts
    assert artifacts["twice"].get() == 2
    assert artifacts["made by hand"].get().read_bytes() == b"\x01"
    assert artifacts["file"].get().read_text() == "content"
    assert list(artifacts) == ["twice", "made by hand", "file"]


# -- tasks ------------------------------------------------------------------------------------------------------------


@component()
def who_am_i():
    task = Task.current_task()
    task.set_progress(40)
    task.set_progress(400)
    task.add_tags(["while running"])
    assert task.get_progress() == 40
    assert PipelineDecorator.get_current_pipeline() is None
    return [task.id, task.name, task.status, Task.running_locally()]


@case
def current_task_inside_a_step_is_the_steps_task():
    found = who_am_i()
    uid = steps()["who_am_i"]["uid"]
    assert found == [uid, "who_am_i", "in_progress", False]
    assert Task.get_task(uid).get_progress() == 40
    assert Task.get_task(uid).get_tags() == ["while running"]


@case
def current_task_in_the_logic_is_the_pipelines_task():
    found = PipelineDecorator.get_current_pipeline()
    assert Task.current_task().id == found.id == found.task.id
    assert found.task.task_type == "controller"
    assert found.is_running()
    assert found.elapsed() >= 0
    found.add_tags(["by the logic"])
    assert found.tags == ["by the logic"]


# -- pipelines --------------------------------------------------------------------------------------------------------


@case(return_value="result")
def return_value_stores_the_result_of_the_logic_as_an_artifact_of_the_pipeline():
    return [reports(2), 5]


@case(return_value="result")
def a_result_that_is_none_is_not_stored():
    reports(1)


@case(args_map={"Data": ["size"], "Model": ["depth", "name"]})
def args_map_stores_arguments_in_their_section(size=3, depth=2.5, name="small", other=True):
    assert pipeline().get_parameters() == {
        "Data/size": "3",
        "Model/depth": "2.5",
        "Model/name": "small",
        "Args/other": "True",
    }


@case
def the_arguments_of_the_pipeline_are_logged_in_args_and_get_parameters_gives_them_typed(
    a=1, b=2.5, c=True, d="text", e=None, f=(1, 2)
):
    texts = pipeline().get_parameters()
    assert texts == {"Args/a": "1", "Args/b": "2.5", "Args/c": "True", "Args/d": "text", "Args/e": "", "Args/f": "[1, 2]"}
    found = PipelineDecorator.get_current_pipeline().get_parameters()
    assert {name: found[name] for name in "abcde"} == {"a": 1, "b": 2.5, "c": True, "d": "text", "e": None}
    assert [type(found[name]) for name in "abcd"] == [int, float, bool, str]
    assert f == (1, 2)
    assert type(f) is tuple


@component(execution_queue="third")
def on_its_own_queue():
    return 1


@component()
def on_the_default_queue():
    return 1


@case(default_queue="other")
def execution_queue_overrides_the_default_queue_of_the_pipeline():
    on_its_own_queue()
    on_the_default_queue()
    assert [step["queue"] for step in steps().values()] == ["third", "other"]


@case
def a_step_that_names_no_queue_is_on_default():
    on_the_default_queue()
    assert [step["queue"] for step in steps().values()] == ["default"]


@component(packages=["numpy"], docker="image", docker_args="-v", stage="data")
def recorded():
    return 1


@component(packages=["pandas"])
def recorded_too():
    return 1


@case(docker="image:1", pool_frequency=5)
def recorded_arguments_are_stored_and_change_nothing():
    assert recorded() == recorded_too() == 1
    assert '"docker": "image"' in steps()["recorded"]["settings"]
    assert '"stage": "data"' in steps()["recorded"]["settings"]
    (mine,) = rows("SELECT settings FROM task WHERE id = :run")
    assert '"docker": "image:1"' in mine["settings"]
    assert '"pool_frequency": 5' in mine["settings"]


# -- the cache --------------------------------------------------------------------------------------------------------


def identity(n):
    return n


unasked = component(name="unasked")(identity)
served = component(cache=True, name="served")(identity)


def add_up(values):
    return sum(values)


sums = component(cache=True, name="sums")(add_up)
refreshed = component(cache="refresh", name="sums")(add_up)


@case
def a_step_without_the_option_can_serve_one_with_it():
    assert unasked(1) == 1
    assert served(1) == 1
    assert unasked(1) == 1
    assert ended("served")["cached_from"] == ended("unasked")["id"]
    assert [ended(name)["attempt"] for name in ("unasked", "served", "unasked_1")] == [1, 0, 1]


@case
def a_cached_step_is_completed_at_once_and_points_at_the_task_that_really_ran():
    for _ in range(3):
        assert sums([1, 2, 0]) == 3
    found = steps()
    assert [found[name]["cached_from"] for name in ("sums_1", "sums_2")] == [found["sums"]["id"]] * 2
    assert {found[name]["worker_id"] for name in found} == {None}
    assert [found[name]["status"] for name in found] == ["completed"] * 3


@case
def a_lazy_argument_is_keyed_by_its_value():
    assert sums([unasked(40), 2]) == 42
    assert sums([unasked(40), 2]) == 42
    assert ended("sums_1")["cached_from"] == ended("sums")["id"]
    assert sums([unasked(40), 3]) == 43
    assert ended("sums_2")["cached_from"] is None


@case
def cache_refresh_runs_and_then_serves_as_the_newest():
    assert sums([5, 5]) == 10
    assert refreshed([5, 5]) == 10
    assert sums([5, 5]) == 10
    found = steps()
    assert (found["sums_1"]["cached_from"], found["sums_1"]["attempt"]) == (None, 1)
    assert found["sums_2"]["cached_from"] == found["sums_1"]["id"]


if __name__ == "__main__":
    main()
