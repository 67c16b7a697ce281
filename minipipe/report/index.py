"""Several runs side by side: the table of the index page, and what they do not have in common."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from minipipe import states
from minipipe.report.facts import Facts


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of the index: its row, the file of its page, and what stands in its line."""

    run: sqlite3.Row
    file: str
    pipeline: str
    project: str
    seconds: float | None
    steps: int
    done: int
    failed: str
    tags: tuple[str, ...]
    parameters: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Table:
    """The runs, newest first, and which parameters and metrics any of them has, in the order they first appear."""

    entries: tuple[Entry, ...]
    parameters: tuple[str, ...]
    metrics: tuple[str, ...]

    def differs(self, name: str) -> bool:
        """Whether the runs that have a parameter disagree on it."""
        return len({entry.parameters.get(name) for entry in self.entries}) > 1

    def best(self, name: str) -> tuple[float, float] | None:
        """(lowest, highest) last value of a metric, None if all are equal."""
        values = [entry.metrics[name] for entry in self.entries if name in entry.metrics]
        known = [value for value in values if value == value]
        return (min(known), max(known)) if len(set(known)) > 1 else None


def entry_of(facts: Facts, file: str) -> Entry:
    """A run's line."""
    run, nodes = facts.run, facts.picture.nodes
    seconds = None
    if run["started_at"] is not None:
        seconds = float(max(0.0, (run["ended_at"] or facts.picture.at) - run["started_at"]))
    return Entry(
        run=run,
        file=file,
        pipeline=facts.pipeline,
        project=facts.project,
        seconds=seconds,
        steps=len(nodes),
        done=sum(node.status in states.GOOD for node in nodes),
        failed=next((node.name for node in nodes if node.status == states.FAILED), ""),
        tags=facts.tags,
        parameters={cell.name: cell.text for cell in facts.parameters},
        metrics=_last(facts),
    )


def _last(facts: Facts) -> dict[str, float]:
    """Last values of what the run and its steps measured."""
    found = dict(facts.singles) | {f"{one.title}/{one.name}": one.last for one in facts.charts}
    for step in facts.steps:
        found |= {f"{step.node.name}: {name}": value for name, value in step.singles}
        found |= {f"{step.node.name}: {one.title}/{one.name}": one.last for one in step.charts}
    return found


def table_of(entries: Sequence[Entry]) -> Table:
    """The table of some runs."""
    parameters = dict.fromkeys(name for entry in entries for name in entry.parameters)
    metrics = dict.fromkeys(name for entry in entries for name in entry.metrics)
    return Table(tuple(entries), tuple(parameters), tuple(metrics))
