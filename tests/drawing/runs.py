"""Runs of any shape, filled into a store directly."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from minipipe.store import tasks
from minipipe.store.home import Store

ENTRY = {"kind": "import", "cwd": "/", "roots": [], "returns": []}


def run(store: Store, name: str = "shape") -> sqlite3.Row:
    """A run without steps, in progress nowhere."""
    made = tasks.submit(
        store,
        tasks.NewTask(
            type="controller",
            name=name,
            project="tests",
            entry=ENTRY,
            queue="services",
            controller=True,
            is_run=True,
            version="1",
        ),
    )
    row = store.database.row("SELECT * FROM task WHERE id = ?", (made.id,))
    assert row is not None
    return row


def step(store: Store, run: sqlite3.Row, name: str, parents: Iterable[tuple[int, str]] = (), **facts: Any) -> int:
    """A step; `parents` are (task id, output name), an empty output name is an edge of order alone."""
    given = tuple(parents)
    made = tasks.submit(
        store,
        tasks.NewTask(
            type="training",
            name=name,
            project="tests",
            entry=ENTRY,
            parent_id=run["id"],
            queue="default",
            parents=tuple({task: ("data" if output else "order") for task, output in given}.items()),
            links=tuple(
                tasks.Link("reference", f"argument_{number}", None, task, output)
                for number, (task, output) in enumerate(given)
                if output
            ),
            **facts,
        ),
        durable=False,
    )
    return made.id


def chain(store: Store, run: sqlite3.Row, names: Sequence[str]) -> list[int]:
    """Steps one after the other."""
    found: list[int] = []
    for name in names:
        found.append(step(store, run, name, [(found[-1], "out")] if found else []))
    return found
