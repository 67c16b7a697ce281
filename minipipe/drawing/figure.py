"""Figures in Plotly's words, drawn without Plotly: lines, points, bars, histograms, heat maps, tables.

What cannot be drawn (3-D, polar, maps …) is no error: the page then shows the figure's JSON.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minipipe import shown
from minipipe.drawing import chart
from minipipe.drawing.element import Markup

_MOST_BINS = 24
_MOST_BARS = 160
_MOST_CELLS = 4096
_MOST_ROWS = 100
_MOST_SERIES = 24
_KINDS = {
    "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of a figure: column names and rows, as text; `total` rows in all."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    numeric: tuple[bool, ...] = ()  # which columns hold numbers alone


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as the page shows it.

    Attributes:
        svg: the drawing, None if there is none.
        legend: (name, CSS class) of its series if there are several.
        grid: a table, None if there is none.
        note: what was left out, "" if nothing.
    """

    svg: Markup | None = None
    legend: tuple[tuple[str, str], ...] = ()
    grid: Grid | None = None
    note: str = ""


def draw(figure: Mapping[str, Any], title: str) -> Drawn | None:
    """A figure, None if it is of a kind that is not drawn.

    Args:
        figure: ``{"data": [trace, …], "layout": {…}}``; anything else in its place is not drawn, never an error.
        title: for readers of the drawing.
    """
    try:
        traces = [trace for trace in figure.get("data") or () if isinstance(trace, Mapping)]
        layout = figure.get("layout")
        layout = layout if isinstance(layout, Mapping) else {}
        return _draw(traces, layout, title)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, struct.error):
        return None  # not what Plotly would call a figure


def _draw(traces: list[Mapping[str, Any]], layout: Mapping[str, Any], title: str) -> Drawn | None:
    kinds = {str(trace.get("type") or "scatter") for trace in traces}
    labels = _axis_title(layout, "xaxis"), _axis_title(layout, "yaxis")
    if not traces:
        return None
    if kinds == {"table"}:
        return Drawn(grid=_grid(traces[0]))
    if kinds <= {"heatmap", "heatmapgl"} and len(traces) == 1:
        return _heat(traces[0], title, labels, _is_reversed(layout))
    if kinds <= {"scatter", "scattergl"}:
        return _scatter(traces, title, labels)
    if kinds == {"bar"}:
        return _bars(traces, title, labels)
    if kinds == {"histogram"}:
        return _histogram(traces, title, labels)
    return None


def _axis_title(layout: Mapping[str, Any], axis: str) -> str:
    found = layout.get(axis)
    text = found.get("title") if isinstance(found, Mapping) else None
    text = text.get("text") if isinstance(text, Mapping) else text
    return str(text) if isinstance(text, str) else ""


def values(column: Any) -> list[Any]:
    """A column of a trace as a list; Plotly writes arrays as lists or as ``{"bdata": base64, "dtype": "f8"}``."""
    if isinstance(column, Mapping) and "bdata" in column:
        data, kind = base64.b64decode(column["bdata"]), _KINDS[str(column["dtype"]).lstrip("<|=")]
        found = list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))
        shape = [int(part) for part in str(column.get("shape") or "").split(",") if part.strip()]
        if len(shape) == 2:
            return [found[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]
        return found
    return list(column) if isinstance(column, Sequence) and not isinstance(column, str) else []


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value)


def _is_real(column: Sequence[Any]) -> bool:
    return all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in column)


def _name(trace: Mapping[str, Any], place: int) -> str:
    return str(trace.get("name") or f"series {place + 1}")


