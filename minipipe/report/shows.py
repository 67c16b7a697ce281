"""What steps reported to be looked at: figures drawn, tables written, pictures embedded as far as the size rules allow."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors, shown
from minipipe.drawing import figure
from minipipe.drawing.element import Lines, Markup, element, lines
from minipipe.drawing.figure import Grid
from minipipe.store import plots
from minipipe.store.home import Store
from minipipe.store.plots import Plot

EACH, ALL = 64_000, 2_000_000  # bytes of pictures that a page takes: of one, and of all together
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/svg+xml", "image/apng"})
_TEXT, _JSON = 8_000, 20_000


@dataclass(frozen=True, slots=True)
class Shown:
    """One plot as the page shows it; at most one of `svg`, `grid`, `picture`, `text` and `json` is there.

    Attributes:
        picture: an image element whose bytes are in it.
        json: of a figure that is not drawn.
        note: what was left out, and why.
        earlier: how many iterations came before the one that is shown.
    """

    title: str
    series: str
    iteration: int | None
    svg: Markup | None = None
    legend: tuple[tuple[str, str], ...] = ()
    grid: Grid | None = None
    picture: Markup | None = None
    text: Lines | None = None
    json: Lines | None = None
    note: str = ""
    earlier: int = 0


@dataclass(slots=True)
class Gallery:
    """Collects what the tasks of a page show; pictures count against one limit.

    Attributes:
        images: "small", "all" or "none".
        used: bytes of the pictures so far.
    """

    images: str
    used: int = field(default=0)

    def of_task(self, store: Store, task_id: int, label: str) -> tuple[Shown, ...]:
        """The newest of each series that a task reported.

        Args:
            store: where it is.
            task_id: row of the task.
            label: ``RUN/STEP`` or ``RUN``, for commands.
        """
        found = plots.of_task(store, task_id)
        counts: dict[tuple[str, str, str], int] = {}
        for plot in found:
            key = (plot.kind, plot.title, plot.series)
            counts[key] = counts.get(key, 0) + 1
        shown_ones = []
        for plot in plots.newest(found):
            earlier = counts[plot.kind, plot.title, plot.series] - 1
            facts = {"title": plot.title, "series": plot.series, "iteration": plot.iteration, "earlier": earlier}
            shown_ones.append(self._shown(store, plot, facts, label))
        return tuple(shown_ones)

    def _shown(self, store: Store, plot: Plot, facts: dict[str, Any], label: str) -> Shown:
        try:
            if plot.is_figure:
                return _figure(store, plot, facts, label)
            return self._file(store, plot, facts, label)
        except errors.ArtifactError as error:
            return Shown(**facts, note=f"cannot be shown: {error.message}")

    def _file(self, store: Store, plot: Plot, facts: dict[str, Any], label: str) -> Shown:
        what = f"{plot.file or 'no file name'}, {plot.type}, {shown.size(plot.size)}"
        if plot.digest is None:
            return Shown(**facts, note=f"{plot.file or plot.type}, at {plot.url}")
        if plot.type in _PICTURES:
            if self.images == "none":
                return Shown(**facts, note=f"{what}: left out as asked; {_command(plot, label)}")
            if self.images == "small" and (plot.size > EACH or self.used + plot.size > ALL):
                return Shown(**facts, note=f"{what}: too large to embed (--images all does); {_command(plot, label)}")
            self.used += plot.size
            data = base64.b64encode(plots.content(store, plot)).decode()
            alt = f"{plot.title}, {plot.series}"
            return Shown(**facts, picture=element("img", src=f"data:{plot.type};base64,{data}", alt=alt))
        if plot.type.startswith("text/"):
            text = bytes(plots.content(store, plot)[:_TEXT]).decode("utf-8", "replace")
            note = f"the first {_TEXT} of {plot.size} bytes; {_command(plot, label)}" if plot.size > _TEXT else ""
            return Shown(**facts, text=lines(text), note=note)
        return Shown(**facts, note=f"{what}: {_command(plot, label)}")


def _command(plot: Plot, label: str) -> str:
    return f"minipipe get {shlex.quote(f'{label}/{plot.title}/{plot.series}')}"


def _figure(store: Store, plot: Plot, facts: dict[str, Any], label: str) -> Shown:
    found = plots.figure(store, plot)
    drawn = figure.draw(found, f"{plot.title}, {plot.series}")
    if drawn is not None:
        return Shown(**facts, svg=drawn.svg, legend=drawn.legend, grid=drawn.grid, note=drawn.note)
    kinds = ", ".join(_kinds(found))
    if plot.size > _JSON:
        return Shown(**facts, note=f"a figure of kind {kinds} is not drawn here; {_command(plot, label)}")
    text = lines(json.dumps(found, indent=1, sort_keys=True))
    return Shown(**facts, json=text, note=f"a figure of kind {kinds} is not drawn here")


def _kinds(found: object) -> Sequence[str]:
    traces = found.get("data") if isinstance(found, dict) else None

    def names() -> Iterator[str]:
        for trace in traces if isinstance(traces, list) else ():
            yield str(trace.get("type") or "scatter") if isinstance(trace, dict) else "unknown"

    return list(dict.fromkeys(names())) or ["unknown"]
