"""``minipipe metrics``: what steps measured, as one line per series or as every point."""

from __future__ import annotations

import csv
import difflib
import io
import math
import sys
from collections.abc import Sequence
from typing import Any

import click

from minipipe import errors
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.shown import measured
from minipipe.store import details, lookup, metrics, views

_HEADERS = ("STEP", "TITLE", "SERIES", "POINTS", "FIRST", "LAST", "MIN", "MAX")
_BARS = "▁▂▃▄▅▆▇█"
_CELLS = 24


def sparkline(values: Sequence[float], cells: int = _CELLS) -> str:
    """A row of bars, lowest to highest; many values are averaged into `cells`. A gap stands for nan."""
    groups = min(cells, len(values))
    means: list[float] = []
    for cell in range(groups):
        part = values[cell * len(values) // groups : (cell + 1) * len(values) // groups]
        finite = [value for value in part if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    known = [mean for mean in means if not math.isnan(mean)]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if math.isnan(mean) else _BARS[round((mean - low) * scale)] for mean in means)


@click.command(name="metrics")
@click.argument("name", metavar="[RUN[/STEP]]", default="@last")
@click.option("--title", metavar="T", help="Only this chart.")
@click.option("--csv", "as_csv", is_flag=True, help="Every point, as comma-separated values.")
@output.pipeline_option
@output.pass_output
def metrics_of(out: Output, name: str, title: str | None, as_csv: bool, pipeline: str | None) -> None:
    """Show what steps measured.

    One line per series: its first, last, lowest and highest value.

    \b
    Examples:
      minipipe metrics @last
      minipipe metrics calm-otter/train --title loss
      minipipe metrics @last --csv > points.csv

    A step that came from the cache shows what its original measured.
    """
    store = out.open_store()
    task = lookup.find_task(store, name, pipeline)
    tasks = [task, *(views.steps_of(store, task["id"]) if task["run_name"] is not None else ())]
    found = [(row, one) for row in tasks for one in metrics.series_of(store, row["id"], title)]
    if title is not None and not found:
        titles = sorted({one.title for row in tasks for one in metrics.series_of(store, row["id"])})
        near = difflib.get_close_matches(title, titles, 1)
        label = details.label_of(store, task)
        raise errors.NotFound(
            f"{label} has no metric titled {title!r}",
            f"it has {', '.join(titles)}" if titles else "it reported none",
            f"did you mean --title {near[0]}?" if near else f"minipipe metrics {label}",
            name=title,
        )
    if as_csv and not out.json:
        _print_points(found)
    elif out.quiet and not out.json:
        for row, one in found:
            output.write(output.escape(f"{details.label_of(store, row)} {one.title}/{one.name}"))
    else:
        _print_table(found, out)
    if not found and not out.json:
        output.note(f"{details.label_of(store, task)} reported no metrics")


def _print_points(found: Sequence[tuple[Any, metrics.Series]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "title", "series", "iteration", "value", "at"))
    for row, one in found:
        names = [output.escape(part) for part in (step_name(row), one.title, one.name)]
        for point in one.points:
            writer.writerow((*names, "" if point.iteration is None else point.iteration, repr(point.value), output.iso(point.at)))
    sys.stdout.write(text.getvalue())
    sys.stdout.flush()


def _print_table(found: Sequence[tuple[Any, metrics.Series]], out: Output) -> None:
    drawn = out.format == "table" and output.is_terminal(sys.stdout) and output.can_encode(_BARS, sys.stdout)
    rows = []
    for row, one in found:
        values = (one.first, one.last, one.least, one.greatest)
        cells = (step_name(row), one.title, one.name, len(one.points), *map(measured, values))
        several = len(one.points) > 1
        rows.append((*cells, sparkline([point.value for point in one.points]) if several else "") if drawn else cells)
    documents = [
        {
            "id": row["uid"],
            "step": step_name(row) or None,
            "title": one.title,
            "series": one.name,
            "points": len(one.points),
            "first": one.first,
            "last": one.last,
            "min": one.least,
            "max": one.greatest,
            "values": [{"iteration": point.iteration, "value": point.value, "at": output.iso(point.at)} for point in one.points],
        }
        for row, one in found
    ]
    output.print_table(rows, (*_HEADERS, "") if drawn else _HEADERS, out.format, documents)


def step_name(row: Any) -> str:
    """A step's name, "" for a run itself."""
    return "" if row["run_name"] is not None else str(row["name"])
