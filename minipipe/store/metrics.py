"""What tasks measured, series by series. Everything here only reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minipipe.store import records
from minipipe.store.home import Store

SINGLE = "Summary"  # ClearML's title of values without iteration


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement; `value` may be nan, `iteration` is None for a single value."""

    iteration: int | None
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Series:
    """All points of one line of one chart, in the order they were reported."""

    title: str
    name: str
    points: tuple[Point, ...]

    @property
    def first(self) -> float:
        """The first value."""
        return self.points[0].value

    @property
    def last(self) -> float:
        """The last value."""
        return self.points[-1].value

    @property
    def least(self) -> float:
        """The smallest value; nan only if nothing else was reported."""
        return min(self._numbers(), default=math.nan)

    @property
    def greatest(self) -> float:
        """The greatest value; nan only if nothing else was reported."""
        return max(self._numbers(), default=math.nan)

    def _numbers(self) -> list[float]:
        return [point.value for point in self.points if not math.isnan(point.value)]


def series_of(store: Store, task_id: int, title: str | None = None) -> list[Series]:
    """The series of a task's last attempt in the order of their first points; a cached task shows those of its original.

    Args:
        store: where to look.
        task_id: row id.
        title: only this chart.
    """
    found: dict[tuple[str, str], list[Point]] = {}
    for row in records.points(store, task_id):
        if title is None or row["title"] == title:
            value = math.nan if row["value"] is None else row["value"]
            found.setdefault((row["title"], row["series"]), []).append(Point(row["iteration"], value, row["at"]))
    return [Series(chart, name, tuple(points)) for (chart, name), points in found.items()]
