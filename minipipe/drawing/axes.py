"""Scales and ticks of a chart: where values stand, and which round numbers are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from minipipe import shown
from minipipe.drawing.element import Markup, element, number
from minipipe.drawing.measure import clipped, width

WIDTH, HEIGHT = 360.0, 200.0
_TOP, _RIGHT, _BOTTOM = 10.0, 12.0, 24.0


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight mapping of values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        if self.high == self.low:  # apart by less than a float can tell
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def drawable(value: float) -> bool:
    """Whether a value has a place on an axis: finite, and so that the difference of two such values is too."""
    return abs(value) < 1e300


def spread(values: Iterable[float], zero: bool = False) -> tuple[float, float]:
    """The range that an axis shows: that of the finite values, never empty; with 0 if asked for."""
    known = [value for value in values if drawable(value)]
    if zero:
        known.append(0.0)
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low, high


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in a range."""
    rough = (high - low) / most
    if not math.isfinite(rough) or rough <= 0:
        return []
    power = 10.0 ** math.floor(math.log10(rough))
    if not power:
        return []
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def written(value: float) -> str:
    """A tick's number."""
    return (
        shown.measured(0.0 if abs(value) < 1e-300 else value) if abs(value) < 1e5 or not math.isfinite(value) else f"{value:.3g}"
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """The drawing area of a chart: both scales, and its axes as markup."""

    x: Scale
    y: Scale
    axes: Markup


def frame(
    xs: tuple[float, float],
    ys: tuple[float, float],
    x_label: str = "",
    y_label: str = "",
    x_names: tuple[tuple[float, str], ...] | None = None,
    whole_x: bool = False,
) -> Frame:
    """Axes for ranges of values.

    Args:
        xs, ys: (lowest, highest).
        x_label, y_label: what is measured; clipped to what fits.
        x_names: (place, name) instead of numbers below.
        whole_x: only whole numbers below.
    """
    low, high = ys
    marks = ticks(low, high)
    if marks:
        step = marks[1] - marks[0] if len(marks) > 1 else high - low
        low, high = min(low, marks[0]), max(high, marks[-1])
        if high > marks[-1] + step / 2:
            high = marks[-1] + step
            marks.append(high)
    left = 14 + max((width(written(mark), 11) for mark in marks), default=10.0) + (14 if y_label else 0)
    bottom = HEIGHT - _BOTTOM - (18 if x_label else 0)
    x, y = Scale(xs[0], xs[1], left, WIDTH - _RIGHT), Scale(low, high, bottom, _TOP)
    lines = "".join(f"M{number(left)} {number(y(mark))}H{number(WIDTH - _RIGHT)}" for mark in marks)
    below = x_names if x_names is not None else tuple((mark, written(mark)) for mark in _below(xs, whole_x))
    room = (WIDTH - _RIGHT - left) / max(1, len(below)) - 4
    every = max(1, math.ceil(26 / max(1.0, room))) if x_names is not None else 1
    middle = (left + WIDTH - _RIGHT) / 2
    return Frame(
        x,
        y,
        element(
            "g",
            element("path", class_="mp-axis", d=lines) if lines else None,
            element(
                "g",
                [element("text", written(mark), x=round(left - 6), y=round(y(mark) + 4)) for mark in marks],
                class_="mp-tick y",
            ),
            element(
                "g",
                [
                    element("text", clipped(name, max(24.0, room * every), 11), x=round(x(at)), y=round(bottom + 16))
                    for at, name in below[::every]
                ],
                class_="mp-tick x",
            ),
            element("text", clipped(x_label, 220, 11), class_="mp-tick", x=middle, y=HEIGHT - 6, text_anchor="middle")
            if x_label
            else None,
            element(
                "text",
                clipped(y_label, 150, 11),
                class_="mp-tick",
                transform=f"translate(10 {number((bottom + _TOP) / 2)})rotate(-90)",
                text_anchor="middle",
            )
            if y_label
            else None,
        ),
    )


def _below(xs: tuple[float, float], whole: bool) -> list[float]:
    found = ticks(*xs, 6)
    return [mark for mark in found if mark == round(mark)] if whole else found


def canvas(title: str, description: str, *children: object, height: float = HEIGHT, kind: str = "mp-chart") -> Markup:
    """A chart as an SVG element that grows and shrinks with its place."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        class_=kind,
        role="img",
        viewBox=f"0 0 {number(WIDTH)} {number(height)}",
    )
