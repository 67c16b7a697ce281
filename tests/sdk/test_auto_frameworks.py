"""Figures, models and scalars of other libraries land on the task, and never in the way of the user's call."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import Task
from minipipe.sdk import auto
from minipipe.sdk.auto import connection
from minipipe.sdk.connect import Binding
from minipipe.store import edits, models, plots
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import Left, python

Become = Callable[[Task], Task]


@pytest.fixture
def task(home: Store, as_worker: Become, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """A task that runs here."""
    auto.watch()
    monkeypatch.chdir(tmp_path)
    yield as_worker(Task.create("tests", "frameworks"))
    connection.end()


def outputs(task: Task, role: str = models.OUTPUT) -> list[tuple[str, str, str]]:
    return [(one.name, one.model.name, one.model.framework) for one in models.of_task(task.store, task.row_id, role)]


# -- models -------------------------------------------------------------------------------------------------------------


def test_what_joblib_writes_is_an_output_model_and_what_it_reads_an_input_model(task: Task, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    other = tmp_path / "other.pkl"
    with auto.aside():
        joblib.dump([0], other)

    joblib.dump([1, 2], "first.pkl")
    joblib.dump([3], filename=Path("first.pkl"), compress=True)
    with open("second.pkl", "wb") as file:
        joblib.dump([4], file)
    joblib.dump([5], io.BytesIO())
    assert joblib.load("first.pkl") == [3] and joblib.load(other) == [0]

    assert outputs(task) == [
        ("first", "frameworks - first", "ScikitLearn"),
        ("second", "frameworks - second", "ScikitLearn"),
    ]
    first, second = (one.model for one in models.of_task(task.store, task.row_id, models.OUTPUT))
    assert bytes(models.weights(task.store, first)) == Path("first.pkl").read_bytes()
    assert (first.file, second.file) == ("first.pkl", "second.pkl")
    used = models.of_task(task.store, task.row_id, models.INPUT)
    assert [(one.name, one.model.uid == first.uid, one.model.url) for one in used] == [
        ("first", True, None),
        ("other", False, other.as_uri()),
    ]


@pytest.mark.parametrize(
    ("frameworks", "names"),
    [
        (True, ["keep", "leave"]),
        (False, []),
        ({}, []),
        ({"joblib": False}, []),
        ({"joblib": "keep*"}, ["keep"]),
        ({"joblib": ["*.none", "leave.pkl"]}, ["leave"]),
        ({"*": False, "joblib": True}, ["keep", "leave"]),
    ],
)
def test_the_switch_says_which_frameworks_and_which_files(task: Task, frameworks: Any, names: list[str]) -> None:
    joblib = pytest.importorskip("joblib")
    connection.begin(Binding(task._current, False), frameworks=frameworks)
    for name in ("keep", "leave"):
        joblib.dump([1], f"{name}.pkl")
    assert [name for name, _, _ in outputs(task)] == names


def test_the_switch_of_a_step_is_what_was_stored_with_it(task: Task) -> None:
    joblib = pytest.importorskip("joblib")
    edits.amend(task.store, task.row_id, edits.facts(task.store, task.row_id), {"auto_connect_frameworks": {"joblib": False}})
    joblib.dump([1], "model.pkl")
    assert outputs(task) == []


def test_without_a_task_nothing_is_captured(home: Store, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    auto.watch()
    joblib.dump([1], tmp_path / "model.pkl")
    assert joblib.load(tmp_path / "model.pkl") == [1]
    assert models.query(home) == []


def test_an_error_of_the_library_reaches_the_user_and_one_of_ours_does_not(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    joblib = pytest.importorskip("joblib")
    with pytest.raises(FileNotFoundError):
        joblib.dump([1], "missing/model.pkl")
    with pytest.raises(Exception, match="pickle"):
        joblib.dump(threading.Lock(), "model.pkl")

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("ours")

    monkeypatch.setattr(models, "set_weights", broken)
    assert joblib.dump([1], "model.pkl") == ["model.pkl"] and joblib.load("model.pkl") == [1]
    assert "note: joblib: not captured: ValueError: ours" in capsys.readouterr().err


DUMP = """
import multiprocessing, pickle
from minipipe import PipelineDecorator, Task
from joblib import dump, load
import joblib, matplotlib.pyplot


@PipelineDecorator.component(return_values=["found"], cache=True)
def keep(n):
    dump([n], "kept.pkl")
    return load("kept.pkl")


@PipelineDecorator.pipeline(name="keep", project="tests", version="1")
def logic():
    return list(keep(3))


if __name__ == "__main__":
    for function in (joblib.dump, joblib.load, matplotlib.pyplot.show, matplotlib.pyplot.Figure.savefig):
        assert pickle.loads(pickle.dumps(function)) is function
    joblib.dump([1], "one.pkl")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(joblib.load, ["one.pkl"]) == [[1]]
    PipelineDecorator.run_locally()
    assert logic() == [3] == logic()
