"""What a task shows beside its scalars: figures, tables, pictures, sound, text; stored as bytes that nobody has to unpickle.

A plot belongs to a task (or to a model), has a title, a series, mostly an iteration, and is one of three kinds:

| kind     | made by                                                                     | where ClearML shows it |
|----------|-----------------------------------------------------------------------------|------------------------|
| `plot`   | report_histogram, scatter, matrix, surface, plotly, matplotlib figure …     | Plots                  |
| `table`  | report_table                                                                | Plots                  |
| `sample` | report_image, report_media, report_matplotlib_figure(report_image=True)     | Debug samples          |

`type` says what the bytes are, as a media type. A figure is `FIGURE`: JSON ``{"data": [trace, …], "layout": {…}}`` in Plotly's words,
read with `figure`; nan and infinities are null in it, so it is strict JSON. The traces that minipipe itself makes have the types
``scatter`` (``mode`` lines, markers or both), ``scatter3d``, ``bar``, ``heatmap``, ``surface`` and ``table`` (``header.values``: one
list of column names, ``cells.values``: one list per column); `report_plotly` stores whatever the caller drew. Everything else is a
file (``image/png``, ``audio/x-wav``, ``text/plain`` …) whose bytes `content` gives, verified; a plot that was only named by a URL
has `url` and no bytes. Read with `of_task` (or `of_model`), thin out with `newest`.

A second report under the same kind, title, series and iteration replaces the first. Of a step only the last attempt's plots
are read; a step from the cache shows those of its original.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minipipe import errors
from minipipe.context import Lease
from minipipe.store import blobs
from minipipe.store.home import Store
from minipipe.store.records import fenced

FIGURE = "application/vnd.plotly.v1+json"
PLOT, TABLE, SAMPLE = "plot", "table", "sample"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot as it is stored.

    Attributes:
        id: row id; grows with each report.
        kind: `PLOT`, `TABLE` or `SAMPLE`.
        title: name of the chart.
        series: name within it.
        iteration: its place in time, None without one.
        type: media type of the bytes.
        file: name of the file that it came as, "" for a figure.
        digest: the blob, None if only `url` is known.
        url: where it lies, if it was only named.
        size: bytes.
        at: time of the report, seconds since 1970.
    """

    id: int
    kind: str
    title: str
    series: str
    iteration: int | None
    type: str
    file: str
    digest: str | None
    url: str | None
    size: int
    at: float

    @property
    def is_figure(self) -> bool:
        """True if `figure` reads it."""
        return self.type == FIGURE


@dataclass(frozen=True, slots=True)
class NewPlot:
    """A plot to store; see `Plot`. Either `writer` (its bytes, all written) or `url`.

    Attributes:
        keep: of samples of this title and series only the newest so many iterations stay; 0 keeps all.
    """

    kind: str
    title: str
    series: str
    iteration: int | None
    type: str
    file: str = ""
    writer: blobs.Writer | None = None
    url: str | None = None
    keep: int = 0


# -- writing ------------------------------------------------------------------------------------------------------------


def report(store: Store, lease: Lease | None, new: NewPlot, task_id: int | None = None, model_id: int | None = None) -> None:
    """Store a plot of a task or of a model. Transaction effect: one commit without sync, fenced like every report.

    Args:
        store: where to.
        lease: of the attempt that reports, None for somebody else's task.
        new: what to store; its writer is closed whatever happens.
        task_id: row of the task, or
        model_id: row of the model.

    Raises:
        AttemptLost: this attempt does not own its task any more; nothing is stored.
        DiskFull: no room.
    """
    with blobs.finished(new.writer) as staged, fenced(store, lease, durable=False) as connection:
        if staged is not None:
            blobs.publish(store, connection, staged)
        attempt = 0 if lease is None or task_id is None else lease.attempt
        _insert(connection, new, staged, task_id, model_id, attempt)


