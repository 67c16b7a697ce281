"""What a search wants to be large or small: one metric of a task, or several (ClearML's `Objective` and `MultiObjective`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minipipe import errors
from minipipe.sdk.automation.job import BaseJob, ClearmlJob
from minipipe.sdk.task import Task
from minipipe.sdk.task_base import TaskBase
from minipipe.store import objectives


class Objective:
    """One metric that should be large or small.

    Args:
        title, series: the metric, as it is reported.
        order: "min" or "max".
        extremum: what counts is the best value that was ever reported, not the last one.
    """

    def __init__(self, title: str, series: str, order: str = "max", extremum: bool = False) -> None:
        if order not in ("min", "max"):
            raise errors.UsageError(f"{order!r} is no order of an objective", 'it is "min" or "max"')
        self.title = title
        self.series = series
        self.sign = -1 if order == "min" else 1
        self.extremum = extremum

    def get_objective(self, task_id: str | Task | ClearmlJob) -> float | None:
        """Its value for a task, None if the task has not reported it."""
        task = _task(task_id)
        return self._values(task, [task.row_id]).get(task.row_id)

    def get_current_raw_objective(self, task: ClearmlJob | Task) -> tuple[int, float]:
        """(iteration, value) of the last point; None if there is none (ClearML's rule)."""
        found = _task(task)
        reached = objectives.reached(found.store, [found.row_id], self.title, self.series).get(found.row_id)
        return (reached[0].iteration or 0, reached[0].last) if reached else None  # type: ignore[return-value]

    def get_objective_sign(self) -> float:
        """1 if it should be large, -1 if small."""
        return self.sign

    def get_objective_metric(self) -> tuple[str, str]:
        """(title, series)."""
        return self.title, self.series

    def get_normalized_objective(self, task_id: str | Task | ClearmlJob) -> float | None:
        """As `get_objective`, with its sign changed so that larger is better."""
        value = self.get_objective(task_id)
        return None if value is None else self.sign * value

    def get_top_tasks(
        self, top_k: int, optimizer_task_id: str | None = None, task_filter: dict[str, Any] | None = None
    ) -> Sequence[Task]:
        """The best tasks, best first; those without a value come last.

        Args:
            top_k: at most so many.
            optimizer_task_id: only tasks under this one.
            task_filter: see `Task.query_tasks`.
        """
        found = _below(optimizer_task_id, task_filter)
        values = self._values(found[0], [task.row_id for task in found]) if found else {}
        return self._sorted(found, values)[: max(0, int(top_k))]

    def _sorted(self, found: Sequence[Task], values: Mapping[int, float]) -> list[Task]:
        good = [task for task in found if task.row_id in values]
        good.sort(key=lambda task: self.sign * values[task.row_id], reverse=True)
        return good + [task for task in found if task.row_id not in values]

    def _values(self, place: TaskBase, ids: Sequence[int]) -> dict[int, float]:
        found = objectives.reached(place.store, ids, self.title, self.series)
        return {task: self._value(reached[0]) for task, reached in found.items()}

    def _value(self, reached: objectives.Reached) -> float:
        if not self.extremum:
            return reached.last
        return reached.smallest if self.sign < 0 else reached.largest


class MultiObjective:
    """Several metrics at once. A task is better than another one if it is no worse in all and better in one.

    Args:
        title, series, order, extremum: of each, as for `Objective`; as many of one as of the other.
    """

    def __init__(
        self,
        title: str | Sequence[str],
        series: str | Sequence[str],
        order: str | Sequence[str],
        extremum: bool | Sequence[bool],
    ) -> None:
        self.title, self.series, self.order, self.extremum = title, series, order, extremum
        parts = [[part] if isinstance(part, (str, bool)) else list(part) for part in (title, series, order, extremum)]
        if len({len(part) for part in parts}) != 1:
            raise errors.UsageError("titles, series, orders and extrema have to be as many as each other")
        self.objectives = [Objective(*facts) for facts in zip(*parts, strict=True)]
        self.len = len(self.objectives)

    def get_objective(self, task_id: str | Task | ClearmlJob) -> list[float] | None:
        """The values for a task; None if one is missing."""
        return _all(one.get_objective(task_id) for one in self.objectives)

    def get_current_raw_objective(self, task: ClearmlJob | Task) -> list[tuple[int, float]] | None:
        """[(iteration, value)] of the last points; None if one is missing."""
        return _all(one.get_current_raw_objective(task) for one in self.objectives)

    def get_objective_sign(self) -> list[float]:
        """See `Objective.get_objective_sign`."""
        return [one.get_objective_sign() for one in self.objectives]

    def get_normalized_objective(self, task_id: str | Task | ClearmlJob) -> list[float] | None:
        """See `Objective.get_normalized_objective`; None if one is missing."""
        return _all(one.get_normalized_objective(task_id) for one in self.objectives)

    def get_objective_metric(self) -> list[tuple[str, str]]:
        """[(title, series)]."""
        return [one.get_objective_metric() for one in self.objectives]

    def get_top_tasks(
        self, top_k: int, optimizer_task_id: str | None = None, task_filter: dict[str, Any] | None = None
    ) -> Sequence[Task]:
        """The best tasks: those that no other one beats in everything come first. Those that lack a value are left out.

        Args:
            top_k, optimizer_task_id, task_filter: as for `Objective`.
        """
        if self.len == 1:
            return self.objectives[0].get_top_tasks(top_k, optimizer_task_id, task_filter)
        found = _below(optimizer_task_id, task_filter)
        values = self._values(found[0], [task.row_id for task in found]) if found else {}
        by_row = {task.row_id: task for task in found}
        return [by_row[row] for row in self._ranked(values)][: max(0, int(top_k))]

    def _values(self, place: TaskBase, ids: Sequence[int]) -> dict[int, list[float]]:
        """Values by row id, of the tasks that have all."""
        each = [one._values(place, ids) for one in self.objectives]
        return {row: [values[row] for values in each] for row in ids if all(row in values for values in each)}

    def _ranked(self, values: Mapping[Any, Sequence[float]]) -> list[Any]:
        """Keys, front by front: first what nothing dominates, then what only that dominates, and so on."""
        signs = self.get_objective_sign()
        better = {key: [sign * number for sign, number in zip(signs, row, strict=True)] for key, row in values.items()}
        left, ranked = list(better), list[Any]()
        while left:
            front = [key for key in left if not any(dominates(better[other], better[key]) for other in left)]
            front.sort(key=lambda key: better[key], reverse=True)
            ranked += front
            left = [key for key in left if key not in front]
        return ranked


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """True if `one` is nowhere worse and somewhere better (larger is better)."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _task(given: Any) -> Task:
    if isinstance(given, BaseJob):
        return given.task
    if not given:
        raise errors.UsageError("no task was named")
    return Task.of(given)


def _below(parent: str | None, wanted: Mapping[str, Any] | None) -> list[Task]:
    """Tasks that fit, newest change first."""
    return Task.get_tasks(task_filter={**(wanted or {}), **({} if parent is None else {"parent": [parent]})})


def _all(values: Iterable[Any]) -> list[Any] | None:
    found = list(values)
    return None if any(value is None for value in found) else found