def _legend(traces: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((_name(trace, place), chart.color(place)) for place, trace in enumerate(traces)) if len(traces) > 1 else ()


def _left_out(traces: Sequence[Any]) -> str:
    return f"{len(traces) - _MOST_SERIES} more series are not drawn" if len(traces) > _MOST_SERIES else ""


def _scatter(traces: list[Mapping[str, Any]], title: str, labels: tuple[str, str]) -> Drawn | None:
    drawn, note = traces[:_MOST_SERIES], _left_out(traces)
    lines = []
    for place, trace in enumerate(drawn):
        ys = [_real(value) for value in values(trace.get("y"))]
        xs = values(trace.get("x")) or list(range(len(ys)))
        if not _is_real(xs):
            return _named_scatter(traces, title, labels)
        points = tuple((_real(x), y) for x, y in zip(xs, ys, strict=False) if math.isfinite(_real(x)))
        mode = str(trace.get("mode") or "lines")
        if "lines" not in mode and len(points) > 400:
            note = f"every {math.ceil(len(points) / 400)}th point of {len(points)} is drawn"
            points = points[:: math.ceil(len(points) / 400)]
        lines.append(chart.Line(_name(trace, place), points, "lines" in mode, "markers" in mode))
    if not any(line.points for line in lines):
        return None
    svg = chart.lines(title, lines, labels[0], labels[1], whole_x=False)
    return Drawn(svg, _legend(drawn), note=note)


def _named_scatter(traces: list[Mapping[str, Any]], title: str, labels: tuple[str, str]) -> Drawn | None:
    """Places on the axis that are names (dates, categories), in the order they appear."""
    names = list(dict.fromkeys(str(x) for trace in traces for x in values(trace.get("x"))))
    place = {name: float(number) for number, name in enumerate(names)}
    drawn = traces[:_MOST_SERIES]
    lines = []
    for number, trace in enumerate(drawn):
        pairs = zip(values(trace.get("x")), values(trace.get("y")), strict=False)
        points = tuple((place[str(x)], _real(y)) for x, y in pairs)
        mode = str(trace.get("mode") or "lines")
        lines.append(chart.Line(_name(trace, number), points, "lines" in mode, "markers" in mode))
    if not names:
        return None
    svg = chart.lines(title, lines, labels[0], labels[1], x_names=tuple(enumerate(names)))
    return Drawn(svg, _legend(drawn), note=_left_out(traces))


def _bars(traces: list[Mapping[str, Any]], title: str, labels: tuple[str, str]) -> Drawn | None:
    drawn, note = traces[:_MOST_SERIES], _left_out(traces)
    lying = all(trace.get("orientation") == "h" for trace in drawn)
    first, second = ("y", "x") if lying else ("x", "y")
    names = list(
        dict.fromkeys(
            _word(name) for trace in drawn for name in values(trace.get(first)) or range(len(values(trace.get(second))))
        )
    )
    if not names:
        return None
    if len(names) > _MOST_BARS:
        note = f"the first {_MOST_BARS} of {len(names)} bars are drawn"
        names = names[:_MOST_BARS]
    series = []
    for place, trace in enumerate(drawn):
        heights = values(trace.get(second))
        found = dict(zip(map(_word, values(trace.get(first)) or range(len(heights))), map(_real, heights), strict=False))
        series.append((_name(trace, place), [found.get(name, math.nan) for name in names]))
    given = (labels[1], labels[0]) if lying else labels
    return Drawn(chart.bars(title, names, series, *given), _legend(drawn), note=note)


def _word(value: Any) -> str:
    return shown.measured(value) if isinstance(value, float) else str(value)


def _histogram(traces: list[Mapping[str, Any]], title: str, labels: tuple[str, str]) -> Drawn | None:
    """Counted into bins as Plotly would: equal ones over all series, or one for each name."""
    drawn, note, span = traces[:_MOST_SERIES], _left_out(traces), None
    columns = [values(trace.get("x")) or values(trace.get("y")) for trace in drawn]
    if not all(map(_is_real, columns)):
        names = list(dict.fromkeys(str(value) for column in columns for value in column))[:_MOST_BARS]
        counted = [[float(sum(str(value) == name for value in column)) for name in names] for column in columns]
    else:
        reals = [[_real(value) for value in column if math.isfinite(_real(value))] for column in columns]
        everything = [value for column in reals for value in column]
        if not everything:
            return None
        low, high = min(everything), max(everything)
        asked = drawn[0].get("nbinsx")
        most = (
            asked
            if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0
            else math.ceil(math.sqrt(len(everything)))
        )
        bins = max(1, min(_MOST_BINS, most)) if high > low else 1
        wide = (high - low) / bins or 1.0
        span = (low, low + bins * wide)
        names = [shown.measured(low + (place + 0.5) * wide) for place in range(bins)]
        counted = []
        for column in reals:
            counts = [0.0] * bins
            for value in column:
                counts[min(bins - 1, int((value - low) / wide))] += 1
            counted.append(counts)
    series = [(_name(trace, place), counts) for place, (trace, counts) in enumerate(zip(drawn, counted, strict=True))]
    return Drawn(chart.bars(title, names, series, labels[0], labels[1] or "count", span), _legend(drawn), note=note)


def _is_reversed(layout: Mapping[str, Any]) -> bool:
    """Whether the first row of a matrix stands on top; Plotly's own rule is that it stands at the bottom."""
    axis = layout.get("yaxis")
    return isinstance(axis, Mapping) and axis.get("autorange") == "reversed"


def _heat(trace: Mapping[str, Any], title: str, labels: tuple[str, str], reverse: bool) -> Drawn | None:
    rows = [[_real(value) for value in values(row)] for row in values(trace.get("z"))]
    if not rows or not rows[0] or len(rows) * len(rows[0]) > _MOST_CELLS:
        return None
    columns = [_word(value) for value in values(trace.get("x"))] or [str(place) for place in range(len(rows[0]))]
    names = [_word(value) for value in values(trace.get("y"))] or [str(place) for place in range(len(rows))]
    if not reverse:
        rows, names = rows[::-1], names[: len(rows)][::-1]
    return Drawn(chart.heat(title, rows, columns, names, *labels))


def _grid(trace: Mapping[str, Any]) -> Grid:
    header, cells = trace.get("header"), trace.get("cells")
    names = values(header.get("values")) if isinstance(header, Mapping) else []
    columns = [values(column) for column in (values(cells.get("values")) if isinstance(cells, Mapping) else [])]
    total = max(map(len, columns), default=0)
    rows = [
        tuple(_cell(column[place]) if place < len(column) else "" for column in columns)
        for place in range(min(total, _MOST_ROWS))
    ]
    numeric = tuple(_is_real(column) for column in columns)
    return Grid(tuple(_cell(name) for name in names), tuple(rows), total, numeric)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return "" if value is None else _word(value)
