"""A search by Optuna, where it is installed: real copies, one objective and two, and what cannot be searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.sdk_scripts import python

pytestmark = pytest.mark.exhaustive  # real searches, services and examples, each with processes of its own

pytest.importorskip("optuna")

SCRIPT = """
import json
from minipipe import HyperParameterOptimizer, LogUniformParameterRange, Task, UniformIntegerParameterRange
from minipipe.sdk.automation.optuna import OptimizerOptuna
open("template.py", "w").write('''
from minipipe import Logger, Task
task = Task.init("tests", "template")
told = task.connect({"x": 1, "rate": 0.1})
for step in range(2):
    Logger.current_logger().report_scalar("t", "loss", (told["x"] - 3) ** 2 + step, step)
Logger.current_logger().report_scalar("t", "size", told["x"], 0)
''')
import optuna
Task.init("tests", "search", "optimizer")
draft = Task.create("tests", "template", script="template.py")
draft.set_parameters({"General/x": 1, "General/rate": 0.1})
found = {}
for name, title, series, sign in (("one", "t", "loss", "min"), ("two", ["t", "t"], ["loss", "size"], ["min", "max"])):
    search = HyperParameterOptimizer(
        draft.id,
        [UniformIntegerParameterRange("General/x", 0, 5), LogUniformParameterRange("General/rate", -3, -1)],
        title, series, sign, optimizer_class=OptimizerOptuna, max_number_of_concurrent_tasks=2, total_max_jobs=5,
        max_iteration_per_job=10, optuna_sampler=optuna.samplers.RandomSampler(seed=1),
    )
    search.start_locally()
    search.wait()
    trials = search.get_optimizer()._study.trials
    best = search.get_top_experiments(5)
    found[name] = {
        "states": sorted(trial.state.name for trial in trials),
        "told": [list(trial.params.values()) for trial in trials],
        "values": [trial.values for trial in trials],
        "best": [search.objective_metric.get_objective(task) for task in best],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("optuna")
    (folder / "search.py").write_text(SCRIPT)
    read: dict[str, Any] = json.loads(python(folder, "search.py").out.splitlines()[-1])
    return read


def test_optuna_hears_what_its_values_led_to(found: dict[str, Any]) -> None:
    one = found["one"]

    assert one["states"] == ["COMPLETE"] * 5
    assert [values[0] for values in one["values"]] == [(x - 3) ** 2 + 1 for x, _ in one["told"]]
    assert all(0.001 <= rate <= 0.1 for _, rate in one["told"])
    assert one["best"] == sorted(one["best"])


def test_two_objectives_are_told_together(found: dict[str, Any]) -> None:
    two = found["two"]

    assert two["states"] == ["COMPLETE"] * 5
    assert two["values"] == [[(x - 3) ** 2 + 1, x] for x, _ in two["told"]]
    best = two["best"][0]
    assert not any(loss <= best[0] and size >= best[1] and (loss, size) != tuple(best) for loss, size in two["values"])
