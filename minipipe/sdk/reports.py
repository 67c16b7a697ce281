"""The `report_*` calls that tasks and models share: numbers, and figures made from plain values (ClearML's signatures).

Each call is stored when it returns; iterations that are not given are 0 (ClearML's rule). What a figure looks like says
`minipipe.sdk.figures`, how it is kept `minipipe.store.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from minipipe import errors
from minipipe.sdk import figures, storage
from minipipe.shown import tell
from minipipe.store import blobs, metrics, plots
from minipipe.store.home import Store


class Reports:
    """Where reports go is up to the class that inherits: it has `_home`, `_point` and `_keep`."""

    _instead: ClassVar[dict[str, tuple[float, int, int]]] = {}  # "nan", "inf" -> value, warn period, times seen

    def _home(self) -> Store:
        """The store that takes the reports."""
        raise NotImplementedError

    def _point(self, title: str, series: str, value: float | None, iteration: int | None) -> None:
        """Store a number; None is nan."""
        raise NotImplementedError

    def _keep(self, new: plots.NewPlot) -> None:
        """Store a plot."""
        raise NotImplementedError

    # -- numbers ------------------------------------------------------------------------------------------------------

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None:
        """Append a point to a series.

        Args:
            title: name of the chart.
            series: name of the line in it.
            value: the number; nan and infinities are kept, unless `Logger.set_reporting_nan_value` said otherwise.
            iteration: its place on the horizontal axis.

        Transaction effect: one commit without sync; monitored points reach the pipeline in the same one.
        """
        self._point(str(title), str(series), _storable(value), int(iteration))

    def report_single_value(self, name: str, value: float) -> None:
        """Store a number that has no iteration; the last one of a name counts."""
        self._point(metrics.SINGLE, str(name), _storable(value), None)

    # -- figures ------------------------------------------------------------------------------------------------------

    def report_vector(
        self,
        title: str,
        series: str,
        values: Any,
        iteration: int | None = None,
        labels: Sequence[str] | None = None,
        xlabels: Sequence[str] | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        mode: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """As `report_histogram`: a vector is drawn as bars (ClearML's rule)."""
        self.report_histogram(title, series, values, iteration, labels, xlabels, xaxis, yaxis, mode, None, extra_layout)

    def report_histogram(
        self,
        title: str,
        series: str,
        values: Any,
        iteration: int | None = None,
        labels: Sequence[str] | None = None,
        xlabels: Sequence[str] | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        mode: str | None = None,
        data_args: dict[str, Any] | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Bars of given heights; counting is the caller's.

        Args:
            title, series: where it belongs.
            values: heights; rows of them for several groups; or what ``numpy.histogram`` gives.
            iteration: default 0.
            labels: name of each row.
            xlabels: text under each bar.
            xaxis, yaxis: what stands at the axes.
            mode: "group" (default), "stack" or "relative".
            data_args: merged into each trace (``{"orientation": "h"}``).
            extra_layout: merged into the layout.

        Raises:
            ValueError: the rows are not of equal length.
        """
        figure = figures.bars(title, series, values, labels, xlabels, xaxis, yaxis, mode, data_args, extra_layout)
        self._draw(title, series, iteration, figure)

    def report_line_plot(
        self,
        title: str,
        series: Sequence[figures.SeriesInfo],
        xaxis: str,
        yaxis: str,
        mode: str = "lines",
        iteration: int | None = None,
        reverse_xaxis: bool = False,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Several lines in one chart; its series is named like the title (ClearML's rule).

        Args:
            title: name of the chart.
            series: `Logger.SeriesInfo` objects.
            xaxis, yaxis: what stands at the axes.
            mode: "lines", "markers" or "lines+markers".
            iteration: default 0.
            reverse_xaxis: the greatest x stands left.
            comment: a line under the title.
            extra_layout: merged into the layout.
        """
        figure = figures.lines(title, series, xaxis, yaxis, mode, reverse_xaxis, comment, extra_layout)
        self._draw(title, title, iteration, figure)

    def report_scatter2d(
        self,
        title: str,
        series: str,
        scatter: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        labels: list[str] | None = None,
        mode: str = "lines",
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Points, or a line through them.

        Args:
            title, series: where it belongs.
            scatter: rows of (x, y).
            iteration: default 0.
            xaxis, yaxis: what stands at the axes.
            labels: text of each point.
            mode: "lines", "markers" or "lines+markers".
            comment: a line under the title.
            extra_layout: merged into the layout.

        Raises:
            ValueError: not rows of two numbers.
        """
        line = figures.SeriesInfo(series, scatter, labels)
        self._draw(title, series, iteration, figures.lines(title, [line], xaxis, yaxis, mode, False, comment, extra_layout))

    def report_scatter3d(
        self,
        title: str,
        series: str,
        scatter: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        zaxis: str | None = None,
        labels: list[str] | None = None,
        mode: str = "markers",
        fill: bool = False,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """Points in space: rows of (x, y, z); with `fill` the area under them is filled. Else as `report_scatter2d`."""
        figure = figures.cloud(title, series, scatter, (xaxis, yaxis, zaxis), labels, mode, fill, comment, extra_layout)
        self._draw(title, series, iteration, figure)

    def report_confusion_matrix(
        self,
        title: str,
        series: str,
        matrix: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        xlabels: list[str] | None = None,
        ylabels: list[str] | None = None,
        yaxis_reversed: bool = False,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """A matrix as colours.

        Args:
            title, series: where it belongs.
            matrix: rows of equal length.
            iteration: default 0.
            xaxis, yaxis: what stands at the axes.
            xlabels, ylabels: names of columns and rows.
            yaxis_reversed: the first row stands at the top.
            comment: a line under the title.
            extra_layout: merged into the layout.

        Raises:
            ValueError: the rows are not of equal length.
        """
        figure = figures.heat(title, series, matrix, xaxis, yaxis, xlabels, ylabels, yaxis_reversed, comment, extra_layout)
        self._draw(title, series, iteration, figure)

    def report_matrix(
        self,
        title: str,
        series: str,
        matrix: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        xlabels: list[str] | None = None,
        ylabels: list[str] | None = None,
        yaxis_reversed: bool = False,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """As `report_confusion_matrix`, without a comment."""
        self.report_confusion_matrix(
            title, series, matrix, iteration, xaxis, yaxis, xlabels, ylabels, yaxis_reversed, None, extra_layout
        )

    def report_surface(
        self,
        title: str,
        series: str,
        matrix: Any,
        iteration: int | None = None,
        xaxis: str | None = None,
        yaxis: str | None = None,
        zaxis: str | None = None,
        xlabels: list[str] | None = None,
        ylabels: list[str] | None = None,
        camera: Sequence[float] | None = None,
        comment: str | None = None,
        extra_layout: dict[str, Any] | None = None,
    ) -> None:
        """A matrix as heights; `camera` is the place (x, y, z) that it is seen from. Else as `report_confusion_matrix`."""
        axes = (xaxis, yaxis, zaxis)
        self._draw(
            title,
            series,
            iteration,
            figures.surface(title, series, matrix, axes, xlabels, ylabels, camera, comment, extra_layout),
        )

    def report_table(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        table_plot: Any = None,
        csv: str | None = None,
        url: str | None = None,
        extra_layout: dict[str, Any] | None = None,
        extra_data: dict[str, Any] | None = None,
    ) -> None:
        """A table; give exactly one of `table_plot`, `csv` and `url`.

        Args:
            title, series: where it belongs.
            iteration: default 0.
            table_plot: a DataFrame, or rows of which the first is the head.
            csv: path of a CSV file.
            url: URL of a CSV file; read at once, see `StorageManager.get_local_copy`.
            extra_layout: merged into the layout.
            extra_data: merged into the trace (``{"columnwidth": [2, 1]}``).

        Raises:
            ValueError: none or several were given, or the file cannot be read.
        """
        one_of(table_plot=table_plot, csv=csv, url=url)
        if url:
            csv = str(storage.local_copy(url, False))
        value = table_plot if csv is None else figures.read_csv(Path(csv))
        self._draw(title, series, iteration, figures.table(title, series, value, extra_layout, extra_data), plots.TABLE)

    def _draw(self, title: str, series: str, iteration: int | None, figure: figures.Figure, kind: str = plots.PLOT) -> None:
        self._keep_bytes(kind, title, series, iteration, plots.FIGURE, figures.dumps(figure))

    def _keep_bytes(
        self, kind: str, title: str, series: str, iteration: int | None, media: str, data: bytes, file: str = "", keep: int = 0
    ) -> None:
        writer = blobs.Writer(self._home())
        writer.write(data)
        self._keep(plots.NewPlot(kind, str(title), str(series), int(iteration or 0), media, file, writer, keep=keep))


def one_of(**given: Any) -> None:
    """Check that exactly one argument was given.

    Raises:
        UsageError: none or several.
    """
    found = [name for name, value in given.items() if value is not None]
    if len(found) != 1:
        raise errors.UsageError(
            f"give exactly one of {', '.join(given)}", f"given: {', '.join(found)}" if found else "none of them was given"
        )


def _storable(value: Any) -> float | None:
    """A number for the store, where nan is NULL; nan and infinities by what `set_reporting_*_value` said, if that was asked for."""
    number = float(value)
    if math.isfinite(number):
        return number
    kind = "nan" if math.isnan(number) else "inf"
    if kind in Reports._instead:
        instead, period, seen = Reports._instead[kind]
        if seen % period == 0:
            tell(f"warning: {kind} was reported; stored as {instead}")
        Reports._instead[kind] = (instead, period, seen + 1)
        return None if math.isnan(instead) else instead
    return None if kind == "nan" else number
