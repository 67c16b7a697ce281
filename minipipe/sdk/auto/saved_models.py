"""Models that other libraries save and load become output and input models of the task, with their weights in the store.

A file saved again under the same name in a task is the same model with new weights. What is loaded and was saved by a task here is
that model; other files are registered by their path and not read. Training of xgboost, lightgbm and catboost reports the metrics that
the library evaluates (ClearML's titles: the data set, or the metric's group).
"""

from __future__ import annotations

import fnmatch
import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from minipipe.sdk import session
from minipipe.sdk.auto import connection, is_aside, quiet, wrap
from minipipe.sdk.logger import Logger
from minipipe.store import blobs, models, records

Wrapped = Callable[[Callable[..., Any]], Callable[..., Any]]

_busy = threading.local()
_known: dict[str, int] = {}  # absolute path -> row of the model that was saved there or loaded from there
_trainings: dict[str, int] = {}

# Class or "" for the module itself, function, its argument with the file.
_SAVES: dict[str, list[tuple[str, str, str]]] = {
    "joblib": [("", "dump", "filename")],
    "xgboost": [("Booster", "save_model", "fname")],
    "lightgbm": [("Booster", "save_model", "filename")],
    "catboost": [("CatBoost", "save_model", "fname")],
    "torch": [("", "save", "f")],
    "keras": [("Model", "save", "filepath"), ("Model", "save_weights", "filepath")],
}
_LOADS: dict[str, list[tuple[str, str, str]]] = {
    "joblib": [("", "load", "filename")],
    "xgboost": [("Booster", "load_model", "fname")],
    "lightgbm": [("Booster", "__init__", "model_file")],
    "catboost": [("CatBoost", "load_model", "fname")],
    "torch": [("", "load", "f")],
    "keras": [("models", "load_model", "filepath"), ("Model", "load_weights", "filepath")],
}
_FRAMEWORKS = {
    "joblib": "ScikitLearn",
    "sklearn": "ScikitLearn",
    "xgboost": "XGBoost",
    "lightgbm": "LightGBM",
    "catboost": "CatBoost",
    "torch": "PyTorch",
    "keras": "Keras",
}
_SWITCHES = {"torch": "pytorch", "keras": "tensorflow"}  # as `auto_connect_frameworks` calls them, where it is not the module's name


def patch(module: ModuleType) -> None:
    """Install the hooks of one library."""
    library = module.__name__
    for table, after in ((_SAVES, _saved), (_LOADS, _loaded)):
        for holder, function, argument in table[library]:
            owner = getattr(module, holder, None) if holder else module
            if owner is not None and hasattr(owner, function):
                wrap(owner, function, _noting(library, argument, after))
    if library in _TRAINERS:
        for owner, function, hook in _TRAINERS[library](module):
            wrap(owner, function, hook)


# -- files --------------------------------------------------------------------------------------------------------------


