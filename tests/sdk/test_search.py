"""Searches over parameters and the jobs that they make: real copies, real processes, real limits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from minipipe import errors
from minipipe.sdk.automation.objective import MultiObjective
from minipipe.sdk.automation.optimizer import HyperParameterOptimizer
from minipipe.sdk.automation.parameters import DiscreteParameterRange
from minipipe.sdk.task import Task
from tests.sdk.sdk_scripts import FLOWS, ROOT, python

pytestmark = pytest.mark.exhaustive  # real searches, services and examples, each with processes of its own


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script `searching` found; it runs once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "searching"
    with FileLock(f"{folder}.lock"):
        if not (folder / "found.json").exists():
            folder.mkdir(exist_ok=True)
            python(folder, str(FLOWS / "searching.py"))
    read: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return read


def test_a_grid_runs_every_combination_and_ranks_them(found: dict[str, Any]) -> None:
    grid = found["grid"]

    assert [tuple(told.values()) for told in grid["told"]] == [(1, 3), (1, 5), (2, 3), (2, 5)]
    assert grid["statuses"] == ["completed"] * 4 and grid["running"] == 0
    assert [(task["General/x"], task["General/y"]) for task in grid["top"]] == [("2", "5"), ("2", "3")]
    assert grid["objective"] == 23 and grid["again"] == [True, True]
    assert grid["archived"] == ["13"]  # only the best three are kept
    assert grid["names"][0] == "template: General/x=1 General/y=3"
    assert grid["budget"] == {"limit": None, "used": 0}


def test_a_search_tells_of_each_copy_that_ended_and_of_the_best_so_far(found: dict[str, Any]) -> None:
    heard = found["grid"]["heard"]

    assert sorted((facts[1], facts[2]) for facts in heard) == [(11, 2), (13, 2), (21, 2), (23, 2)]
    best, values = None, {}
    for task_id, value, _, told, top in heard:
        values[task_id] = value
        best = task_id if best is None or value > values[best] else best
        assert top == best or value == values[top]
        assert told["status"] == "completed" and told["General/x"] * 10 + told["General/y"] - 2 == value


def test_a_search_has_states_details_and_a_record(found: dict[str, Any]) -> None:
    grid = found["grid"]

    assert grid["before"] == [True, False, -1.0] and grid["after"] == [False, False, True, True]
    (details,) = grid["details"]
    assert details["hyper_parameters"] == {"General/x": "2", "General/y": "5"}
    assert details["metrics"]["t/s"] == {
        "metric": "t", "variant": "s", "value": 23, "min_value": 23, "max_value": 25, "count": 3
    }  # fmt: skip
    assert grid["artifact"] == ["task id", "objective", "iteration", "General/x", "General/y", "status"]


def test_a_random_search_ends_when_nothing_new_is_left(found: dict[str, Any]) -> None:
    sampled = found["sampled"]

    assert sorted(told["General/x"] for told in sampled["told"]) == [1, 2]
    assert sampled["best"] == ["1"]


def test_copies_that_take_too_long_or_report_too_much_are_stopped(found: dict[str, Any]) -> None:
    limited = found["limited"]

    assert limited["statuses"] == ["stopped", "stopped", "failed", "completed"]
    assert limited["elapsed"][0] < 20
    assert sorted(limited["heard"]) == ["endless", "fine"]  # the others have no value


def test_the_time_limit_of_a_search_stops_what_runs(found: dict[str, Any]) -> None:
    case = found["out_of_time"]

    assert case["waited"] and case["statuses"] == ["stopped"] * len(case["statuses"]) and case["running"] == 0
    assert case["seconds"] < 20


def test_stop_ends_copies_that_wait_or_run(found: dict[str, Any]) -> None:
    case = found["stopped"]

    assert not case["waited"]
    assert case["statuses"] == ["stopped"] * 3 and case["running"] == 0 and case["seconds"] < 15


def test_jobs_are_made_launched_and_looked_at(found: dict[str, Any]) -> None:
    jobs = found["jobs"]

    assert jobs["codes"] == [None, 0, 1]
    assert jobs["first"] == [["tagged"], "elsewhere", False, 2]
    assert jobs["metric"] == [70, 72, 70]
    assert jobs["failing"] == [True, True, {"c": '{"a": 1}'}]
    assert jobs["watched"] == [True, True, True]
    assert jobs["other"] == [False, "created", "other", "why", False, -1.0] and jobs["parent"] and jobs["deleted"]


def test_an_equal_job_is_served_from_the_earlier_one(found: dict[str, Any]) -> None:
    assert found["jobs"]["again"] == [True, False, {"x": 7, "y": 2, "mode": "fine"}]


def test_the_example_searches(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    shutil.copytree(ROOT / "examples" / "search", folder)
    python(folder, "-m", "minipipe", "run", "train.py")
    done = python(folder, "-m", "minipipe", "run", "search.py")

    ranked = [line.split()[:2] for line in done.out.splitlines() if line[:1].isdigit()]
    losses = [float(loss) for _, loss in ranked]
    assert [rank for rank, _ in ranked] == ["1", "2", "3"] and losses == sorted(losses)
    assert "best so far" in done.out and done.err.count("completed fit a line") == 6


PIPELINE = """
from minipipe import PipelineDecorator
@PipelineDecorator.component(return_values=["loss"])
def square(x):
    return (x - 3) ** 2
