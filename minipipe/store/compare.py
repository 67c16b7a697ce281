"""Comparing runs, or steps, fact by fact. Everything here only reads; nothing is decoded."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minipipe import states
from minipipe.store import cache, details, edits, metrics, records, views
from minipipe.store.home import Store

KINDS = ("params", "config", "code", "steps", "metrics", "artifacts", "time")
_NOTABLE_S, _NOTABLE = 0.1, 0.25  # what two equal runs may differ by, in seconds and as a share, is no difference
_ARGUMENTS = frozenset({"kwargs", "kwargs_artifacts"})  # of a function step: they follow from the run's parameters and results


@dataclass(frozen=True, slots=True)
class Row:
    """One fact of all that are compared.

    Attributes:
        kind: one of `KINDS`.
        name: of the parameter, step, series or artifact; that of a step's fact begins with the step.
        values: one for each, None where it is absent.
        note: what there is to say of the difference, "" if nothing.
    """

    kind: str
    name: str
    values: tuple[Any, ...]
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the values are unequal; times are if they differ by more than chance."""
        if self.kind == "time":
            known = [value for value in self.values if value is not None]
            spread = max(known, default=0.0) - min(known, default=0.0)
            return len(known) > 1 and spread >= _NOTABLE_S and spread >= _NOTABLE * min(known)
        return any(_key(value) != _key(self.values[0]) for value in self.values)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def compare(store: Store, tasks: Sequence[sqlite3.Row]) -> list[Row]:
    """All facts of two or more runs (with their steps) or steps, equal ones too, in the order of `KINDS`."""
    steps = [_members(store, task) for task in tasks]
    names = list(dict.fromkeys(name for members in steps for name in members))
    rows = []
    for name in names:
        group = [members.get(name) for members in steps]
        rows += _parameters(store, name, group) + _configurations(store, name, group) + _code(store, name, group)
        rows += _statuses(name, group) if name else []
        rows += _metrics(store, name, group) + _artifacts(store, name, group) + _times(name, group)
    return sorted(rows, key=lambda row: KINDS.index(row.kind))


def _members(store: Store, task: sqlite3.Row) -> dict[str, sqlite3.Row]:
    """The task itself under "", and a run's steps by name."""
    found = {"": task}
    if task["run_name"] is not None:
        found |= {step["name"]: step for step in views.steps_of(store, task["id"])}
    return found


def _under(step: str, name: str) -> str:
    return f"{step}/{name}" if step else name


def _table(kind: str, step: str, facts: Sequence[dict[str, Any]]) -> list[Row]:
    names = list(dict.fromkeys(name for one in facts for name in one))
    return [Row(kind, _under(step, name), tuple(one.get(name) for one in facts)) for name in names]


def _parameters(store: Store, step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    facts: list[dict[str, Any]] = []
    for task in group:
        cells = records.parameters(store, task["id"]) if task is not None else []
        facts.append(
            {
                cell["name"] if cell["section"] in ("Args", *_ARGUMENTS) else f"{cell['section']}/{cell['name']}": json.loads(
                    cell["value"]
                )
                for cell in cells
                if cell["section"] != "return" and not (step and cell["section"] in _ARGUMENTS)
            }
        )
    return _table("params", step, facts)


def _configurations(store: Store, step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    facts = [edits.configurations(store, task["id"]) if task is not None else {} for task in group]
    short = [{name: hashlib.sha256(text.encode()).hexdigest()[:8] for name, text in one.items()} for one in facts]
    return _table("config", step, short)


def _code(store: Store, step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    keys = tuple(_code_key(task) for task in group)
    if not any(keys):
        return []
    first = next((task for task in group if task is not None), None)
    name = step or (os.path.basename(json.loads(first["entry"]).get("file", "")) if first is not None else "") or "code"
    known = [task["code_key"] for task in group if task is not None and task["code_key"]]
    changes = cache.code_differences(store, known[0], known[-1]) if len(known) > 1 else []
    return [Row("code", name, keys, "; ".join(f"{one.name} {one.text}" for one in changes))]


def _code_key(task: sqlite3.Row | None) -> str | None:
    if task is None:
        return None
    if task["code_key"]:
        return str(task["code_key"])[:8]
    source = json.loads(task["entry"]).get("source")
    return hashlib.sha256(source.encode()).hexdigest()[:8] if source else None


def _statuses(step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    reasons = [task["reason"] for task in group if task is not None and task["status"] not in states.GOOD and task["reason"]]
    return [
        Row("steps", step, tuple(task["status"] if task is not None else None for task in group), reasons[-1] if reasons else "")
    ]


def _metrics(store: Store, step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    facts = [
        {
            one.name if one.title == metrics.SINGLE else f"{one.title}/{one.name}": one.last
            for one in metrics.series_of(store, task["id"])
        }
        if task is not None
        else {}
        for task in group
    ]
    return [Row(row.kind, row.name, row.values, change(row.values)) for row in _table("metrics", step, facts)]


def change(values: Sequence[Any]) -> str:
    """``+244%``: from the first number to the last; "" where that says nothing."""
    first, last = values[0], values[-1]
    if first is None or last is None or not first or not math.isfinite(first) or not math.isfinite(last) or first == last:
        return ""
    return f"{100 * (last - first) / abs(first):+.0f}%"


def _artifacts(store: Store, step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    facts: list[dict[str, Any]] = []
    for task in group:
        found = details.artifacts_of(store, task) if task is not None else []
        outputs = [one for one in found if one["role"] == "output"]
        facts.append({one["name"]: _artifact(one) for one in outputs})
    return _table("artifacts", step, facts)


def _artifact(one: dict[str, Any]) -> Any:
    if one["codec"] == "scalar":
        return json.loads(one["value"])
    return one["digest"][:8] if one["digest"] else one["preview"]


def _times(step: str, group: Sequence[sqlite3.Row | None]) -> list[Row]:
    values = tuple(_seconds(task) for task in group)
    return [Row("time", step or "all", values, change(values))] if any(value is not None for value in values) else []


def _seconds(task: sqlite3.Row | None) -> float | None:
    if task is None or task["cached_from"] is not None:
        return None
    if task["run_name"] is None:
        return float(task["duration_s"]) if task["duration_s"] is not None else None
    if task["started_at"] is None or task["ended_at"] is None:
        return None
    return float(max(0.0, task["ended_at"] - task["started_at"]))


def code_lines(store: Store, old: sqlite3.Row, new: sqlite3.Row) -> Iterator[str]:
    """What changed in the captured code, as a unified diff: the run's script first, then each step's function."""
    before, after = _members(store, old), _members(store, new)
    for name in dict.fromkeys((*before, *after)):
        sources = [_source(store, members.get(name)) for members in (before, after)]
        if sources[0] == sources[1]:
            continue
        labels = [f"{details.label_of(store, task)}{'/' + name if name else ''}" for task in (old, new)]
        lines = [source.splitlines() for source in sources]
        yield from difflib.unified_diff(lines[0], lines[1], labels[0], labels[1], lineterm="")


def _source(store: Store, task: sqlite3.Row | None) -> str:
    if task is None:
        return ""
    found = details.code_of(store, task["code_key"])
    return found[1] if found is not None else str(json.loads(task["entry"]).get("source") or "")
