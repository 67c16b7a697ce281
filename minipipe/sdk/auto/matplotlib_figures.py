"""Figures of Matplotlib: what is shown or saved becomes a plot of the task.

The title is the figure's own, or that of its axes, else ``untitled 01`` and so on; the iteration is the last that was reported. A figure
that somebody reported by hand is not reported again unless it changed. Where no window takes the current figure away (backend Agg),
it is cleared once it was shown (ClearML's rule).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from minipipe.sdk import session
from minipipe.sdk.auto import aside, connection, is_aside, quiet
from minipipe.sdk.logger import Logger
from minipipe.store import records

_drawn: weakref.WeakSet[Any] = weakref.WeakSet()  # figures that are stored as they are
_untitled: dict[str, int] = {}
_titles: dict[tuple[str, str, int], int] = {}


def saving(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of ``Figure.savefig``."""

    def savefig(self: Any, *args: Any, **kwargs: Any) -> Any:
        changed = self.stale or self not in _drawn
        result = original(self, *args, **kwargs)
        if is_aside():
            _keep(self)
        elif changed:
            _report(self)
        return result

    return savefig


def showing(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of ``pyplot.show``."""

    def show(*args: Any, **kwargs: Any) -> Any:
        here = None if is_aside() else connection.capturing("matplotlib")
        if here is None:
            return original(*args, **kwargs)
        pyplot = sys.modules["matplotlib.pyplot"]
        with quiet("matplotlib"):
            for number in pyplot.get_fignums():
                figure = sys.modules["matplotlib._pylab_helpers"].Gcf.figs[number].canvas.figure
                if figure.axes and (figure.stale or figure not in _drawn):
                    _report(figure)
        result = original(*args, **kwargs)
        with quiet("matplotlib"):
            if pyplot.get_backend().lower() == "agg" and pyplot.get_fignums():
                current = pyplot.gcf()
                current.clf()
                _drawn.discard(current)
        return result

    return show


def _report(figure: Any) -> None:
    with quiet("matplotlib"):
        here = connection.capturing("matplotlib")
        if here is None or not figure.axes:
            return
        iteration = records.last_iteration(here.store, here.row_id) or 0
        with aside():
            Logger(here).report_matplotlib_figure(_title(here, figure, iteration), "plot", figure, iteration)
        _keep(figure)


def _keep(figure: Any) -> None:
    """The figure is stored as it is now; drawing it with ``bbox_inches="tight"`` leaves the mark of a change."""
    _drawn.add(figure)
    figure.stale = False


def _title(here: session.Current, figure: Any, iteration: int) -> str:
    texts = [text.get_text() for text in figure.texts[:1]] + [axes.get_title() for axes in figure.axes[:1]]
    title = next((text for text in texts if text), "")
    if not title:
        _untitled[here.uid] = _untitled.get(here.uid, 0) + 1
        return f"untitled {_untitled[here.uid]:02d}"
    number = _titles.get((here.uid, title, iteration), -1) + 1
    _titles[here.uid, title, iteration] = number
    return f"{title}/{number}" if number else title
