"""Runs as rows that mean the same in any store: what belongs to a task, and how its references are written.

A row id means nothing elsewhere, so references travel as ids (tasks, models) or names (projects). Which columns refer to what is
read from the schema, so that a column that a later migration adds travels too. Tables that nobody names here do not travel.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors, states
from minipipe.store.home import Store

# Tables whose rows belong to a task (or model), by the column that says to which. Order: what is referred to comes first.
OWNED = {
    "artifact": "task_id",
    "cache": "task_id",
    "configuration": "task_id",
    "edge": "child_id",
    "event": "task_id",
    "metric": "task_id",
    "monitor": "task_id",
    "parameter": "task_id",
    "placeholder": "task_id",
    "plot": "task_id",
    "tag": "task_id",
    "task_model": "task_id",
}
OF_MODEL = {"model_metric": "model_id", "plot": "model_id"}
ENTITIES = ("code", "environment", "task", "model")
TABLES = (*ENTITIES, *OWNED, "model_metric")

# What is of this store alone: who ran it, and where it waited.
_LOCAL = {
    "task": {"worker_id", "token", "session", "private", "ticket", "not_before", "log", "abort_requested", "abort_grace_s"},
    "event": {"worker_id"},
}
_KEY = {"task": "uid", "model": "uid", "project": "name"}  # how a reference to a row id travels

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of a table, as this store has them.

    Attributes:
        columns: those that travel.
        references: column -> (table, column there) of those that hold a row id or a name.
    """

    columns: tuple[str, ...]
    references: dict[str, str]

    @classmethod
    def of(cls, connection: sqlite3.Connection, table: str) -> Shape:
        """Read it from the schema."""
        info = connection.execute(f"PRAGMA table_info({table})").fetchall()
        local = _LOCAL.get(table, set()) | {row["name"] for row in info if row["pk"] and row["name"] == "id"}
        columns = tuple(row["name"] for row in info if row["name"] not in local)
        keys = connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
        return cls(columns, {row["from"]: row["table"] for row in keys if row["to"] == "id" and row["from"] in columns})


@dataclass(slots=True)
class Selection:
    """The tasks that travel together.

    Attributes:
        roots, uids: row ids and ids of whole runs, those that were asked for first.
        tasks: row ids of all their tasks, parents before children.
    """

    roots: list[int] = field(default_factory=list)
    uids: list[str] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)


def select(store: Store, run_ids: Iterable[int]) -> Selection:
    """The runs that were asked for, whole, and those that they cannot be understood without: what served their cached steps, and
    what their inputs come from.

    Raises:
        UsageError: one of them has not ended.
    """
    found = Selection()
    work = list(run_ids)
    seen: set[int] = set()
    while work:
        root = _root(store, work.pop(0))
        if root in found.roots:
            continue
        tree = store.database.rows(
            "WITH RECURSIVE tree (id, depth) AS (SELECT ?, 0 UNION SELECT t.id, tree.depth + 1 FROM task t"
            " JOIN tree ON t.parent_id = tree.id) SELECT t.id, t.uid, t.name, t.status FROM tree JOIN task t ON t.id = tree.id"
            " ORDER BY tree.depth, t.id",
            (root,),
        )
        for row in tree:
            if row["status"] not in states.ENDED and row["status"] != states.CREATED:
                raise errors.UsageError(
                    f"task {row['uid'][:8]} ({row['name']}) is {row['status']}",
                    "only what has ended can be exported: it would be another run when it arrives",
                    f"wait for it (minipipe watch {row['uid'][:8]}), or minipipe abort {row['uid'][:8]}",
                )
        found.roots.append(root)
        found.uids.append(tree[0]["uid"])
        found.tasks += [row["id"] for row in tree]
        seen.update(row["id"] for row in tree)
        work += [row[0] for row in store.database.rows(_NEEDED, {"ids": json.dumps([row["id"] for row in tree])})]
        work = [one for one in work if one not in seen]
    return found


_NEEDED = """
SELECT cached_from FROM task WHERE cached_from IS NOT NULL AND id IN (SELECT value FROM json_each(:ids))
UNION SELECT source_id FROM artifact WHERE source_id IS NOT NULL AND task_id IN (SELECT value FROM json_each(:ids))
UNION SELECT parent_id FROM edge WHERE child_id IN (SELECT value FROM json_each(:ids))
"""


def _root(store: Store, task_id: int) -> int:
    rows = store.database.rows(
        "WITH RECURSIVE up (id) AS (SELECT ? UNION SELECT t.parent_id FROM task t JOIN up ON t.id = up.id"
        " WHERE t.parent_id IS NOT NULL) SELECT up.id FROM up JOIN task t ON t.id = up.id WHERE t.parent_id IS NULL",
        (task_id,),
    )
    return int(rows[0]["id"])


def rows_of(store: Store, chosen: Selection) -> Iterator[tuple[str, Row]]:
    """(table, row) of all that travels, in the order in which it can be stored. Call it inside a snapshot."""
    ids = json.dumps(chosen.tasks)
    connection = store.database.connection()
    mine = "(SELECT value FROM json_each(:ids))"
    models = f"SELECT model_id FROM task_model WHERE task_id IN {mine} UNION SELECT id FROM model WHERE task_id IN {mine}"
    queries = [
        ("code", f"key IN (SELECT code_key FROM task WHERE id IN {mine})"),
        ("environment", f"digest IN (SELECT environment FROM task WHERE id IN {mine})"),
        ("task", f"id IN {mine}"),
        ("model", f"id IN ({models})"),
        *((table, f"{owner} IN {mine}") for table, owner in OWNED.items()),
        *((table, f"{owner} IN ({models})") for table, owner in OF_MODEL.items()),
    ]
    for table, condition in queries:
        shape = Shape.of(connection, table)
        for row in connection.execute(_travelling(table, shape, condition), {"ids": ids}):
            yield table, dict(zip(shape.columns, row, strict=True))


def _travelling(table: str, shape: Shape, condition: str) -> str:
    columns = []
    for column in shape.columns:
        target = shape.references.get(column)
        if target is None:
            columns.append(f"{table}.{column}")
        else:
            columns.append(f"(SELECT r.{_KEY[target]} FROM {target} r WHERE r.id = {table}.{column})")
    order = "" if table in ("code", "environment", "tag", "cache", "edge", "monitor", "placeholder") else " ORDER BY rowid"
    return f"SELECT {', '.join(columns)} FROM {table} WHERE {condition}{order}"
