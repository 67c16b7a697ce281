"""Charts of numbers as SVG: lines, points, bars, heat maps. Small: at most 120 points of a line are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minipipe import shown
from minipipe.drawing import axes
from minipipe.drawing.element import Markup, element, number
from minipipe.drawing.measure import clipped, width

MOST_POINTS = 120
COLORS = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its name and its (x, y) points; a y that is not finite is a gap.

    Attributes:
        joined: the points are joined by a line.
        marked: the points are dots.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    joined: bool = True
    marked: bool = False


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points that keep the shape (largest triangle three buckets, Steinarsson 2013); gaps are kept out first."""
    known = [point for point in points if math.isfinite(point[1])]
    if len(known) <= most:
        return list(points) if len(points) <= most else known
    kept = [known[0]]
    size = (len(known) - 2) / (most - 2)
    for bucket in range(most - 2):
        start, end = int(bucket * size) + 1, int((bucket + 1) * size) + 1
        following = known[end : int((bucket + 2) * size) + 1] or [known[-1]]
        x3 = sum(point[0] for point in following) / len(following)
        y3 = sum(point[1] for point in following) / len(following)
        x1, y1 = kept[-1]
        kept.append(max(known[start:end], key=lambda p: abs((x1 - x3) * (p[1] - y1) - (x1 - p[0]) * (y3 - y1))))
    return [*kept, known[-1]]


def lines(
    title: str,
    series: Sequence[Line],
    x_label: str = "iteration",
    y_label: str = "",
    whole_x: bool = True,
    hovers: int = 2 * MOST_POINTS,
    x_names: tuple[tuple[float, str], ...] | None = None,
) -> Markup:
    """Series over a common axis; each place can be pointed at and then says its values (at most `hovers` places)."""
    drawn = [Line(one.name, tuple(thinned(one.points)) if one.joined else one.points, one.joined, one.marked) for one in series]
    points = [point for one in drawn for point in one.points]
    xs = axes.spread(x for x, _ in points)
    if xs[0] == xs[1]:
        xs = xs[0] - 1, xs[1] + 1
    found = axes.frame(xs, axes.spread(y for _, y in points), x_label, y_label, x_names, whole_x)
    return axes.canvas(
        title,
        "; ".join(_summed(one) for one in series),
        found.axes,
        [_line(one, place, found) for place, one in enumerate(drawn)],
        _hovers(drawn, found, hovers),
    )


def _summed(one: Line) -> str:
    """``train: 50 points, 1.9 to 0.2``: how many, the first and the last."""
    known = [y for _, y in one.points if math.isfinite(y)]
    if not known:
        return f"{one.name}: no finite value"
    return f"{one.name}: {len(one.points)} points, {shown.measured(known[0])} to {shown.measured(known[-1])}"


def color(place: int) -> str:
    """CSS class of the colour of a series."""
    return f"s{place % COLORS + 1}"


def _line(one: Line, place: int, found: axes.Frame) -> Markup:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in one.points:
        if not axes.drawable(x) or not axes.drawable(y):
            runs.append([])
        else:
            runs[-1].append((round(found.x(x), 1), round(found.y(y), 1)))
    runs = [run for run in runs if run]
    dots = one.marked or not one.joined or all(len(run) == 1 for run in runs)
    kind = f"mp-line {color(place)}" + (" dash" if place >= COLORS else "")
    return element(
        "g",
        element("path", d="".join(map(_path, runs))) if one.joined and runs else None,
        # A line of no length with round ends is a dot, and many of them are one path.
        element("path", class_="dots", d="".join(f"M{number(x)} {number(y)}h0" for run in runs for x, y in run))
        if dots
        else None,
        class_=kind,
    )


def _path(points: list[tuple[float, float]]) -> str:
    """A line through points, in the few bytes that relative coordinates take: ``M30.1 10l6.4 11.9 6.5-1``."""
    (x, y), text = points[0], ""
    for x2, y2 in points[1:]:
        for step in (x2 - x, y2 - y):
            shape = number(round(step, 1)).replace("0.", ".", 1) if abs(step) < 0.95 else number(round(step, 1))
            text += shape if shape.startswith("-") or not text else f" {shape}"
        x, y = x2, y2
    return f"M{number(points[0][0])} {number(points[0][1])}" + (f"l{text}" if text else "")


