"""Facts into HTML: jinja2 templates with autoescape, and our own drawings, which come from the escaping element builder."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from minipipe import __version__, shown, states
from minipipe.drawing import chart, dag, element, folds, gantt, theme
from minipipe.drawing.element import Lines, Markup
from minipipe.report import index
from minipipe.report.facts import Facts
from minipipe.store.metrics import Series

MARK = "<!doctype html><!-- minipipe report -->"
CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_REFRESH_S = 2
_MOST_CHARTED = 24  # steps whose charts are not folded away
_HOVERS, _FEWEST_HOVERS = 380, 8  # places to point at: in all charts of a page together, and in each at least


def is_ours(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a page of ours, which a new one may replace."""
    return start.startswith(MARK.encode())


def run_page(facts: Facts, refresh: bool = False, back: str | None = None) -> str:
    """The page of one run.

    Args:
        facts: of the run.
        refresh: the page loads itself again every two seconds as long as the run goes on.
        back: file name of the index page that it belongs to.
    """
    found = facts.picture
    folded = folds.fold(found)
    name = found.run["run_name"] or found.run["name"]
    return (
        _environment()
        .get_template("page.html")
        .render(
            facts=facts,
            run=found.run,
            title=f"{name} – {facts.pipeline}",
            refresh=_REFRESH_S if refresh and not found.ended else None,
            back=back,
            graph=dag.svg(folded, name, lambda box: "#" + facts.anchors[box.nodes[0].id]) if found.nodes else None,
            timeline=gantt.svg(found, name, lambda node: "#" + facts.anchors[node.id]),
            seconds=_elapsed(facts),
            tally=folds.tally(found.nodes),
            share=_share(facts),
            failed=[step for step in facts.steps if step.node.status == states.FAILED],
            highlights=_highlights(facts),
            charts=list(_charts(facts)),
            most=_MOST_CHARTED,
            shows=[
                (name, anchor, found)
                for name, anchor, found in (
                    (name, "", facts.shows),
                    *((step.node.name, step.anchor, step.shows) for step in facts.steps),
                )
                if found
            ],
            models=[
                (name, anchor, one)
                for name, anchor, found in (
                    ("run", "", facts.models),
                    *((step.node.name, step.anchor, step.models) for step in facts.steps),
                )
                for one in found
            ],
        )
    )


def index_page(title: str, rows: index.Table) -> str:
    """The page that lists runs side by side."""
    return _environment().get_template("index.html").render(title=title, table=rows, refresh=None, back=None)


def _elapsed(facts: Facts) -> float | None:
    run = facts.run
    if run["started_at"] is None:
        return None
    return float(max(0.0, (run["ended_at"] or facts.picture.at) - run["started_at"]))


def _share(facts: Facts) -> list[tuple[str, int]]:
    """(CSS class, number of steps) in the order of a progress strip."""
    counts: dict[str, int] = {}
    for node in facts.picture.nodes:
        word = "cached" if node.cached_from and node.status in states.GOOD else node.status
        counts[word] = counts.get(word, 0) + 1
    order = ("completed", "published", "cached", "in_progress", "queued", "pending", "created", "skipped", "stopped", "failed")
    return [(word, counts[word]) for word in order if word in counts]


def _highlights(facts: Facts) -> list[tuple[str, str]]:
    """Single values that the run reported, else those of the last step that reported any; at most four."""
    found = facts.headlines or next((step.headlines for step in reversed(facts.steps) if step.headlines), ())
    return [(name, shown.measured(value)) for name, value in found[:4]]


# -- charts -------------------------------------------------------------------------------------------------------------


def _charts(facts: Facts) -> Iterable[dict[str, Any]]:
    """Charts of the run itself, then of each step; series of one title share a chart, all of a step a table."""
    groups = [
        (facts.run["run_name"] or facts.run["name"], "", facts.charts),
        *((step.node.name, step.anchor, step.charts) for step in facts.steps),
    ]
    count = sum(len({one.title for one in series}) for _, _, series in groups)
    hovers = max(_FEWEST_HOVERS, _HOVERS // max(1, count))
    for name, anchor, series in groups:
        if series:
            titles: dict[str, list[Series]] = {}
            for one in series:
                titles.setdefault(one.title, []).append(one)
            yield {
                "name": name,
                "anchor": anchor,
                "charts": [_chart(title, found, hovers) for title, found in titles.items()],
                "names": [f"{one.title}/{one.name}" for one in series],
                "rows": _rows(series),
                "total": sum(len(one.points) for one in series),
                "thin": any(len(one.points) > chart.MOST_POINTS for one in series),
            }


def _points(one: Series) -> tuple[tuple[float, float], ...]:
    """In the order of the iterations: several steps may report on one series of their run, each when it is done."""
    found = (
        (float(place if point.iteration is None else point.iteration), point.value) for place, point in enumerate(one.points)
    )
    return tuple(sorted(found, key=lambda point: point[0]))


def _chart(title: str, series: list[Series], hovers: int) -> dict[str, Any]:
    drawn = [chart.Line(one.name, _points(one)) for one in series]
    return {
        "title": title,
        "svg": chart.lines(title, drawn, x_label="", hovers=hovers),
        "legend": [(one.name, chart.color(place), shown.measured(_points(one)[-1][1])) for place, one in enumerate(series)],
    }


def _rows(series: Iterable[Series]) -> list[tuple[str, list[str]]]:
    """(iteration, values as text) of the points that are drawn; a series without a value there has an empty cell."""
    columns = [dict(chart.thinned(_points(one))) for one in series]
    places = sorted({x for column in columns for x in column})
    return [(f"{x:g}", [shown.measured(column[x]) if x in column else "" for column in columns]) for x in places]


# -- templates ----------------------------------------------------------------------------------------------------------


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        duration=shown.duration,
        size=shown.size,
        clock=_clock,
        lines=element.lines,
        measured=lambda value: shown.measured(value) if isinstance(value, float) else value,
        worded=_worded,
    )
    environment.globals.update(
        csp=CSP,
        mark=Markup(MARK),
        css=Markup(_css()),
        version=__version__,
        sign=_sign,
        words_of=folds.words_of,
    )
    return environment


def _harmless(value: object) -> object:
    """What every expression of a template passes: control characters become visible; escaping follows."""
    if isinstance(value, (Markup, Lines)) or not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return shown.escape(value)


def _clock(at: float | None) -> str:
    return f"{shown.clock(at, utc=True)} UTC" if at is not None else ""


def _worded(value: object) -> str:
    """A compared value in words."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return shown.measured(value)
    return value if isinstance(value, str) else repr(value)


def _sign(status: str, cached: bool = False) -> str:
    """The sign of a status as text, never as a coloured picture (variation selector 15)."""
    return ("↻" if cached else shown.sign_of(status)) + "\ufe0e"


def _css() -> str:
    own = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    colors = (
        f":root{{{theme.LIGHT};color-scheme:light}}"
        f"@media(prefers-color-scheme:dark){{:root{{{theme.DARK};color-scheme:dark}}}}"
        f":root:has(#light:checked){{{theme.LIGHT};color-scheme:light}}"
        f":root:has(#dark:checked){{{theme.DARK};color-scheme:dark}}"
        f"@media print{{:root,:root:has(#dark:checked){{{theme.LIGHT};color-scheme:light}}}}"
    )
    return colors + theme.STATUSES + theme.DRAWINGS + " ".join(line.strip() for line in own.splitlines())
