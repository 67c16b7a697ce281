"""Models that other libraries save and load become output and input models of the task, with their weights in the store.

A file saved again under the same name in a task is the same model with new weights. What is loaded and was saved by a task here is
that model; other files are registered by their path and not read.
"""

from __future__ import annotations

import fnmatch
import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipipe.sdk import session
from minipipe.sdk.auto import connection, is_aside, quiet
from minipipe.store import blobs, models, records

_busy = threading.local()
_known: dict[str, int] = {}  # absolute path -> row of the model that was saved there or loaded from there

_ARGUMENTS = {
    "joblib": "filename",
    "xgboost": "fname",
    "lightgbm": "filename",
    "catboost": "fname",
    "torch": "f",
    "keras": "filepath",
}
_LOADED_BY = {"lightgbm": "model_file"}  # where loading calls the file something else than saving
_FRAMEWORKS = {
    "joblib": "ScikitLearn",
    "sklearn": "ScikitLearn",
    "xgboost": "XGBoost",
    "lightgbm": "LightGBM",
    "catboost": "CatBoost",
    "torch": "PyTorch",
    "keras": "Keras",
}
_SWITCHES = {
    "torch": "pytorch",
    "keras": "tensorflow",
}  # as `auto_connect_frameworks` calls them, where it is not the module's name


def saving(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of what writes a model to a file."""
    return _noting(library, _ARGUMENTS[library], original, _saved)


def loading(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of what reads a model from a file."""
    return _noting(library, _LOADED_BY.get(library, _ARGUMENTS[library]), original, _loaded)


def _noting(
    library: str, argument: str, original: Callable[..., Any], after: Callable[[str, Any, Path | None], None]
) -> Callable[..., Any]:
    """Have `after` called with the model and the file, once the library has done its work."""
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
    if (
        here is None
        or file is None
        or not any(fnmatch.fnmatch(text, pattern) for pattern in connection.patterns(switch) for text in (file.name, str(file)))
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
