"""How tasks, pipelines, artifacts, models and results show themselves: one line for ``repr``, a block for notebooks.

Reads the store once or twice, never loads a value, never waits, and never raises: where a fact is missing the line is shorter.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from minipipe import errors, shown, states
from minipipe.drawing import cards, folds
from minipipe.store import details, lookup, models, picture, records, views
from minipipe.store.home import Store
from minipipe.store.picture import Edge, Node

T = TypeVar("T")

_TROUBLE = (errors.MinipipeError, sqlite3.Error, OSError)


# -- one line -----------------------------------------------------------------------------------------------------------


def task_line(store: Store, row_id: int, uid: str) -> str:
    """``<Task 8b0e44d1 'train' failed 3.1s attempt 2/2>``."""
    row = _row(store, row_id)
    if row is None:
        return f"<Task {uid[:8]}>"
    seconds = details.elapsed_s(row, time.time())
    spent = f" {shown.duration(seconds)}" if seconds is not None else ""
    tries = max(row["max_retries"] + 1, row["attempt"])
    again = f" attempt {row['attempt']}/{tries}" if row["attempt"] and tries > 1 else ""
    return f"<Task {uid[:8]} {row['name']!r} {row['status']}{spent}{again}>"


def run_line(store: Store, row_id: int, kind: str, name: str) -> str:
    """``<PipelineController 'digits-demo' 1.0.0 7f3a91c2 calm-otter completed 4/4>``."""
    row = _row(store, row_id)
    if row is None:
        return f"<{kind} {name!r}>"
    counts = views.step_counts(store, row_id)
    done = sum(counts.get(word, 0) for word in states.GOOD)
    facts = [row["version"], row["uid"][:8], row["run_name"], row["status"], f"{done}/{sum(counts.values())}"]
    return f"<{kind} {name!r} {' '.join(str(fact) for fact in facts if fact)}>"


def model_line(kind: str, model: models.Model | None) -> str:
    """``<OutputModel 8b0e44d1 'digits' ScikitLearn 5.0 kB>``."""
    if model is None:
        return f"<{kind}, not stored>"
    facts = [model.uid[:8], repr(model.name), model.framework, shown.size(model.size) if model.digest else "", model.url or ""]
    return f"<{kind} {' '.join(fact for fact in facts if fact)}>"


def quietly(read: Callable[[], T]) -> T | None:
    """What `read` returns; None if the store cannot tell."""
    try:
        return read()
    except _TROUBLE:
        return None


def _row(store: Store, row_id: int) -> sqlite3.Row | None:
    return quietly(lambda: details.task_by_id(store, row_id))


# -- blocks -------------------------------------------------------------------------------------------------------------


def task_block(store: Store, row_id: int) -> str | None:
    """A task as HTML: a run with its graph and steps, any other task with what it was given and what it made."""
    try:
        row = details.task_by_id(store, row_id)
        if row is None:
            return None
        return _run(store, row) if row["run_name"] is not None else _step(store, row)
    except _TROUBLE:
        return None


def _run(store: Store, row: sqlite3.Row) -> str:
    pipeline, project = lookup.pipeline_of(row["name"], details.project_of(store, row))
    title = f"{pipeline} {row['version'] or ''}".strip() + (f" ({project})" if project else "")
    return cards.run(picture.of_run(store, row), title, details.elapsed_s(row, time.time()))


def _step(store: Store, row: sqlite3.Row) -> str:
    node = picture.node_of(row, time.time())
    cached = row["cached_from"] is not None
    facts = [
        cards.status(node.status, cached and node.status in states.GOOD),
        row["type"],
        shown.duration(node.seconds),
        f"attempt {node.attempt} of {node.tries}" if node.attempt and node.tries > 1 else "",
        row["reason"] if node.status not in states.GOOD else "",
    ]
    given = [
        (f"{section}/{name}" if section != "kwargs" else name, cards.preview(text)) for section, name, text in _given(store, row)
    ]
    made = [(one["name"], [cards.preview(one["preview"]), f" {one['type']}"]) for one in _made(store, row)]
    return cards.block(cards.title(row["name"], details.label_of(store, row), facts), cards.pairs(given), cards.pairs(made))


def _given(store: Store, row: sqlite3.Row) -> Sequence[tuple[str, str, str]]:
    return details.arguments_of(store, row["id"])


def _made(store: Store, row: sqlite3.Row) -> list[dict[str, Any]]:
    return [one for one in details.artifacts_of(store, row) if one["role"] == "output"]


def plan_block(name: str, version: str, parents: Mapping[str, Sequence[str]]) -> str:
    """A pipeline that has not been started as HTML: its steps (name -> names of those that it needs) and their order."""
    ids = {step: number for number, step in enumerate(parents)}
    nodes = tuple(Node(number, "", step, "", states.CREATED, 0, 1, None) for step, number in ids.items())
    edges = tuple(Edge(ids[each], ids[step]) for step, needed in parents.items() for each in needed if each in ids)
    facts = [f"{version} not started".strip(), f"{len(nodes)} steps"]
    return cards.plan(folds.fold_of(nodes, edges), name, facts)


def artifact_block(row: Any) -> str:
    """An artifact as HTML: its facts and its stored preview."""
    facts = [row["type"], shown.size(row["size"]), f"digest {row['digest'][:8]}" if row["digest"] else ""]
    return cards.block(cards.title(row["name"], "artifact", facts), cards.preview(row["preview"]))


def model_block(model: models.Model) -> str:
    """A model as HTML: its facts."""
    facts = [model.framework, shown.size(model.size) if model.digest else "", "published" if model.published else ""]
    rows: list[tuple[str, object]] = [
        ("project", model.project),
        ("weights", model.file or model.url),
        ("tags", ", ".join(model.tags)),
        ("labels", ", ".join(f"{name} {number}" for name, number in model.labels.items())),
        *((key, entry.get("value", "")) for key, entry in model.metadata.items()),
        ("comment", model.comment),
    ]
    return cards.block(cards.title(model.name, model.uid[:8], facts), cards.pairs(rows))


# -- results that are not there yet -------------------------------------------------------------------------------------


def result_bundle(path: Path, task_id: int, output: str) -> dict[str, str] | None:
    """What a notebook shows of a lazy result that nobody has used yet, by media type; None if the step is unknown.

    Neither waits nor loads: a result that is there already shows its stored preview.
    """
    try:
        store = Store.open(path, create=False)
        row = details.task_by_id(store, task_id)
        if row is None:
            return None
        found = records.artifact_row(store, task_id, output) if row["status"] in states.GOOD else None
        words = f"result {output!r} of {row['name']}: {row['status']}"
        line = words + (f", {found['type']}: {found['preview']}" if found is not None and found["preview"] else "")
        facts = [cards.status(row["status"]), f"of step {row['name']}", found["type"] if found is not None else ""]
        body = cards.preview(found["preview"]) if found is not None else None
        return {"text/plain": shown.escape(line), "text/html": cards.block(cards.title(output, "result", facts), body)}
    except _TROUBLE:
        return None
