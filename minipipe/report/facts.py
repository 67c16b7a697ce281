"""All that a page says of a run, read from the store once and put into plain values. Nothing is decoded, nothing is changed."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe import states
from minipipe.report.shows import Gallery, Shown
from minipipe.store import (
    cache,
    compare,
    details,
    edits,
    environments,
    flows,
    logs,
    lookup,
    metrics,
    models,
    picture,
    presence,
    reasons,
    records,
    surroundings,
)
from minipipe.store.home import Store
from minipipe.store.metrics import Series
from minipipe.store.picture import Node, Picture

_DIFF_LINES = 400
_COMPARED = ("params", "config", "steps", "metrics", "time")


@dataclass(frozen=True, slots=True)
class Options:
    """What a page holds.

    Attributes:
        full_logs: whole logs rather than their ends (4 MiB each at most).
        images: "small" (64 KB each, 2 MB in all), "all" or "none".
    """

    full_logs: bool = False
    images: str = "small"


@dataclass(frozen=True, slots=True)
class Cell:
    """A parameter: its name (with the section where it is not the usual one), type, value as text."""

    name: str
    type: str
    text: str
    description: str = ""
    changed: bool = False  # it differs from what the code gives it where nobody says otherwise
    usual: str = ""


@dataclass(frozen=True, slots=True)
class Thing:
    """An artifact or scalar result of a step."""

    name: str
    type: str
    size: int | None
    digest: str
    preview: str
    command: str


@dataclass(frozen=True, slots=True)
class Code:
    """Captured source. `same_as` is the anchor and name of an earlier step with the same one, whose text is not repeated."""

    name: str
    source: str
    parts: tuple[str, ...]
    same_as: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step as a section of the page. `needs` are (name, anchor, what flows)."""

    node: Node
    anchor: str
    label: str
    parameters: tuple[Cell, ...]
    inputs: tuple[tuple[flows.Input, tuple[str, str] | None], ...]
    outputs: tuple[Thing, ...]
    shows: tuple[Shown, ...]
    models: tuple[models.Linked, ...]
    needs: tuple[tuple[str, str, tuple[str, ...]], ...]
    needed_by: tuple[tuple[str, str], ...]
    failure: dict[str, str]
    console: logs.Tail | None
    code: Code | None
    charts: tuple[Series, ...]
    singles: tuple[tuple[str, float], ...]
    headlines: tuple[tuple[str, float], ...]
    cache_reason: str
    waiting: str
    comment: str
    tags: tuple[str, ...]

    @property
    def waits(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """What it needs besides the steps whose outputs stand among its inputs."""
        named = {source[1] for _, source in self.inputs if source is not None}
        return tuple(one for one in self.needs if one[1] not in named)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside the one that it was copied from."""

    other: sqlite3.Row
    rows: tuple[compare.Row, ...]
    diff: tuple[str, ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """A run, its steps, and what belongs to the run itself."""

    picture: Picture
    pipeline: str
    project: str
    tags: tuple[str, ...]
    parent: sqlite3.Row | None
    parameters: tuple[Cell, ...]
    configurations: tuple[tuple[str, str], ...]
    rerun: str
    comparison: Comparison | None
    steps: tuple[Step, ...]
    charts: tuple[Series, ...]
    singles: tuple[tuple[str, float], ...]
    headlines: tuple[tuple[str, float], ...]
    outputs: tuple[Thing, ...]
    shows: tuple[Shown, ...]
    models: tuple[models.Linked, ...]
    failure: dict[str, str]
    environment: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, tuple[str, ...]], ...]
    git_diff: str = ""
    anchors: dict[int, str] = field(default_factory=dict)

    @property
    def run(self) -> sqlite3.Row:
        """Its row."""
        return self.picture.run


def of_run(store: Store, run: sqlite3.Row, options: Options | None = None, now: float | None = None) -> Facts:
    """Everything about a run.

    Args:
        store: where it is.
        run: its full row.
        options: what the page holds.
        now: Unix seconds, for what still runs.
    """
    options = options or Options()
    found = picture.of_run(store, run, now)
    pipeline, project = lookup.pipeline_of(run["name"], details.project_of(store, run))
    anchors = {node.id: f"step-{number}" for number, node in enumerate(found.nodes, 1)}
    parent = details.task_by_id(store, run["template_id"])
    measured = _measured(store, run["id"])
    known = surroundings.surroundings_of(store, run["id"], json.loads(run["entry"]))
    cells = _cells(store, run["id"])
    gallery = Gallery(options.images)
    called = run["run_name"] or run["uid"][:8]  # a script's own task has no such name
    shows = gallery.of_task(store, run["id"], called)
    return Facts(
        picture=found,
        pipeline=pipeline,
        project=project,
        tags=details.tags_of(store, run["id"]),
        parent=parent,
        parameters=cells,
        configurations=tuple(edits.configurations(store, run["id"]).items()),
        rerun=_rerun(run, cells),
        comparison=_compared(store, parent, run),
        steps=tuple(_steps(store, found, anchors, options.full_logs, gallery)),
        charts=measured.charts,
        singles=measured.singles,
        headlines=measured.headlines,
        outputs=_things(store, run, called),
        shows=shows,
        models=_own_models(store, run["id"]),
        failure=details.error_of(run),
        environment=tuple(_environment(known)),
        packages=tuple(_packages(store, found)),
        git_diff=str(known.get("patch") or ""),
        anchors=anchors,
    )


# -- steps --------------------------------------------------------------------------------------------------------------


def _steps(store: Store, found: Picture, anchors: dict[int, str], full_logs: bool, gallery: Gallery) -> Iterator[Step]:
    inputs = flows.inputs_of_run(store, found.run["id"])
    names = {node.id: node.name for node in found.nodes}
    shown: dict[str, tuple[str, str]] = {}
    living = [] if found.ended else presence.living(store)
    for node in found.nodes:
        row = details.task_by_id(store, node.id)
        if row is None:
            continue
        measured = _measured(store, node.id)
        label = f"{found.run['run_name']}/{node.name}"
        anchor = anchors[node.id]
        yield Step(
            node=node,
            anchor=anchor,
            label=label,
            parameters=_cells(store, node.id),
            inputs=tuple((one, _source(one, names, anchors)) for one in inputs.get(node.id, ())),
            outputs=_things(store, row, label),
            shows=gallery.of_task(store, node.id, label),
            models=tuple(models.of_task(store, node.id)),
            needs=tuple(
                (names[edge.parent], anchors[edge.parent], edge.names)
                for edge in found.edges
                if edge.child == node.id and not edge.control
            ),
            needed_by=tuple(
                (names[edge.child], anchors[edge.child]) for edge in found.edges if edge.parent == node.id and not edge.control
            ),
            failure=details.error_of(row),
            console=_console(store, node, full_logs),
            code=_code(store, row, node, anchor, shown),
            charts=measured.charts,
            singles=measured.singles,
            headlines=measured.headlines,
            cache_reason=_why(store, node),
            waiting=reasons.waiting_reason(store, row, living) if node.status not in states.ENDED else "",
            comment=row["comment"],
            tags=details.tags_of(store, node.id),
        )


def _source(one: flows.Input, names: dict[int, str], anchors: dict[int, str]) -> tuple[str, str] | None:
    """(name, anchor) of the step that an input came from."""
    if one.source_id is None or one.source_id not in names:
        return None
    return names[one.source_id], anchors[one.source_id]


def _console(store: Store, node: Node, full: bool) -> logs.Tail | None:
    path = records.log_of(store, node.id)
    uid = path.name.partition(".")[0]
    return logs.tail(path, uid, None if full else 30)


def _code(store: Store, row: sqlite3.Row, node: Node, anchor: str, shown: dict[str, tuple[str, str]]) -> Code | None:
    found = details.code_of(store, row["code_key"])
    if found is not None:
        name, source, parts = found
        key = str(row["code_key"])
    else:
        entry = json.loads(row["entry"])
        if not entry.get("source"):
            return None
        name, source, parts = Path(entry.get("file") or "script").name, entry["source"], []
        key = source
    same = shown.setdefault(key, (anchor, node.name))
    used = tuple(
        f"{part['kind']} {part['name']}" + (f", {Path(part['file']).name}:{part['line']}" if part.get("file") else "")
        for part in parts[1:]
    )
    return Code(name, source, used, same if same[0] != anchor else None)


def _why(store: Store, node: Node) -> str:
    if node.status not in states.ENDED or not (node.attempt or node.cached_from) or not node.code_key:
        return ""
    found = cache.why(store, node.id)
    changes = "; ".join(f"{one.kind} {one.name} {one.text}" for one in found.differences)
    against = f", {found.nearest[:8]}" if found.nearest else ""
    return f"{found.verdict}{against}" + (f": {changes}" if changes else "")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a task measured: series worth a chart, all other values by name, and of these the ones without iteration."""

    charts: tuple[Series, ...]
    singles: tuple[tuple[str, float], ...]
    headlines: tuple[tuple[str, float], ...]


def _measured(store: Store, task_id: int) -> _Measured:
    charts, singles, headlines = [], [], []
    for one in metrics.series_of(store, task_id):
        name = one.name if one.title == metrics.SINGLE else f"{one.title}/{one.name}"
        if all(point.iteration is None for point in one.points):
            headlines.append((name, one.last))
            singles.append((name, one.last))
        elif len(one.points) == 1:
            singles.append((name, one.last))
        else:
            charts.append(one)
    return _Measured(tuple(charts), tuple(singles), tuple(headlines))


def _things(store: Store, row: sqlite3.Row, label: str) -> tuple[Thing, ...]:
    return tuple(
        Thing(
            one["name"],
            one["type"],
            one["size"] if one["digest"] else None,
            one["digest"] or "",
            one["preview"],
            f"minipipe get {shlex.quote(label + '/' + one['name'])}",
        )
        for one in details.artifacts_of(store, row)
        if one["role"] == "output"
    )


def _own_models(store: Store, run_id: int) -> tuple[models.Linked, ...]:
    """Models of the run itself; what is mirrored from a step stands with the step already."""
    return tuple(one for one in models.of_task(store, run_id) if one.role == models.OUTPUT or one.model.task is None)


# -- the run ------------------------------------------------------------------------------------------------------------


def _cells(store: Store, task_id: int) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            row["name"] if row["section"] in ("Args", "kwargs", "General") else f"{row['section']}/{row['name']}",
            row["type"] or ("str" if row["text"] else ""),
            row["text"],
            row["description"] or "",
            row["usual"] is not None and row["usual"] != row["text"],
            row["usual"] or "",
        )
        for row in records.parameters(store, task_id)
        if row["section"] not in ("return", "kwargs_artifacts")
    )