@PipelineDecorator.pipeline(name="p", project="tests", version="1.0")
def flow(x: float = 1.0):
    PipelineDecorator.get_logger().report_scalar("t", "s", float(square(x)), 0)
flow()
"""
SERVICE = """
from minipipe import DiscreteParameterRange, GridSearch, HyperParameterOptimizer, PipelineController, Task
task = Task.init("tests", "search", "optimizer")
base = PipelineController.get(pipeline_name="p", pipeline_project="tests")
ranges = [DiscreteParameterRange("Args/x", [1.0, 2.5, 4.0])]
search = HyperParameterOptimizer(base.id, ranges, "t", "s", "min", optimizer_class=GridSearch, execution_queue="services")
task.execute_remotely("services")
search.start()
search.wait()
print("best", [one.get_parameters()["Args/x"] for one in search.get_top_experiments(1)])
"""


def test_a_pipeline_is_searched_by_a_service_of_a_worker_with_one_slot(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "search.py").write_text(SERVICE)
    python(tmp_path, "-m", "minipipe", "run", "pipeline.py")
    done = python(tmp_path, "-m", "minipipe", "run", "-j", "1", "--logs", "search.py")

    assert "best ['2.5']" in done.out + done.err
    again = python(tmp_path, "-m", "minipipe", "run", "-j", "1", "--logs", "search.py")
    assert "best ['2.5']" in again.out + again.err  # the task is reused, and belongs to this command, too


# -- in this process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def draft(home: Any) -> Task:
    task = Task.create("tests", "template")
    task.set_parameters({"General/x": 1})
    return task


def search(task: Task, *ranges: DiscreteParameterRange, **more: Any) -> HyperParameterOptimizer:
    facts: dict[str, Any] = {"objective_metric_title": "t", "objective_metric_series": "s", **more}
    return HyperParameterOptimizer(task.id, ranges or [DiscreteParameterRange("General/x", [1])], **facts)


def test_bad_searches_are_refused(draft: Task) -> None:
    with pytest.raises(TypeError, match="all texts"):
        search(draft, objective_metric_sign=["max"])
    with pytest.raises(errors.UsageError, match="'best' is unknown"):
        search(draft, objective_metric_sign="best")
    many = {"objective_metric_title": ["a", "b"], "objective_metric_series": ["a", "b"]}
    with pytest.raises(errors.UsageError, match="several objectives need Optuna"):
        search(draft, **many, objective_metric_sign=["min", "max"])
    with pytest.raises(errors.UsageError, match="as many"):
        search(draft, **many, objective_metric_sign=["min"])
    with pytest.raises(errors.UsageError, match="at a time are none"):
        search(draft, max_number_of_concurrent_tasks=0)
    nowhere = search(draft, execution_queue="")
    with pytest.warns(UserWarning, match="name the queue"), pytest.raises(errors.UsageError, match="could not be launched"):
        nowhere.get_optimizer().process_step()
    with pytest.raises(errors.NotFound):
        HyperParameterOptimizer("0" * 32, [], "t", "s")


def test_a_parameter_that_the_task_lacks_is_told(draft: Task) -> None:
    with pytest.warns(UserWarning, match="has no parameter General/z; it has General/x"):
        search(draft, DiscreteParameterRange("General/z", [1]))


def test_a_search_is_recorded_on_its_task_and_can_be_changed_there(draft: Task, as_worker: Any) -> None:
    own = Task.create("tests", "search")
    own.set_parameters({"General/opt/execution_queue": "changed", "General/opt/max_number_of_concurrent_tasks": 7})
    space = [{"type": "DiscreteParameterRange", "name": "General/x", "values": [5, 6]}]
    own.set_configuration_object("General", config_dict={"parameter_optimization_space": space})
    as_worker(own)
    one = search(draft, execution_queue="given", total_max_jobs=3)

    assert (one.execution_queue, one.max_number_of_concurrent_tasks) == ("changed", 7)
    assert one.get_optimizer().total_max_jobs == 3
    assert [each.to_list() for each in one.hyper_parameters] == [[{"General/x": 5}, {"General/x": 6}]]
    assert own.get_parameter("General/opt/optimizer_class") == "RandomSearch" and "optimization" in own.get_tags()


def test_several_objectives_are_ranked_front_by_front() -> None:
    both = MultiObjective(["t", "t"], ["a", "b"], ["max", "min"], [False, False])
    values = {"good": [3.0, 1.0], "worse": [2.0, 2.0], "other": [5.0, 9.0], "worst": [1.0, 9.5]}

    assert [set(both._ranked(values)[:2]), both._ranked(values)[2:]] == [{"good", "other"}, ["worse", "worst"]]
