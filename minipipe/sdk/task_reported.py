"""What a task has reported, read back: numbers, plots, debug samples, the log (ClearML's `Task`)."""

from __future__ import annotations

import datetime
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipipe.sdk import logger
from minipipe.sdk.task_base import TaskBase
from minipipe.store import plots, recorded, records


class TaskReported(TaskBase):
    """Reading what was reported."""

    # -- plots and samples --------------------------------------------------------------------------------------------

    def get_reported_plots(self, max_iterations: int | None = None) -> list[dict[str, Any]]:
        """Plots and tables of the last iterations, as ClearML's server gives them.

        Args:
            max_iterations: of each title and series so many, counted from the last; default 1.

        Returns:
            Dicts with ``metric`` (the title), ``variant`` (the series), ``iter``, ``timestamp`` (milliseconds since 1970), ``task``,
            ``type`` "plot", and ``plot_str``: the figure in Plotly's JSON. A picture is a figure that shows its `url`.
        """
        found = plots.of_task(self.store, self.row_id, (plots.PLOT, plots.TABLE))
        return [
            {**self._event(plot, "plot"), "plot_str": text, "plot_len": len(text)}
            for plot in _last_iterations(found, max_iterations or 1)
            for text in [self._figure_text(plot)]
        ]

    def _figure_text(self, plot: plots.Plot) -> str:
        if plot.is_figure:
            return bytes(plots.content(self.store, plot)).decode()
        image = {"source": _url(plot), "xref": "paper", "yref": "paper", "x": 0, "y": 1, "sizex": 1, "sizey": 1}
        return json.dumps({"data": [], "layout": {"title": {"text": plot.title}, "images": [image]}})

    def get_debug_samples(self, title: str, series: str, n_last_iterations: int | None = None) -> list[dict[str, Any]]:
        """Pictures and media of a title and series, newest iteration first.

        Args:
            title, series: as reported.
            n_last_iterations: at most so many; all if left out.

        Returns:
            Dicts with ``metric``, ``variant``, ``iter``, ``timestamp``, ``task``, ``type``, ``key`` (the file's name) and ``url``, which
            `StorageManager.get_local_copy` opens.

        Raises:
            TypeError: `n_last_iterations` is no positive integer.
        """
        if n_last_iterations is not None and (not isinstance(n_last_iterations, int) or n_last_iterations < 0):
            raise TypeError(f"n_last_iterations is a positive integer, not {n_last_iterations!r}")
        found = plots.of_task(self.store, self.row_id, (plots.SAMPLE,), title, series)
        newest = sorted(found, key=lambda plot: plot.iteration or 0, reverse=True)[: n_last_iterations or None]
        return [{**self._event(plot, "training_debug_image"), "key": plot.file, "url": _url(plot)} for plot in newest]

    def _event(self, plot: plots.Plot, kind: str) -> dict[str, Any]:
        facts = {"timestamp": int(plot.at * 1000), "type": kind, "task": self.id, "iter": plot.iteration or 0}
        return {**facts, "metric": plot.title, "variant": plot.series}

    # -- iterations ---------------------------------------------------------------------------------------------------

    def set_initial_iteration(self, offset: int = 0) -> int:
        """Add a number to all iterations that the task reports from now on (a continued training). Returns it.

        Transaction effect: one durable commit.
        """
        recorded.set_setting(self.store, self.row_id, "first_iteration", int(offset))
        logger.forget_first_iteration()
        return int(offset)

    def get_initial_iteration(self) -> int:
        """See `set_initial_iteration`; after ``continue_last_task`` one more than the last iteration."""
        return int(records.settings_of(self.store, self.row_id).get("first_iteration", 0))

    # -- numbers ------------------------------------------------------------------------------------------------------

    def get_reported_scalars(self, max_samples: int = 0, x_axis: str = "iter") -> dict[str, dict[str, dict[str, list[float]]]]:
        """All points: ``{title: {series: {"x": iterations, "y": values}}}``.

        Args:
            max_samples: at most so many points per series, each the mean of its window (ClearML's rule); 0 for all of them.
            x_axis: "iter", "timestamp" (milliseconds since 1970) or "iso_time" (text, UTC).

        Raises:
            ValueError: another `x_axis`.
        """
        if x_axis not in _PLACES:
            raise ValueError(f"x_axis is {x_axis!r}, not one of {', '.join(_PLACES)}")
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in records.points(self.store, self.row_id):
            if row["iteration"] is None:
                continue
            series = found.setdefault(row["title"], {}).setdefault(row["series"], {"name": row["series"], "x": [], "y": []})
            series["x"].append(_PLACES[x_axis](row))
            series["y"].append(math.nan if row["value"] is None else row["value"])
        for group in found.values():
            for series in group.values():
                _thin_out(series, max_samples)
        return found

    def get_all_reported_scalars(self, x_axis: str = "iter") -> dict[str, dict[str, dict[str, list[float]]]]:
        """As `get_reported_scalars`, always all points."""
        return self.get_reported_scalars(0, x_axis)

    def get_last_iteration(self) -> int:
        """The highest iteration that was reported, 0 if none was (ClearML's rule)."""
        return records.last_iteration(self.store, self.row_id) or 0

    def get_reported_console_output(self, number_of_reports: int = 1) -> list[str]:
        """The last lines of the log of the last attempt, oldest first; a line is a report here.

        Args:
            number_of_reports: at most so many.
        """
        return _last_lines(records.log_of(self.store, self.row_id), number_of_reports)

    def get_last_scalar_metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """``{title: {series: {"last", "min", "max"}}}`` of what was reported."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for title, group in self.get_reported_scalars().items():
            for name, series in group.items():
                y = series["y"]
                found.setdefault(title, {})[name] = {"last": y[-1], "min": min(y), "max": max(y)}
        for name, value in self.get_reported_single_values().items():
            found.setdefault("Summary", {})[name] = {"last": value, "min": value, "max": value}
        return found

    def get_reported_single_values(self) -> dict[str, float]:
        """The last reported single value of each name."""
        rows = [row for row in records.points(self.store, self.row_id) if row["iteration"] is None]
        return {row["series"]: math.nan if row["value"] is None else row["value"] for row in rows}

    def get_reported_single_value(self, name: str) -> float | None:
        """The last reported single value of that name, None if there is none."""
        return self.get_reported_single_values().get(name)


def _url(plot: plots.Plot) -> str:
    return f"minipipe://{plot.digest}" if plot.url is None else plot.url


def _last_iterations(found: list[plots.Plot], most: int) -> list[plots.Plot]:
    """Of each kind, title and series the `most` highest iterations, in the order of their reports."""
    ranks: dict[tuple[str, str, str], list[plots.Plot]] = {}
    for plot in sorted(found, key=lambda one: one.iteration or 0, reverse=True):
        ranks.setdefault((plot.kind, plot.title, plot.series), []).append(plot)
    kept = {plot.id for group in ranks.values() for plot in group[:most]}
    return [plot for plot in found if plot.id in kept]


_PLACES: dict[str, Callable[[Any], Any]] = {
    "iter": lambda row: row["iteration"],
    "timestamp": lambda row: int(row["at"] * 1000),
    "iso_time": lambda row: datetime.datetime.fromtimestamp(row["at"], datetime.UTC).isoformat(),
}


def _last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log without its head line, read from the end: logs may be long."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return []
    with file:
        place, data = file.seek(0, 2), b""
        while place > 0 and data.count(b"\n") <= count:
            step = min(place, 1 << 16)
            place = file.seek(place - step)
            data = file.read(step) + data
    lines = data.decode("utf-8", "backslashreplace").splitlines()
    if place == 0 and lines and lines[0].startswith("minipipe: "):
        lines = lines[1:]
    return lines[-count:] if count > 0 else []


def _thin_out(series: dict[str, Any], most: int) -> None:
    """Replace windows of points by the first place and the mean value of each."""
    x, y = series["x"], series["y"]
    if most <= 0 or len(x) <= most:
        return
    borders = [len(x) * i // most for i in range(most + 1)]
    series["x"] = [x[first] for first in borders[:-1]]
    series["y"] = [sum(y[a:b]) / (b - a) for a, b in itertools.pairwise(borders)]