def _rerun(run: sqlite3.Row, cells: Sequence[Cell]) -> str:
    """The command that makes a new run of the same script, with every parameter to be changed."""
    words = ["minipipe", "rerun", run["run_name"] or run["uid"][:8]]
    for cell in cells:
        words += ["--set", f"{cell.name}={cell.text}"]
    return shlex.join(words)


def _compared(store: Store, parent: sqlite3.Row | None, run: sqlite3.Row) -> Comparison | None:
    if parent is None or parent["run_name"] is None:
        return None
    rows = tuple(row for row in compare.compare(store, [parent, run]) if row.differs and row.kind in _COMPARED)
    diff = list(compare.code_lines(store, parent, run))
    return Comparison(parent, rows, tuple(diff[:_DIFF_LINES]), len(diff) > _DIFF_LINES)


# What of a process's surroundings is shown; nothing else of them gets into a page.
_SHOWN = (
    ("file", "script"),
    ("module", "module"),
    ("qualname", "function"),
    ("cwd", "working directory"),
    ("argv", "arguments"),
    ("mode", "mode"),
    ("binary", "python"),
    ("python", "python"),
    ("versions", "imported packages"),
    ("environment", "environment"),
    ("repository", "repository"),
    ("branch", "branch"),
    ("commit", "commit"),
    ("changes", "changes"),
)


def _environment(known: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, word in _SHOWN:
        value = known.get(key)
        if key == "argv" and isinstance(value, list):
            value = shlex.join(map(str, value[1:]))
        if value:
            yield word, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _packages(store: Store, found: Picture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(steps, packages) of each environment that steps ran in."""
    users: dict[str, list[str]] = {}
    made: dict[str, environments.Environment] = {}
    for node in found.nodes:
        one = environments.of_task(store, node.id)
        if one is not None:
            made[one.digest] = one
            users.setdefault(one.digest, []).append(node.name)
    for digest, one in made.items():
        yield ", ".join(users[digest]), tuple(line for line in one.resolved or one.requirements.lines if not line.startswith("-"))