def _hovers(drawn: Sequence[Line], found: axes.Frame, most: int) -> Markup | None:
    """Columns over the whole chart that say the values of their place, in the order of the series, when pointed at."""
    values: dict[float, list[str]] = {}
    for one in drawn:
        for x, y in one.points:
            if axes.drawable(x):
                values.setdefault(x, []).append(shown.measured(y))
    places = sorted(values.items())
    every = max(1, math.ceil(len(places) / max(1, most)))
    wide = (found.x.end - found.x.start) / max(1, math.ceil(len(places) / every))
    # Text of our own numbers alone, without quotes round them: there are many of these in a page.
    columns = [
        f"<rect x={number(found.x(x) - wide / 2)}><title>{axes.written(x)}: {', '.join(texts)}</title></rect>"
        for x, texts in places[every // 2 :: every]
    ]
    style = f"--wide:{number(wide)}px;--tall:{number(found.y.start - found.y.end)}px"
    return element("g", Markup("".join(columns)), class_="mp-hover", style=style) if columns else None


def bars(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    x_label: str = "",
    y_label: str = "",
    span: tuple[float, float] | None = None,
) -> Markup:
    """Groups of bars, a group for each name and a bar in it for each series.

    Args:
        title: for readers of the drawing.
        names: one for each group.
        series: (name, values).
        x_label, y_label: what is measured.
        span: the groups are bins of equal width over this range, and numbers stand below instead of names.
    """
    values = [value for _, found in series for value in found]
    ys = axes.spread(values, zero=True)
    if span is None:
        frame = axes.frame((-0.5, len(names) - 0.5), ys, x_label, y_label, tuple(enumerate(names)))
        places = [frame.x(at) for at in range(len(names))]
    else:
        frame = axes.frame(span, ys, x_label, y_label)
        places = [frame.x(span[0] + (at + 0.5) * (span[1] - span[0]) / len(names)) for at in range(len(names))]
    slot = (frame.x.end - frame.x.start) / max(1, len(names))
    wide = slot * (1.0 if span else 0.94 if len(names) > 12 else 0.7) / max(1, len(series))
    drawn = []
    for place, (label, found) in enumerate(series):
        shapes = []
        for at, value in enumerate(found):
            if not axes.drawable(value):
                continue
            zero, top = frame.y(0.0), frame.y(value)
            x = places[at] - wide * len(series) / 2 + place * wide
            said = f"{names[at]}: {label + ' ' if len(series) > 1 else ''}{shown.measured(value)}"
            y, high = min(zero, top), max(0.5, abs(zero - top))
            shapes.append(element("rect", element("title", said), x=x, y=y, width=max(0.5, wide - 1), height=high))
        drawn.append(element("g", shapes, class_=f"mp-bars {color(place)}"))
    said = "; ".join(f"{label}: {len(found)} bars" for label, found in series)
    return axes.canvas(title, said, frame.axes, drawn)


def heat(
    title: str,
    cells: Sequence[Sequence[float]],
    columns: Sequence[str],
    rows: Sequence[str],
    x_label: str = "",
    y_label: str = "",
) -> Markup:
    """A matrix, darker for more, first row on top; small ones have their values written in the cells."""
    count = max((len(row) for row in cells), default=0)
    known = [value for row in cells for value in row if axes.drawable(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    named = min(92.0, max((width(name, 11) for name in rows), default=0.0))
    left, top, bottom = named + (26.0 if y_label else 12.0), 8.0, 34.0 + (14.0 if x_label else 0.0)
    wide = (axes.WIDTH - left - 10) / max(1, count)
    tall = min(46.0, max(3.0, 260.0 / max(1, len(cells))))
    height = top + tall * len(cells) + bottom
    written = wide >= 26 and tall >= 14 and len(known) <= 400
    drawn: list[Markup] = []
    for r, row in enumerate(cells):
        for c, value in enumerate(row):
            share = (value - low) / (high - low) if high > low and axes.drawable(value) else 0.0
            names = [names[place] if place < len(names) else str(place) for names, place in ((rows, r), (columns, c))]
            x, y = left + c * wide, top + r * tall
            drawn.append(
                element(
                    "rect",
                    element("title", f"{names[0]}, {names[1]}: {shown.measured(value)}"),
                    x=x,
                    y=y,
                    width=wide,
                    height=tall,
                    fill_opacity=f"{0.05 + 0.7 * share:.2f}",  # text stays legible on it,
                )
            )
            if written:
                drawn.append(
                    element(
                        "text", axes.written(value), class_="mp-cell", x=x + wide / 2, y=y + tall / 2 + 4, text_anchor="middle"
                    )
                )
    return axes.canvas(
        title,
        f"{len(cells)} rows, {count} columns, lowest {shown.measured(low)}, highest {shown.measured(high)}",
        element("g", drawn, class_="mp-heat"),
        _names(columns, [left + (c + 0.5) * wide for c in range(count)], top + tall * len(cells) + 16, wide, "middle", 0.0),
        _names(rows, [top + (r + 0.5) * tall + 4 for r in range(len(cells))], left - 6, tall, "end", named + 2),
        element("text", x_label, class_="mp-tick", x=(left + axes.WIDTH) / 2, y=height - 6, text_anchor="middle")
        if x_label
        else None,
        element(
            "text", y_label, class_="mp-tick", transform=f"translate(10 {number(height / 2)})rotate(-90)", text_anchor="middle"
        )
        if y_label
        else None,
        height=height,
    )


def _names(names: Sequence[str], places: Sequence[float], other: float, each: float, anchor: str, limit: float) -> list[Markup]:
    """Names along a side, as many as fit; `limit` 0 is what their distance leaves."""
    every = max(1, math.ceil((14 if anchor == "end" else 26) / each))
    found = []
    for at, name in list(zip(places, names, strict=False))[::every]:
        x, y = (other, at) if anchor == "end" else (at, other)
        found.append(element("text", clipped(name, limit or each * every, 11), class_="mp-tick", x=x, y=y, text_anchor=anchor))
    return found
