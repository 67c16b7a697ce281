"""What a notebook shows of a run, a step or a value: the blocks of the report page, with a style that touches nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from minipipe import shown, states
from minipipe.drawing import dag, theme
from minipipe.drawing.element import Markup, element, join
from minipipe.drawing.folds import Folded, fold, tally
from minipipe.store.picture import Node, Picture

_MOST_ROWS = 30
_PREVIEW = 120
_CACHED = "cached"

_OWN = (
    "h4{margin:0 0 2px;font-size:15px}h4 code{font-size:12px;font-weight:400;color:var(--soft);background:none}"
    "p{margin:0 0 8px;color:var(--soft)}.mp-status{color:var(--c);font-weight:600}"
    ".mp-box{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px;margin:0 0 8px}"
    "table{border-collapse:collapse;margin:0}th,td{text-align:left;padding:3px 16px 3px 0;border:0;"
    "border-bottom:1px solid var(--line);background:none;color:var(--ink);vertical-align:top}th{font-weight:560}"
    "thead th{color:var(--soft);font-size:12px}.mp-soft{color:var(--soft)}.mp-n{text-align:right}"
    ".mp-code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}"
)


def scoped(css: str, scope: str = ".minipipe") -> str:
    """The same rules for what stands below `scope` alone. For plain rules without ``@``."""
    return re.sub(
        r"([^{}]+)\{([^{}]*)\}",
        lambda rule: ",".join(f"{scope} {part}" for part in rule[1].split(",")) + "{" + rule[2] + "}",
        css,
    )


def style() -> Markup:
    """The style of a block: light or dark as the notebook is, or as the reader prefers where the notebook does not say."""
    base = "font:13.5px/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;color:var(--ink);max-width:1100px"
    dark = "[data-jp-theme-light=false] .minipipe,.vscode-dark .minipipe"
    light = "[data-jp-theme-light=true] .minipipe,.vscode-light .minipipe"
    return element(
        "style",
        Markup(
            f".minipipe{{{theme.LIGHT};{base}}}@media(prefers-color-scheme:dark){{.minipipe{{{theme.DARK}}}}}"
            f"{light}{{{theme.LIGHT}}}{dark}{{{theme.DARK}}}{scoped(theme.STATUSES)}{scoped(theme.DRAWINGS)}{scoped(_OWN)}"
        ),
    )


def block(*children: object) -> str:
    """A block to be displayed, with its style."""
    return str(element("div", style(), *children, class_="minipipe"))


def status(word: str, cached: bool = False) -> Markup:
    """Sign and word of a status, in its colour."""
    sign = "↻" if cached else shown.sign_of(word)
    label = f"{word}, cached" if cached else word
    return element("span", f"{sign}\ufe0e {label}", class_=f"mp-status {_CACHED if cached else word}")


def title(name: str, code: str, facts: Iterable[object]) -> Markup:
    """The first two lines: name and id, then facts with points between them."""
    given = [fact for fact in facts if fact]
    points: list[object] = []
    for fact in given:
        points += [" · ", fact] if points else [fact]
    return join([element("h4", name, " ", element("code", code)), element("p", points)])


def run(picture: Picture, pipeline: str, seconds: float | None) -> str:
    """A run: what it is, its graph, its steps."""
    row = picture.run
    facts = [status(row["status"]), pipeline, shown.duration(seconds), tally(picture.nodes)]
    folded = fold(picture)
    if len(folded.boxes) > _MOST_ROWS:
        folded = fold(picture, always=True)
    return block(title(row["run_name"], row["uid"][:8], facts), graph(folded, row["run_name"]), steps(picture.nodes))


def plan(folded: Folded, name: str, facts: Sequence[str]) -> str:
    """A pipeline that has not been started: its graph."""
    return block(title(name, "", facts), graph(folded, name))


def graph(folded: Folded, name: str) -> Markup | None:
    """The graph in a box that scrolls; None if there is nothing to draw, or too much for a notebook."""
    if not folded.boxes or len(folded.boxes) > 4 * _MOST_ROWS:
        return None
    return element("div", dag.svg(folded, name), class_="mp-box")


def steps(nodes: Sequence[Node]) -> Markup | None:
    """A table of steps; of many, those that need attention first."""
    if not nodes:
        return None
    chosen = list(nodes)
    if len(chosen) > _MOST_ROWS:
        chosen.sort(key=lambda node: node.status in states.GOOD)
        chosen = chosen[:_MOST_ROWS]
    rows = [
        element(
            "tr",
            element("th", node.name, scope="row"),
            element("td", status(node.status, bool(node.cached_from) and node.status in states.GOOD)),
            element("td", shown.duration(node.seconds), class_="mp-n"),
            element("td", node.reason if node.status not in states.GOOD else "", class_="mp-soft"),
        )
        for node in chosen
    ]
    more = element("p", f"{len(chosen)} of {len(nodes)} steps") if len(chosen) < len(nodes) else None
    head = element("tr", (element("th", word, scope="col") for word in ("Step", "Status", "Time", "")))
    return join([element("table", element("thead", head), element("tbody", rows)), more])


def pairs(rows: Iterable[tuple[str, object]]) -> Markup | None:
    """Names and values as a table, without those that are empty."""
    found = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows if value]
    return element("table", element("tbody", found)) if found else None


def preview(text: str) -> Markup | None:
    """A value's stored preview, cut."""
    if not text:
        return None
    return element("span", text if len(text) <= _PREVIEW else text[:_PREVIEW] + "…", class_="mp-code")
