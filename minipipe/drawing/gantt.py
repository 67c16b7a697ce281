"""The timeline of the page: a row per worker slot, queue wait hatched, every attempt a bar of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

from minipipe import shown
from minipipe.drawing.element import Markup, element, number
from minipipe.drawing.lanes import Bar, Lane, lanes_of
from minipipe.drawing.measure import clipped, width
from minipipe.store.picture import Node, Picture

_ROW, _BAR = 26.0, 16.0
_WIDTH = 1064.0
_TOP = 22.0
MOST = 60  # rows; beyond, the picture says how many are left out

Anchor = Callable[[Node], str | None]


def svg(picture: Picture, name: str, anchor: Anchor = lambda node: None) -> Markup | None:
    """The timeline as an SVG element, None if nothing of the run was ever queued or started."""
    lanes, length = lanes_of(picture)
    if not lanes:
        return None
    left = min(170.0, max(70.0, *(width(lane.label, 12) + 14 for lane in lanes[:MOST])))
    scale = (_WIDTH - left - 12) / length
    rows = lanes[:MOST]
    height = _TOP + _ROW * len(rows) + 4
    waits = [_wait(bar, before, row, left, scale) for row, lane in enumerate(rows) for before, bar in _pairs(lane)]
    return element(
        "svg",
        element("title", f"Timeline of {name}"),
        element("desc", _described(lanes, length)),
        [_tick(at, left, scale, height) for at in ticks(length)],
        [_label(row, lane, left) for row, lane in enumerate(rows)],
        _hatching(waits),
        [
            _bar(bar, row, left, scale, anchor(bar.node))
            for row, lane in enumerate(rows)
            for bar in lane.bars
            if bar.start is not None
        ],
        class_="mp-gantt",
        role="img",
        viewBox=f"0 0 {number(_WIDTH)} {number(height)}",
        width=_WIDTH,
        height=height,
    )


def ticks(length: float, most: int = 6) -> list[float]:
    """Round places on a time axis from 0."""
    rough = length / most
    power = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    steps = [step * power for step in (1, 2, 5, 10)] if rough < 30 else [60, 120, 300, 600, 1800, 3600, 10800, 43200, 86400]
    step = next((step for step in steps if step >= rough), rough)
    return [number * step for number in range(int(length / step + 1e-9) + 1)]


def _tick(at: float, left: float, scale: float, height: float) -> Markup:
    x = left + at * scale
    label = f"{at:g}s" if at < 60 else shown.duration(at)
    return element(
        "g",
        element("path", class_="mp-axis", d=f"M{number(x)} {number(_TOP - 4)}V{number(height)}"),
        element("text", label, class_="mp-tick", x=x, y=11, text_anchor="middle"),
    )


def _label(row: int, lane: Lane, left: float) -> Markup:
    return element("text", clipped(lane.label, left - 12, 12), class_="mp-lane", x=0, y=_TOP + _ROW * row + _ROW / 2 + 4)


def _top(row: int) -> float:
    return _TOP + _ROW * row + (_ROW - _BAR) / 2


def _pairs(lane: Lane) -> list[tuple[float, Bar]]:
    """Each bar of a row with the end of the one before."""
    return list(zip([0.0, *(bar.end for bar in lane.bars)], lane.bars, strict=False))


def _wait(bar: Bar, before: float, row: int, left: float, scale: float) -> tuple[float, float, float]:
    """(x, y, width) of the time in the queue, as far as the slot that took it was free; the bar's title tells all of it."""
    end = bar.start if bar.start is not None else bar.end
    start = max(bar.wait, before)
    return left + start * scale, _top(row), (end - start) * scale


def _hatching(waits: list[tuple[float, float, float]]) -> Markup | None:
    """All times in a queue as one path, hatched."""
    frames = [f"M{number(x)} {number(y)}h{number(wide)}v{number(_BAR)}h-{number(wide)}z" for x, y, wide in waits if wide >= 3]
    if not frames:
        return None
    lines = element("path", d="M0 7 7 0M-1 1 1 -1M6 8 8 6")
    # The same id in every drawing: each defines it alike, so it does not matter whose is used.
    pattern = element("pattern", lines, id="mp-hatch", width=7, height=7, patternUnits="userSpaceOnUse")
    return element("g", element("title", "waiting in a queue"), pattern, element("path", class_="mp-wait", d="".join(frames)))


def _bar(bar: Bar, row: int, left: float, scale: float, href: str | None) -> Markup:
    assert bar.start is not None
    x, wide = left + bar.start * scale, max(2.0, (bar.end - bar.start) * scale)
    label = bar_label(bar)
    inside = element("title", label), element("rect", x=x, y=_top(row), width=wide, height=_BAR, rx=min(3.0, wide / 2))
    name = clipped(bar.node.name, wide - 10, 11)
    fits = name == bar.node.name or wide > 70
    written = element("text", name, class_="mp-inside", x=x + 5, y=_top(row) + 12) if fits else None
    kind = f"mp-bar {bar.status}" + (" again" if bar.again else "")
    return element("a" if href else "g", inside, written, class_=kind, href=href)


def bar_label(bar: Bar) -> str:
    """``train, attempt 2, failed, 3.1s, queued 0.1s``."""
    parts = [bar.node.name]
    if len(bar.node.spans) > 1:
        parts.append(f"attempt {bar.span.number}")
    parts.append(bar.status)
    if bar.start is not None:
        parts.append(shown.duration(bar.end - bar.start))
        if bar.start - bar.wait >= 0.05:
            parts.append(f"queued {shown.duration(bar.start - bar.wait)}")
    return ", ".join(parts)


def _described(lanes: list[Lane], length: float) -> str:
    attempts = sum(len(lane.bars) for lane in lanes)
    more = f"; {len(lanes) - MOST} more rows are not drawn" if len(lanes) > MOST else ""
    return f"{attempts} attempts in {len(lanes)} rows over {shown.duration(length)}; each step's section says the same{more}"
