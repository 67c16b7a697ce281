"""Figures in Plotly's words, made from plain values: ``{"data": [trace, …], "layout": {…}}``, JSON and nothing else.

Arrays, frames and numbers of other libraries are taken by what they offer (``tolist``, ``item``, ``columns``), so nothing is imported
here that the caller has not imported already. nan and infinities become null, which Plotly draws as a gap.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minipipe import errors

Figure = dict[str, Any]


class SeriesInfo:
    """One line of `Logger.report_line_plot` (ClearML's ``clearml.utilities.plotly_reporter.SeriesInfo``).

    Args:
        name: of the line.
        data: rows of (x, y).
        labels: text of each point.

    Raises:
        ValueError: not rows of two numbers each.
    """

    def __init__(self, name: str, data: Any, labels: Sequence[str] | None = None) -> None:
        self.name = name
        self.data = rows(data, 2, "the data of a series")
        self.labels = labels

    def __repr__(self) -> str:
        return f"SeriesInfo({self.name!r}, {len(self.data)} points)"


# -- values -------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value as lists, dicts, numbers and text: what strict JSON holds."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy arrays and numbers, pandas series, torch tensors
        found = value.tolist()
        return plain(found) if not hasattr(found, "tolist") else str(value)
    if isinstance(value, (list, tuple, set, frozenset, range)) or (isinstance(value, Iterable) and not isinstance(value, bytes)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    try:
        number = float(value)  # Decimal, Fraction …
    except (TypeError, ValueError, OverflowError):
        return str(value)
    return number if math.isfinite(number) else None


def dumps(figure: Figure) -> bytes:
    """A figure as strict JSON."""
    try:
        return json.dumps(figure, allow_nan=False, separators=(",", ":")).encode()  # mostly it is clean, and this is fast
    except (TypeError, ValueError):
        return json.dumps(plain(figure), allow_nan=False, separators=(",", ":")).encode()


def rows(values: Any, width: int, what: str) -> list[list[Any]]:
    """Values as rows of `width` items.

    Raises:
        UsageError: they are not.
    """
    found = plain(values)
    if isinstance(found, list) and all(isinstance(row, list) and len(row) == width and _flat(row) for row in found):
        return found
    raise errors.UsageError(f"{what} must be rows of {width} numbers each", f"it is {_shape(found)}")


def grid(values: Any, what: str) -> list[list[Any]]:
    """Values as rows of equal length; a single row is one.

    Raises:
        UsageError: they are not.
    """
    found = plain(values)
    if isinstance(found, list) and found and not any(isinstance(row, list) for row in found):
        found = [found]
    if isinstance(found, list) and all(isinstance(row, list) and len(row) == len(found[0]) and _flat(row) for row in found):
        return found
    raise errors.UsageError(f"{what} must be one row of numbers, or rows of equal length", f"it is {_shape(found)}")


def _flat(row: list[Any]) -> bool:
    return not any(isinstance(item, (list, dict)) for item in row)


def _shape(found: Any) -> str:
    if not isinstance(found, list):
        return f"{type(found).__name__} {str(found)[:40]!r}"
    lengths = sorted({len(row) if isinstance(row, list) else 0 for row in found})
    return f"{len(found)} rows of {' or '.join(map(str, lengths[:3])) or 'no'} items"


# -- layout -------------------------------------------------------------------------------------------------------------


def _layout(title: str, comment: str | None = None, extra: Mapping[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    text = f"{title}<br><sup>{comment}</sup>" if comment else title
    return {"title": {"text": text}, **parts, **(plain(extra) if extra else {})}


def _axis(title: str | None, **parts: Any) -> dict[str, Any]:
    return {**({"title": {"text": str(title)}} if title is not None else {}), **parts}


# -- figures ------------------------------------------------------------------------------------------------------------


def bars(
    title: str,
    series: str,
    values: Any,
    labels: Sequence[str] | None,
    xlabels: Sequence[str] | None,
    xaxis: str | None,
    yaxis: str | None,
    mode: str | None,
    data_args: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
) -> Figure:
    """Bars: one trace per row of `values`; what ``numpy.histogram`` gives (heights, edges) is bars between the edges."""
    names = plain(labels) or []
    data = []
    heights, edges = _histogram(values)
    if edges is not None:
        values, xlabels = heights, xlabels or [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    for number, row in enumerate(grid(values, "the values of a histogram")):
        name = names[number] if number < len(names) else (series if number == 0 else f"{series} {number}")
        x = plain(xlabels) if xlabels is not None else list(range(len(row)))
        data.append({"type": "bar", "name": name, "x": x, "y": row, **(plain(data_args) if data_args else {})})
    layout = _layout(title, None, extra, xaxis=_axis(xaxis), yaxis=_axis(yaxis), barmode=mode or "group", bargap=0.08)
    return {"data": data, "layout": layout}


def _histogram(values: Any) -> tuple[Any, list[Any] | None]:
    """(heights, edges) if that is what the values are: a pair of rows, the second longer by one; else (values, None)."""
    if isinstance(values, (list, tuple)) and len(values) == 2:
        heights, edges = plain(values[0]), plain(values[1])
        if isinstance(heights, list) and isinstance(edges, list) and len(edges) == len(heights) + 1:
            return heights, edges
    return values, None


def lines(
    title: str,
    series: Iterable[SeriesInfo],
    xaxis: str | None,
    yaxis: str | None,
    mode: str,
    reverse: bool,
    comment: str | None,
    extra: Mapping[str, Any] | None,
) -> Figure:
    """Lines, or points, through (x, y)."""
    data = []
    for line in series:
        if not isinstance(line, SeriesInfo):
            raise errors.UsageError(
                f"a line is a Logger.SeriesInfo, not {type(line).__name__}", hint="SeriesInfo(name, [(x, y), …])"
            )
        trace = {"type": "scatter", "name": line.name, "mode": "lines" if mode == "line" else mode}
        data.append({**trace, "x": [row[0] for row in line.data], "y": [row[1] for row in line.data], **_texts(line.labels)})
    turned = {"autorange": "reversed"} if reverse else {}
    return {"data": data, "layout": _layout(title, comment, extra, xaxis=_axis(xaxis, **turned), yaxis=_axis(yaxis))}


def _texts(labels: Any) -> dict[str, Any]:
    return {} if labels is None else {"text": plain(labels)}


def cloud(
    title: str,
    series: str,
    scatter: Any,
    axes: Sequence[str | None],
    labels: Sequence[str] | None,
    mode: str,
    fill: bool,
    comment: str | None,
    extra: Mapping[str, Any] | None,
) -> Figure:
    """Points or lines in space."""
    points = rows(scatter, 3, "a 3D scatter")
    trace: dict[str, Any] = {"type": "scatter3d", "name": series, "mode": mode, "marker": {"size": 5, "opacity": 0.8}}
    trace.update({axis: [row[place] for row in points] for place, axis in enumerate("xyz")}, **_texts(labels))
    if fill:
        trace["surfaceaxis"] = 1
    scene = {f"{name}axis": _axis(axis) for name, axis in zip("xyz", axes, strict=True)}
    return {"data": [trace], "layout": _layout(title, comment, extra, scene=scene, showlegend=True)}


def heat(
    title: str,
    series: str,
    matrix: Any,
    xaxis: str | None,
    yaxis: str | None,
    xlabels: Sequence[str] | None,
    ylabels: Sequence[str] | None,
    reverse: bool,
    comment: str | None,
    extra: Mapping[str, Any] | None,
) -> Figure:
    """A matrix as colours."""
    z = grid(matrix, "a matrix")
    trace: dict[str, Any] = {"type": "heatmap", "name": series, "z": z}
    trace["x"] = plain(xlabels) if xlabels is not None else list(range(len(z[0]) if z else 0))
    trace["y"] = plain(ylabels) if ylabels is not None else list(range(len(z)))
    turned = {"autorange": "reversed"} if reverse else {}
    return {"data": [trace], "layout": _layout(title, comment, extra, xaxis=_axis(xaxis), yaxis=_axis(yaxis, **turned))}


def surface(
    title: str,
    series: str,
    matrix: Any,
    axes: Sequence[str | None],
    xlabels: Sequence[str] | None,
    ylabels: Sequence[str] | None,
    camera: Sequence[float] | None,
    comment: str | None,
    extra: Mapping[str, Any] | None,
) -> Figure:
    """A matrix as heights."""
    z = grid(matrix, "a surface")
    scene: dict[str, Any] = {f"{name}axis": _axis(axis) for name, axis in zip("xyz", axes, strict=True)}
    for name, texts in (("x", xlabels), ("y", ylabels)):
        if texts is not None:
            scene[f"{name}axis"].update(ticktext=plain(texts), tickvals=list(range(len(plain(texts)))))
    if camera is not None:
        scene["camera"] = {"eye": dict(zip("xyz", plain(camera), strict=False))}
    trace = {"type": "surface", "name": series, "z": z, "showscale": False}
    return {"data": [trace], "layout": _layout(title, comment, extra, scene=scene)}


# -- tables -------------------------------------------------------------------------------------------------------------


def table(title: str, series: str, value: Any, extra: Mapping[str, Any] | None, data: Mapping[str, Any] | None) -> Figure:
    """A table from a DataFrame (its index, unless it only counts), a dict of columns, or rows of which the first is the head."""
    names, columns = _columns(value)
    trace = {"type": "table", "header": {"values": names}, "cells": {"values": columns}, **(plain(data) if data else {})}
    return {"data": [trace], "layout": _layout(title, None, extra, name=series)}


def _columns(value: Any) -> tuple[list[str], list[list[Any]]]:
    if hasattr(value, "columns") and hasattr(value, "index"):
        index = value.index
        counts = plain(index) == list(range(len(index))) and getattr(index, "name", None) is None
        names, columns = ([], []) if counts else ([str(index.name or "")], [_cells(index)])
        for place, name in enumerate(value.columns):
            names.append(" / ".join(map(str, name)) if isinstance(name, tuple) else str(name))
            columns.append(_cells(value.iloc[:, place]))
        return names, columns
    if isinstance(value, Mapping):
        return [str(name) for name in value], [_cells(column) for column in value.values()]
    found = plain(value)
    if not isinstance(found, list) or not found or not all(isinstance(row, list) for row in found):
        raise errors.UsageError(
            "a table is a DataFrame, a dict of columns, or rows of which the first is the head", _shape(found)
        )
    width = max(len(row) for row in found)
    body = [row + [None] * (width - len(row)) for row in found]
    return ["" if name is None else str(name) for name in body[0]], [[row[place] for row in body[1:]] for place in range(width)]


def _cells(column: Iterable[Any]) -> list[Any]:
    found = plain(column)
    return [item if isinstance(item, (str, bool, int, float)) or item is None else str(item) for item in found]


def read_csv(path: Path) -> list[list[Any]]:
    """The rows of a CSV file; what reads as a number is one.

    Raises:
        UsageError: no such file, or not text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            found = [[_number(text) for text in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UsageError(f"cannot read the table {path}", str(error)) from None
    if not found:
        raise errors.UsageError(f"the table {path} is empty")
    return [["" if name is None else str(name) for name in found[0]], *found[1:]]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
