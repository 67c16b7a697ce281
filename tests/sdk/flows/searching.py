"""Searches with copies as real processes of this script's private worker; prints what came of each, as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from minipipe import (
    ClearmlJob,
    DiscreteParameterRange,
    GridSearch,
    HyperParameterOptimizer,
    LocalClearmlJob,
    RandomSearch,
    RunningJob,
    Task,
    UniformIntegerParameterRange,
)

TEMPLATE = """
import time
from minipipe import Logger, Task
task = Task.init("tests", "template")
told = task.connect({"x": 1, "y": 2, "mode": "fine"})
if told["mode"] == "sleep":
    time.sleep(60)
if told["mode"] == "fail":
    raise ValueError("as asked")
step = 0
while step < 3 or told["mode"] == "endless":
    Logger.current_logger().report_scalar("t", "s", told["x"] * 10 + told["y"] - step, step)
    step += 1
    time.sleep(0.01 if told["mode"] == "endless" else 0)
task.upload_artifact("told", dict(told))
"""


def search(template: Task, ranges: list[Any], **more: Any) -> HyperParameterOptimizer:
    """A search over the template."""
    sign = more.pop("objective_metric_sign", "max")
    return HyperParameterOptimizer(template.id, ranges, "t", "s", sign, auto_connect_task=False, **more)


def ended(one: HyperParameterOptimizer) -> dict[str, Any]:
    """What became of the copies, in the order in which they were made."""
    jobs = one.get_optimizer().get_created_jobs_tasks()
    told = one.get_optimizer().get_created_jobs_ids()
    return {
        "told": list(told.values()),
        "statuses": [job.status() for job in jobs.values()],
        "reasons": [job.status_message() for job in jobs.values()],
        "elapsed": [job.elapsed() for job in jobs.values()],
        "running": one.get_num_active_experiments(),
    }


def grid(template: Task) -> dict[str, Any]:
    heard: list[Any] = []
    ranges = [DiscreteParameterRange("General/x", [1, 2]), UniformIntegerParameterRange("General/y", 3, 5, 2)]
    one = search(template, ranges, optimizer_class=GridSearch, max_number_of_concurrent_tasks=2, save_top_k_tasks_only=3)
    before = [one.is_active(), one.is_running(), one.elapsed()]
    one.start_locally(job_complete_callback=lambda *facts: heard.append(facts))
    done = one.wait()
    top = one.get_top_experiments(2)
    details = one.get_top_experiments_details(1, all_metrics=True)
    children = Task.get_tasks(task_filter={"parent": [Task.current_task().id], "tags": ["optimization"]})
    return {
        **ended(one),
        "before": before,
        "after": [one.is_active(), one.is_running(), one.elapsed() > 0, done],
        "heard": heard,
        "top": [task.get_parameters() for task in top],
        "details": details,
        "archived": sorted(
            task.get_parameter("General/x") + task.get_parameter("General/y") for task in children if task.get_archived()
        ),
        "objective": one.objective_metric.get_objective(top[0].id),
        "names": sorted(task.name for task in children),
        "budget": one.get_optimizer().budget.to_dict()["jobs"],
        "again": [
            task.id == top[place].id
            for place, task in enumerate(
                HyperParameterOptimizer.get_optimizer_top_experiments("t", "s", "max", Task.current_task().id, 2)
            )
        ],
        "artifact": Task.current_task().artifacts["summary"].get()["table"][0],
    }


def sampled(template: Task) -> dict[str, Any]:
    ranges = [UniformIntegerParameterRange("General/x", 1, 2), DiscreteParameterRange("General/y", [1])]
    one = search(template, ranges, optimizer_class=RandomSearch, objective_metric_sign="min_global", total_max_jobs=5)
    one.start_locally()
    one.wait()
    return {**ended(one), "best": [task.get_parameter("General/x") for task in one.get_top_experiments(1)]}


def limited(template: Task) -> dict[str, Any]:
    """One copy that takes too long, one that reports too much, one that fails, one that is fine."""
    modes = [DiscreteParameterRange("General/mode", ["sleep", "endless", "fail", "fine"])]
    one = search(
        template, modes, optimizer_class=GridSearch, time_limit_per_job=3.0 / 60, max_iteration_per_job=20, pool_period_min=5
    )
    heard: list[Any] = []
    one.start_locally(lambda *facts: heard.append(facts[3]["General/mode"]))
    one.wait()
    return {**ended(one), "heard": heard}


def out_of_time(template: Task) -> dict[str, Any]:
    one = search(template, [DiscreteParameterRange("General/mode", ["sleep"] * 3)], optimizer_class=GridSearch)
    one.set_time_limit(in_minutes=1.0 / 60)
    one.start_locally()
    start = time.monotonic()
    return {"waited": one.wait(), **ended(one), "seconds": time.monotonic() - start}


def stopped(template: Task) -> dict[str, Any]:
    one = search(template, [DiscreteParameterRange("General/mode", ["sleep"] * 3)], optimizer_class=GridSearch)
    one.start_locally()
    while not any(job.is_running() for job in one.get_optimizer().get_running_jobs()):
        time.sleep(0.01)
    waited = one.wait(timeout=0.001)
    start = time.monotonic()
    one.stop()
    for job in one.get_optimizer().get_created_jobs_tasks().values():
        job.wait()
    return {"waited": waited, **ended(one), "seconds": time.monotonic() - start}


def jobs(template: Task) -> dict[str, Any]:
    first = LocalClearmlJob(template.id, {"General/x": 7}, tags=["tagged"], target_project="elsewhere", allow_caching=True)
    none = first.wait_for_process(0)
    first.launch()
    code = first.wait_for_process()
    again = ClearmlJob(template.id, {"General/x": 7}, allow_caching=True)
    other = ClearmlJob(template.id, {"General/x": 8}, allow_caching=True, name="other", comment="why")
    failing = LocalClearmlJob(template.id, {"General/mode": "fail"}, configuration_overrides={"c": {"a": 1}})
    failing.launch()
    watched = RunningJob(first.task)
    watched.force_set_is_cached(True)
    return {
        "codes": [none, code, failing.wait_for_process()],
        "first": [first.task.get_tags(), first.task.get_project_name(), first.is_cached_task(), first.iterations()],
        "metric": first.get_metric("t", "s"),
        "again": [again.is_cached_task(), again.launch("nowhere"), again.task.artifacts["told"].get()],
        "other": [other.is_cached_task(), other.status(), other.task.name, other.task.comment, other.started(), other.elapsed()],
        "failing": [failing.is_failed(), failing.is_stopped(), failing.task.get_configuration_objects()],
        "watched": [watched.is_completed(), watched.is_cached_task(), watched.worker() is not None],
        "parent": other.task.parent == template.id,
        "deleted": other.delete() and not other.delete(),
    }


if __name__ == "__main__":
    Path("template.py").write_text(TEMPLATE)
    Task.init("tests", "searches", "optimizer")
    draft = Task.create("tests", "template", script="template.py")
    draft.set_parameters({"General/x": 1, "General/y": 2, "General/mode": "fine"})
    cases = [grid, sampled, limited, out_of_time, stopped, jobs]
    found = {case.__name__: case(draft) for case in cases if len(sys.argv) < 2 or case.__name__ in sys.argv[1:]}
    Path("found.json").write_text(json.dumps(found))
