"""What tasks have reached in one metric: its last, smallest and largest value. Everything here only reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from minipipe.store.home import Store

# A cached task shows the metrics of its original; a step that was tried again those of its last attempt and what others reported on it.
_POINTS = (
    " FROM task t JOIN task s ON s.id = coalesce(t.cached_from, t.id)"
    " JOIN metric m ON m.task_id = s.id AND (m.attempt IN (0, s.attempt) OR s.parent_id IS NULL)"
)


@dataclass(frozen=True, slots=True)
class Reached:
    """One metric of a task.

    Attributes:
        title, series: its name.
        last, smallest, largest: of all points that are numbers.
        iteration: of the last point; None for a single value.
        count: number of points.
    """

    title: str
    series: str
    last: float
    smallest: float
    largest: float
    iteration: int | None
    count: int


def reached(
    store: Store, task_ids: Sequence[int], title: str | None = None, series: str | None = None
) -> dict[int, list[Reached]]:
    """Metrics of tasks, by row id, each in the order it was first reported.

    Args:
        store: where to look.
        task_ids: rows.
        title, series: only this metric; None for all.
    """
    rows = store.database.rows(
        "SELECT t.id AS task, m.title, m.series, min(m.value) AS smallest, max(m.value) AS largest, count(*) AS n,"
        " max(m.id) AS newest, min(m.id) AS first"
        f"{_POINTS} WHERE t.id IN (SELECT value FROM json_each(:ids)) AND m.value IS NOT NULL"
        " AND (:title IS NULL OR m.title = :title) AND (:series IS NULL OR m.series = :series)"
        " GROUP BY t.id, m.title, m.series ORDER BY t.id, first",
        {"ids": json.dumps(list(task_ids)), "title": title, "series": series},
    )
    newest = [row["newest"] for row in rows]
    last = {
        row["id"]: row
        for row in store.database.rows(
            "SELECT id, value, iteration FROM metric WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(newest),)
        )
    }
    found: dict[int, list[Reached]] = {}
    for row in rows:
        point = last[row["newest"]]
        one = Reached(row["title"], row["series"], point["value"], row["smallest"], row["largest"], point["iteration"], row["n"])
        found.setdefault(row["task"], []).append(one)
    return found


def beyond(store: Store, title: str, series: str, threshold: float, largest: bool) -> set[int]:
    """Row ids of the tasks whose metric has reached a threshold at any time.

    Args:
        store: where to look.
        title, series: the metric.
        threshold: included.
        largest: True if the metric must be at least `threshold`, False if at most.
    """
    sign = ">=" if largest else "<="
    rows = store.database.rows(
        f"SELECT DISTINCT t.id{_POINTS} WHERE m.title = ? AND m.series = ? AND m.value {sign} ?", (title, series, threshold)
    )
    return {row["id"] for row in rows}


def anything_ended(store: Store, task_ids: Sequence[int]) -> bool:
    """True if one of these tasks waits and runs no more, or was deleted."""
    row = store.database.row(
        "SELECT count(*) FROM task WHERE id IN (SELECT value FROM json_each(?))"
        " AND status IN ('created', 'pending', 'queued', 'in_progress')",
        (json.dumps(list(task_ids)),),
    )
    return row is None or int(row[0]) < len(set(task_ids))
