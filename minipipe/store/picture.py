"""A run as a picture: its steps, what flows between them, and when each of their attempts waited and ran.

Asked in a handful of statements whatever the number of steps; changes nothing and decodes no value. Terminal, report page and
notebook draw from the same picture.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from minipipe import states
from minipipe.store import placeholders, views
from minipipe.store.details import elapsed_s, error_of
from minipipe.store.home import Store


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt of a task, from its history.

    Attributes:
        number: 1 for the first attempt.
        queued_at: when it entered its queue for this attempt, None if it never was in one.
        started_at, ended_at: Unix seconds; None while it has not.
        became: the status that ended it, "in_progress" while it runs.
        worker: name of who executed it.
    """

    number: int
    queued_at: float | None
    started_at: float | None
    ended_at: float | None
    became: str
    worker: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A step as drawings know it.

    Attributes:
        id: row id.
        attempt, tries: the last attempt, and how many it may have.
        seconds: how long its last attempt ran (or has run), None before the first.
        cached_from: id of the run whose step served it, "" if it ran itself.
        reason: why it is in its status.
        where: place of its failure in the user's file, "" if it is unknown.
        code_key: of its captured source, "" if there is none.
        spans: its attempts, oldest first.
    """

    id: int
    uid: str
    name: str
    type: str
    status: str
    attempt: int
    tries: int
    seconds: float | None
    cached_from: str = ""
    reason: str = ""
    where: str = ""
    progress: int | None = None
    queue: str = ""
    code_key: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """Step `child` needs step `parent` (row ids).

    Attributes:
        names: outputs of the parent that travel along it, in the child's order; empty for an edge of order alone.
        control: shown, decides nothing.
    """

    parent: int
    child: int
    names: tuple[str, ...] = ()
    control: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A run: its row, its steps in the order they began, its edges, and the moment it was looked at."""

    run: sqlite3.Row
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    at: float
    spans: tuple[Span, ...] = field(default=())  # of the run's own task

    @property
    def ended(self) -> bool:
        """Nothing of it will change any more."""
        return self.run["status"] in states.ENDED and all(node.status in states.ENDED for node in self.nodes)


def of_run(store: Store, run: sqlite3.Row, now: float | None = None) -> Picture:
    """The picture of a run.

    Args:
        store: where it is.
        run: its full row.
        now: Unix seconds, for what still runs; default the clock.
    """
    at = time.time() if now is None else now
    rows = views.steps_of(store, run["id"])
    spans = _spans(store, run["id"])
    nodes = tuple(node_of(row, at, spans.get(row["id"], ())) for row in rows)
    return Picture(run, nodes, _edges(store, run["id"], {node.id: node.name for node in nodes}), at, spans.get(run["id"], ()))


def node_of(row: sqlite3.Row, now: float, spans: Iterable[Span] = ()) -> Node:
    """A row of ``task`` as a node; with a column ``source_run`` it knows what served it."""
    return Node(
        id=row["id"],
        uid=row["uid"],
        name=row["name"],
        type=row["type"],
        status=row["status"],
        attempt=row["attempt"],
        tries=max(row["max_retries"] + 1, row["attempt"]),
        seconds=None if row["cached_from"] else elapsed_s(row, now),
        cached_from=(row["source_run"] or "") if "source_run" in row.keys() else "",  # noqa: SIM118
        reason=row["reason"],
        where=error_of(row).get("where", "").partition(", in ")[0],
        progress=row["progress"],
        queue=row["queue"] or "",
        code_key=row["code_key"] or "",
        spans=tuple(spans),
    )


def _spans(store: Store, run_id: int) -> dict[int, tuple[Span, ...]]:
    rows = store.database.rows(
        "SELECT e.task_id, e.at, e.old, e.new, e.attempt, e.detail, w.name AS worker FROM task t JOIN event e ON e.task_id = t.id"
        " LEFT JOIN worker w ON w.id = e.worker_id WHERE (t.parent_id = ?1 AND t.superseded = 0 OR t.id = ?1)"
        " AND e.kind = 'status' ORDER BY e.id",
        (run_id,),
    )
    found: dict[int, list[Span]] = {}
    for row in rows:
        spans = found.setdefault(row["task_id"], [])
        last = spans[-1] if spans else None
        if row["new"] == states.QUEUED:
            if last is not None and last.ended_at is None and last.started_at is not None:
                spans[-1] = _ended(last, row)
            spans.append(Span(row["attempt"] + 1, row["at"], None, None, states.QUEUED, ""))
        elif row["new"] == states.IN_PROGRESS:
            waited = spans.pop().queued_at if last is not None and last.started_at is None else None
            spans.append(Span(row["attempt"], waited, row["at"], None, states.IN_PROGRESS, row["worker"] or ""))
        elif last is not None and last.ended_at is None:
            spans[-1] = _ended(last, row)
    return {task: tuple(spans) for task, spans in found.items()}


def _ended(span: Span, row: sqlite3.Row) -> Span:
    return Span(span.number, span.queued_at, span.started_at, row["at"], row["new"], span.worker, row["detail"])


def _edges(store: Store, run_id: int, names: dict[int, str]) -> tuple[Edge, ...]:
    carried: dict[tuple[int, int], list[str]] = {}
    ids = {name: task for task, name in names.items()}
    for row in store.database.rows(
        "SELECT a.task_id, a.source_id, a.source_name FROM task t JOIN artifact a ON a.task_id = t.id AND a.role = 'reference'"
        " WHERE t.parent_id = ? AND t.superseded = 0 ORDER BY a.id",
        (run_id,),
    ):
        if row["source_name"] and "${" not in row["source_name"]:
            carried.setdefault((row["source_id"], row["task_id"]), []).append(row["source_name"])
        else:
            _read_text(row["source_name"] or "", row["task_id"], ids, carried)
    for row in store.database.rows(
        "SELECT h.task_id, h.text FROM task t JOIN placeholder h ON h.task_id = t.id WHERE t.parent_id = ? AND t.superseded = 0"
        " ORDER BY h.task_id, h.section, h.name",
        (run_id,),
    ):
        _read_text(row["text"], row["task_id"], ids, carried)
    rows = store.database.rows(
        "SELECT e.parent_id, e.child_id, e.kind FROM task t JOIN edge e ON e.child_id = t.id"
        " WHERE t.parent_id = ? AND t.superseded = 0 ORDER BY e.child_id, e.parent_id",
        (run_id,),
    )
    return tuple(
        Edge(
            row["parent_id"],
            row["child_id"],
            tuple(dict.fromkeys(carried.get((row["parent_id"], row["child_id"]), ()))),
            row["kind"] == "control",
        )
        for row in rows
        if row["parent_id"] in names
    )


def _read_text(text: str, child: int, ids: dict[str, int], carried: dict[tuple[int, int], list[str]]) -> None:
    """What ``${step.artifacts.NAME.url}`` and ``${step.parameters.NAME}`` in a text carry."""
    for reference in placeholders.PATTERN.findall(text):
        parts = placeholders.split(reference)
        if len(parts) >= 2 and parts[0] in ids:
            what = parts[2] if len(parts) > 2 and parts[1] in ("artifacts", "parameters") else parts[1]
            carried.setdefault((ids[parts[0]], child), []).append(what)