def _noting(library: str, argument: str, after: Callable[[str, Any, Path | None], None]) -> Wrapped:
    """Have `after` called with the model and the file, once the library has done its work."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        place = _place(original, argument)

        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(_busy, "inside", False) or is_aside():
                return original(*args, **kwargs)
            _busy.inside = True
            try:
                result = original(*args, **kwargs)
            finally:
                _busy.inside = False
            with quiet(library):
                model = args[0] if after is _saved and args else result
                after(library, model, _file(args, kwargs, place, argument))
            return result

        return call

    return make


def _place(function: Callable[..., Any], argument: str) -> int:
    try:
        return list(inspect.signature(function).parameters).index(argument)
    except (ValueError, TypeError):
        return -1


def _file(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, argument: str) -> Path | None:
    """The file that a call was given; None for a stream without a name, or for none."""
    given: Any = kwargs[argument] if argument in kwargs else args[place] if 0 <= place < len(args) else None
    if isinstance(given, (str, os.PathLike)):
        return Path(os.path.abspath(given))
    name = getattr(given, "name", None)
    if isinstance(name, str) and hasattr(given, "flush"):
        if not getattr(given, "closed", True):
            given.flush()
        return Path(os.path.abspath(name))
    return None


def _framework(library: str, model: Any) -> str:
    """Of what joblib wrote or read: the library of the object's class, else scikit-learn (ClearML's rule)."""
    if library != "joblib":
        return _FRAMEWORKS[library]
    return _FRAMEWORKS.get(type(model).__module__.partition(".")[0], "ScikitLearn")


def _capturing(library: str, file: Path | None) -> session.Current | None:
    switch = _SWITCHES.get(library, library)
    here = connection.capturing(switch)
    if here is None or file is None or not any(
        fnmatch.fnmatch(text, pattern) for pattern in connection.patterns(switch) for text in (file.name, str(file))
    ):
        return None
    return here


def _saved(library: str, model: Any, file: Path | None) -> None:
    here = _capturing(library, file)
    if here is None or file is None or not file.is_file():
        return
    store, row = here.store, here.row_id
    linked = next((one.model for one in models.of_task(store, row, models.OUTPUT) if one.name == file.stem), None)
    if linked is None:
        task, project = records.names_of(store, row)
        new = models.NewModel(f"{task} - {file.stem}", project, row, _framework(library, model))
        linked = models.create(store, here.lease, new)
        models.link(store, here.lease, row, linked.id, models.OUTPUT, file.stem)
    writer = blobs.Writer(store)
    with open(file, "rb") as stream:
        while data := stream.read(1 << 20):
            writer.write(data)
    iteration = records.last_iteration(store, row)
    models.set_weights(store, here.lease, linked.id, writer=writer, file=file.name, iteration=iteration)
    _known[str(file)] = linked.id


def _loaded(library: str, model: Any, file: Path | None) -> None:
    here = _capturing(library, file)
    if here is None or file is None or not file.is_file():
        return
    store, row, url = here.store, here.row_id, file.as_uri()
    if str(file) not in _known:
        there = models.query(store, url=url)
        if not there:
            _, project = records.names_of(store, row)
            new = models.NewModel(file.stem, project, None, _framework(library, model), url=url)
            there = [models.create(store, here.lease, new)]
        _known[str(file)] = there[0].id
    models.link(store, here.lease, row, _known[str(file)], models.INPUT, file.stem)


# -- training -----------------------------------------------------------------------------------------------------------


def _reporter(library: str, here: session.Current) -> Callable[[str, str, float, int], None]:
    """Reports a metric; a second training in a task has its number in the titles (ClearML's rule)."""
    number = _trainings.get(here.uid, 0)
    _trainings[here.uid] = number + 1
    logger = Logger(here)

    def report(title: str, series: str, value: float, iteration: int) -> None:
        with quiet(library):
            logger.report_scalar(f"{title} - {number}" if number else title, series, value, iteration)

    return report


def _with_callback(library: str, make: Callable[[Callable[[str, str, float, int], None]], Any]) -> Wrapped:
    def hook(original: Callable[..., Any]) -> Callable[..., Any]:
        def train(*args: Any, **kwargs: Any) -> Any:
            here = connection.capturing(library)
            if here is None or getattr(_busy, "training", False):
                return original(*args, **kwargs)
            with quiet(library):
                kwargs["callbacks"] = [*(kwargs.get("callbacks") or []), make(_reporter(library, here))]
            _busy.training = True
            try:
                return original(*args, **kwargs)
            finally:
                _busy.training = False

        return train

    return hook


def _xgboost(module: Any) -> list[tuple[Any, str, Wrapped]]:
    def make(report: Callable[[str, str, float, int], None]) -> Any:
        class Reporting(module.callback.TrainingCallback):  # type: ignore[misc]
            def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, dict[str, list[Any]]]) -> bool:
                for data, metrics in evals_log.items():
                    for name, values in metrics.items():
                        value = values[-1]
                        report(data, name, value[0] if isinstance(value, tuple) else value, epoch)
                return False

        return Reporting()

    hook = _with_callback("xgboost", make)
    return [(module, "train", hook), (module.training, "train", hook), (getattr(module, "sklearn", module), "train", hook)]


def _lightgbm(module: Any) -> list[tuple[Any, str, Wrapped]]:
    def make(report: Callable[[str, str, float, int], None]) -> Any:
        def callback(env: Any) -> None:
            for data, name, value, *_ in env.evaluation_result_list or []:
                report(data, name, value, env.iteration)

        return callback

    return [(module, "train", _with_callback("lightgbm", make))]


def _catboost(module: Any) -> list[tuple[Any, str, Wrapped]]:
    class Reporting:
        def __init__(self, report: Callable[[str, str, float, int], None]) -> None:
            self.report = report

        def after_iteration(self, info: Any) -> bool:
            for data, metrics in (info.metrics or {}).items():
                for name, values in metrics.items():
                    self.report(data, name, values[-1], info.iteration)
            return True

    return [(module.CatBoost, "_fit", _catboost_fit(Reporting))]


def _catboost_fit(make: Callable[[Callable[[str, str, float, int], None]], Any]) -> Wrapped:
    def hook(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def fit(*args: Any, **kwargs: Any) -> Any:
            here = connection.capturing("catboost")
            if here is not None and args[0].get_params().get("task_type") != "GPU":  # which takes no callbacks
                with quiet("catboost"):
                    bound = signature.bind(*args, **kwargs)
                    bound.arguments["callbacks"] = [*(bound.arguments["callbacks"] or []), make(_reporter("catboost", here))]
                    args, kwargs = bound.args, bound.kwargs
            return original(*args, **kwargs)

        return fit

    return hook


_TRAINERS: dict[str, Callable[[Any], list[tuple[Any, str, Wrapped]]]] = {
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
}
