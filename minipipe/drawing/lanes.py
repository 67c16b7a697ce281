"""When each step waited and ran, as rows: by step for the terminal, by worker and slot for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minipipe.drawing.folds import SMALL, Box, fold
from minipipe.store.picture import Node, Picture, Span


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt on the time axis, in seconds since the run began.

    Attributes:
        wait: when it entered the queue; equal to `start` if it never waited.
        start, end: running time; `start` is None while it waits, `end` the moment of the look while it runs.
        status: what ended it, "in_progress" while it runs.
    """

    node: Node
    span: Span
    wait: float
    start: float | None
    end: float

    @property
    def status(self) -> str:
        """CSS class of the bar: how the attempt ended. Only the last attempt can have ended as the step did."""
        return self.span.became

    @property
    def again(self) -> bool:
        """A later attempt of the same step exists."""
        return self.span is not self.node.spans[-1]


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of the page's timeline: what one slot of a worker ran, or what still waits."""

    label: str
    bars: tuple[Bar, ...]


def origin_of(picture: Picture) -> float:
    """The time that a timeline counts from: when the first of its attempts was queued or started."""
    begins = [span.queued_at or span.started_at for node in picture.nodes for span in node.spans]
    known = [begin for begin in begins if begin is not None]
    return min(known, default=picture.run["started_at"] or picture.run["created_at"])


def bars_of(picture: Picture, node: Node, origin: float) -> list[Bar]:
    """A step's attempts on the time axis."""
    found = []
    for span in node.spans:
        if span.started_at is None:
            if span.queued_at is not None:
                end = span.ended_at if span.ended_at is not None else picture.at
                found.append(Bar(node, span, max(0.0, span.queued_at - origin), None, max(0.0, end - origin)))
            continue
        start = max(0.0, span.started_at - origin)
        end = (span.ended_at if span.ended_at is not None else picture.at) - origin
        wait = max(0.0, min((span.queued_at or span.started_at) - origin, start))
        found.append(Bar(node, span, wait, start, max(start, end)))
    return found


def end_of(bars: Sequence[Bar]) -> float:
    """Where the time axis ends; at least a millisecond, so that a scale exists."""
    return max((bar.end for bar in bars), default=0.0) or 0.001


# -- by worker and slot -------------------------------------------------------------------------------------------------


def lanes_of(picture: Picture) -> tuple[list[Lane], float]:
    """Rows by worker slot, and the length of the axis in seconds.

    A slot runs one attempt at a time, so attempts of a worker share a row as long as they do not overlap (which slot it was is not
    recorded: the first that is free is taken). What has not been claimed yet stands last.
    """
    origin = origin_of(picture)
    bars = [bar for node in picture.nodes for bar in bars_of(picture, node, origin)]
    ran: dict[str, list[Bar]] = {}
    waiting = []
    for bar in sorted(bars, key=lambda bar: (bar.wait if bar.start is None else bar.start, bar.end)):
        if bar.start is None:
            waiting.append(bar)
        else:
            ran.setdefault(bar.span.worker, []).append(bar)
    lanes = []
    for worker, found in ran.items():
        slots: list[list[Bar]] = []
        for bar in found:
            free = next((slot for slot in slots if slot[-1].end <= (bar.start or 0.0) + 1e-4), None)
            if free is None:
                slots.append([bar])
            else:
                free.append(bar)
        for number, slot in enumerate(slots, 1):
            name = worker or "this process"
            lanes.append(Lane(f"{name} · {number}" if len(slots) > 1 else name, tuple(slot)))
    lanes += [Lane("waiting", (bar,)) for bar in waiting]
    return lanes, end_of(bars)


# -- by step, for the terminal ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the terminal's timeline: a step, or several that are alike, with the bars of all their attempts."""

    box: Box
    bars: tuple[Bar, ...]

    @property
    def ran_s(self) -> float:
        """Seconds in which at least one attempt of it ran."""
        return _covered([(bar.start, bar.end) for bar in self.bars if bar.start is not None])

    @property
    def waited_s(self) -> float:
        """Seconds in which at least one attempt waited in a queue and none ran."""
        both = _covered([(bar.wait, bar.end) for bar in self.bars])
        return max(0.0, both - self.ran_s)


def rows_of(picture: Picture) -> tuple[list[Row], float]:
    """Rows in the order of the run, and the length of the axis in seconds. Steps without any attempt have no row."""
    origin = origin_of(picture)
    boxes: Sequence[Box] = fold(picture).boxes if len(picture.nodes) > SMALL else [Box((node,), 0) for node in picture.nodes]
    rows = []
    for box in boxes:
        bars = tuple(bar for node in box.nodes for bar in bars_of(picture, node, origin))
        if bars:
            rows.append(Row(box, bars))
    rows.sort(key=lambda row: min(bar.wait for bar in row.bars))
    return rows, end_of([bar for row in rows for bar in row.bars])


def _covered(spans: list[tuple[float, float]]) -> float:
    total, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total


def cells(row: Row, length: float, columns: int) -> str:
    """A row as text: ``▇`` where an attempt ran, ``░`` where it waited in a queue; at least one cell for each attempt that ran."""
    signs = [" "] * columns
    scale = columns / length
    for bar in row.bars:
        first, last = int(bar.wait * scale), int((bar.start if bar.start is not None else bar.end) * scale)
        for place in range(min(first, columns - 1), min(max(last, first + (bar.start is None)), columns)):
            if signs[place] == " ":
                signs[place] = "░"
    for bar in row.bars:
        if bar.start is not None:
            first = min(int(bar.start * scale), columns - 1)
            for place in range(first, min(max(round(bar.end * scale), first + 1), columns)):
                signs[place] = "▇"
    return "".join(signs).rstrip()