"""


@pytest.mark.exhaustive
def test_hooked_functions_travel_like_the_originals(folder: Path) -> None:
    pytest.importorskip("joblib")
    pytest.importorskip("matplotlib")
    (folder / "script.py").write_text(DUMP)
    python(folder, "script.py")

    left = Left(folder)
    first, second = left.rows("SELECT id, cached_from FROM task WHERE name = 'keep' AND parent_id IS NOT NULL ORDER BY id")
    assert second["cached_from"] == first["id"]
    assert [one.name for one in models.of_task(left.store, first["id"])] == ["kept", "kept"]


# -- figures ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")  # said where there is a display
def test_figures_are_captured_when_they_are_shown_or_saved(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    pyplot.close("all")
    task.get_logger().report_scalar("loss", "train", 1.0, 7)
    pyplot.plot([1, 2])
    pyplot.show()
    pyplot.plot([3, 4])
    pyplot.title("named")
    pyplot.show()
    pyplot.plot([5, 6])
    pyplot.title("named")
    pyplot.savefig(io.BytesIO())
    pyplot.show()  # nothing changed since it was saved
    pyplot.plot([7, 8])
    task.get_logger().report_matplotlib_figure("by hand", "series", pyplot, iteration=3)
    pyplot.show()
    figure = pyplot.figure()
    figure.subplots().plot([1])
    figure.suptitle("whole")
    figure.savefig("whole.png")
    pyplot.show()
    pyplot.close("all")

    found = plots.of_task(task.store, task.row_id)
    assert [(one.title, one.iteration) for one in found] == [
        ("untitled 01", 7),
        ("named", 7),
        ("named/1", 7),
        ("by hand", 3),
        ("whole", 7),
    ]
    assert all(bytes(plots.content(task.store, one)).startswith(b"\x89PNG") for one in found)


# -- libraries that are not installed: their surface, as their documents give it ---------------------------------------

SURFACE = {
    "torch": """
import pickle
def manual_seed(value):
    pass
def save(obj, f, pickle_module=None):
    with open(f, "wb") as file:
        pickle.dump(obj, file)
def load(f, map_location=None):
    with open(f, "rb") as file:
        return pickle.load(file)
""",
    "keras": """
class Model:
    def save(self, filepath, overwrite=True):
        open(filepath, "w").write("model")
    def save_weights(self, filepath):
        open(filepath, "w").write("weights")
class models:
    @staticmethod
    def load_model(filepath):
        return Model()
""",
    "tensorboardX": """
class SummaryWriter:
    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
        return "kept"
    def add_scalars(self, main_tag, tag_scalar_dict, global_step=None):
        pass
""",
    "xgboost": """
import sys, types
class TrainingCallback:
    pass
callback = types.ModuleType("xgboost.callback")
callback.TrainingCallback = TrainingCallback
sys.modules["xgboost.callback"] = callback
class Booster:
    def save_model(self, fname):
        open(fname, "w").write("trees")
def train(params, dtrain, num_boost_round=10, *, evals=None, callbacks=None):
    for epoch in range(num_boost_round):
        for each in callbacks or []:
            each.after_iteration(None, epoch, {"test": {"rmse": [1.0 / (epoch + 1)]}})
    return Booster()
""",
}

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch  # before minipipe
from minipipe import Logger, Task
import keras, tensorboardX, xgboost
task = Task.init("tests", "surfaces")
torch.save([1], "net.pt")
assert torch.load("net.pt") == [1]
keras.Model().save("whole.keras")
keras.Model().save_weights("net.weights.h5")
keras.models.load_model("whole.keras")
writer = tensorboardX.SummaryWriter()
assert writer.add_scalar("train/net/loss", 0.5, 3) == "kept"
writer.add_scalar("lonely", 1, global_step=1)
writer.add_scalars("both", {"a": 1, "b": 2}, 4)
Logger.tensorboard_auto_group_scalars(True)
writer.add_scalar("lonely", 2, 5)
Logger.tensorboard_auto_group_scalars(False)
Logger.tensorboard_single_series_per_graph(True)
writer.add_scalars("both", {"a": 3}, 6)
Logger.tensorboard_single_series_per_graph(False)
for _ in range(2):
    booster = xgboost.train({}, None, num_boost_round=2)
booster.save_model("trees.json")
"""


def test_torch_keras_tensorboard_and_xgboost(folder: Path) -> None:
    library = folder / "library"
    library.mkdir()
    for name, text in SURFACE.items():
        (library / f"{name}.py").write_text(text)
    (folder / "script.py").write_text(SCRIPT)
    python(folder, "script.py", str(library))

    left = Left(folder)
    (row,) = left.rows("SELECT * FROM task")
    found = models.of_task(left.store, row["id"])
    assert sorted((one.role, one.name, one.model.framework) for one in found) == [
        ("input", "net", "PyTorch"),
        ("input", "whole", "Keras"),
        ("output", "net", "PyTorch"),
        ("output", "net.weights", "Keras"),
        ("output", "trees", "XGBoost"),
        ("output", "whole", "Keras"),
    ]
    points = left.rows("SELECT title, series, iteration, value FROM metric ORDER BY id")
    assert [tuple(one) for one in points] == [
        ("train_net", "loss", 3, 0.5),
        ("lonely", "lonely", 1, 1.0),
        ("both", "a", 4, 1.0),
        ("both", "b", 4, 2.0),
        ("Scalars", "lonely", 5, 2.0),
        ("both_a", "a", 6, 3.0),
        ("test", "rmse", 0, 1.0),
        ("test", "rmse", 1, 0.5),
        ("test - 1", "rmse", 0, 1.0),
        ("test - 1", "rmse", 1, 0.5),
    ]
