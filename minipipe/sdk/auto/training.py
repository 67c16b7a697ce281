"""Training of xgboost, lightgbm and catboost: the metrics that the library evaluates are reported, one point per iteration.

The title is the data set (ClearML's rule), the series the metric; a second training in a task has its number in the titles.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from typing import Any

from minipipe.sdk import session
from minipipe.sdk.auto import connection, quiet
from minipipe.sdk.logger import Logger

Report = Callable[[str, str, float, int], None]

_busy = threading.local()
_trainings: dict[str, int] = {}


def _reporter(library: str, here: session.Current) -> Report:
    number = _trainings.get(here.uid, 0)
    _trainings[here.uid] = number + 1
    logger = Logger(here)

    def report(title: str, series: str, value: float, iteration: int) -> None:
        with quiet(library):
            logger.report_scalar(f"{title} - {number}" if number else title, series, value, iteration)

    return report


def _with_callback(library: str, original: Callable[..., Any], make: Callable[[Report], Any]) -> Callable[..., Any]:
    def train(*args: Any, **kwargs: Any) -> Any:
        here = connection.capturing(library)
        if here is None or getattr(_busy, "inside", False):
            return original(*args, **kwargs)
        with quiet(library):
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or []), make(_reporter(library, here))]
        _busy.inside = True
        try:
            return original(*args, **kwargs)
        finally:
            _busy.inside = False

    return train


def xgboost(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of ``xgboost.train``, which the estimators call too."""
    base: Any = sys.modules["xgboost.callback"].TrainingCallback

    class Reporting(base):  # type: ignore[misc]
        def __init__(self, report: Report) -> None:
            super().__init__()
            self.report = report

        def after_iteration(self, model: Any, epoch: int, evals_log: dict[str, dict[str, list[Any]]]) -> bool:
            for data, metrics in evals_log.items():
                for name, values in metrics.items():
                    self.report(data, name, values[-1][0] if isinstance(values[-1], tuple) else values[-1], epoch)
            return False

    return _with_callback(library, original, Reporting)


def lightgbm(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of ``lightgbm.train``, which the estimators call too."""

    def make(report: Report) -> Any:
        def callback(env: Any) -> None:
            for data, name, value, *_ in env.evaluation_result_list or []:
                report(data, name, value, env.iteration)

        return callback

    return _with_callback(library, original, make)


class _CatBoostReporting:
    def __init__(self, report: Report) -> None:
        self.report = report

    def after_iteration(self, info: Any) -> bool:
        for data, metrics in (info.metrics or {}).items():
            for name, values in metrics.items():
                self.report(data, name, values[-1], info.iteration)
        return True


def catboost(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of what every ``fit`` of catboost calls; on a GPU the library takes no callbacks."""
    signature = inspect.signature(original)

    def fit(*args: Any, **kwargs: Any) -> Any:
        here = connection.capturing(library)
        if here is not None and args[0].get_params().get("task_type") != "GPU":
            with quiet(library):
                bound = signature.bind(*args, **kwargs)
                bound.arguments["callbacks"] = [
                    *(bound.arguments["callbacks"] or []),
                    _CatBoostReporting(_reporter(library, here)),
                ]
                args, kwargs = bound.args, bound.kwargs
        return original(*args, **kwargs)

    return fit