def _insert(
    connection: sqlite3.Connection,
    new: NewPlot,
    staged: blobs.Staged | None,
    task_id: int | None,
    model_id: int | None,
    attempt: int,
) -> None:
    of = (task_id, model_id, attempt, new.kind, new.title, new.series)
    same = "task_id IS ? AND model_id IS ? AND attempt = ? AND kind = ? AND title = ? AND series = ?"
    connection.execute(f"DELETE FROM plot WHERE {same} AND iteration IS ?", (*of, new.iteration))
    digest, size = (None, 0) if staged is None else (staged.digest, staged.size)
    connection.execute(
        "INSERT INTO plot (task_id, model_id, attempt, kind, title, series, iteration, type, file, digest, url, size, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*of, new.iteration, new.type, new.file, digest, new.url, size, time.time()),
    )
    if new.keep > 0:
        connection.execute(
            f"DELETE FROM plot WHERE {same} AND id NOT IN (SELECT id FROM plot WHERE {same} ORDER BY iteration DESC, id DESC LIMIT ?)",
            (*of, *of, new.keep),
        )


# -- reading ------------------------------------------------------------------------------------------------------------

_COLUMNS = ", ".join(f"p.{name}" for name in Plot.__slots__)


def of_task(
    store: Store, task_id: int, kinds: Sequence[str] = (), title: str | None = None, series: str | None = None
) -> list[Plot]:
    """A task's plots in the order they were reported.

    Args:
        store: where to look.
        task_id: row id.
        kinds: only these, all if empty.
        title: only this title.
        series: only this series.
    """
    wanted = [f"p.kind IN ({', '.join('?' * len(kinds))})"] if kinds else []
    values: list[Any] = [task_id, *kinds]
    for column, value in (("title", title), ("series", series)):
        if value is not None:
            wanted.append(f"p.{column} = ?")
            values.append(value)
    rows = store.database.rows(
        f"SELECT {_COLUMNS} FROM task t JOIN task s ON s.id = coalesce(t.cached_from, t.id)"
        " JOIN plot p ON p.task_id = s.id AND (p.attempt IN (0, s.attempt) OR s.parent_id IS NULL)"
        f" WHERE {' AND '.join(['t.id = ?', *wanted])} ORDER BY p.id",
        values,
    )
    return [Plot(*row) for row in rows]


def of_model(store: Store, model_id: int) -> list[Plot]:
    """What was reported on a model, in order."""
    return [
        Plot(*row) for row in store.database.rows(f"SELECT {_COLUMNS} FROM plot p WHERE model_id = ? ORDER BY id", (model_id,))
    ]


def newest(plots: Iterable[Plot]) -> list[Plot]:
    """Of each kind, title and series only the plot of the highest iteration, in the order of their first reports."""
    found: dict[tuple[str, str, str], Plot] = {}
    for plot in plots:
        key = (plot.kind, plot.title, plot.series)
        if key not in found or (plot.iteration or 0) >= (found[key].iteration or 0):
            found[key] = plot
    return list(found.values())


def content(store: Store, plot: Plot) -> memoryview:
    """The bytes of a plot, verified.

    Raises:
        NotFound: it was only named by a URL.
        ArtifactError: missing or damaged.
    """
    what = f"plot {plot.title!r}/{plot.series!r}"
    if plot.digest is None:
        raise errors.NotFound(f"{what} has no bytes here", f"it is at {plot.url}")
    return blobs.load(store, plot.digest, what)


def figure(store: Store, plot: Plot) -> dict[str, Any]:
    """A figure: ``{"data": [trace, …], "layout": {…}}``.

    Raises:
        UsageError: it is a file, not a figure.
        ArtifactError: missing or damaged.
    """
    if not plot.is_figure:
        raise errors.UsageError(
            f"plot {plot.title!r}/{plot.series!r} is {plot.type}, not a figure", hint="content() gives its bytes"
        )
    found: dict[str, Any] = json.loads(bytes(content(store, plot)))
    return found
