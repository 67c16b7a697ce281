"""What is known of one task, for people: its label, neighbours, artifacts, code and tries. Nothing here decodes a value."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minipipe import states
from minipipe.store.home import Store


def project_of(store: Store, task: sqlite3.Row) -> str:
    """Full name of a task's project."""
    row = store.database.row("SELECT name FROM project WHERE id = ?", (task["project_id"],))
    return str(row["name"]) if row else ""


def task_by_id(store: Store, task_id: int | None) -> sqlite3.Row | None:
    """A full row by its row id, None if there is none."""
    return store.database.row("SELECT * FROM task WHERE id = ?", (task_id,)) if task_id is not None else None


def task_by_uid(store: Store, uid: str | None) -> sqlite3.Row | None:
    """A full row by its id, None if there is none."""
    return store.database.row("SELECT * FROM task WHERE uid = ?", (uid,)) if uid is not None else None


def id_of(store: Store, uid: str) -> int | None:
    """Row id of the task of exactly this id, None if there is none."""
    row = store.database.row("SELECT id FROM task WHERE uid = ?", (uid,))
    return None if row is None else int(row["id"])


def column(store: Store, task_id: int, name: str) -> sqlite3.Row | None:
    """A row of one column of a task, None if the task is gone; the name is the caller's own, never what somebody typed."""
    return store.database.row(f"SELECT {name} FROM task WHERE id = ?", (task_id,))


def is_attempt(store: Store, uid: str, token: str) -> bool:
    """True if the attempt of that token is the one that runs the task of that id now."""
    row = store.database.row("SELECT token, status FROM task WHERE uid = ?", (uid,))
    return row is not None and tuple(row) == (token, states.IN_PROGRESS)


def last_worker_of(store: Store, task_id: int) -> str:
    """Name of the worker that ran a task last, "" if none did."""
    row = store.database.row(
        "SELECT w.name FROM event e JOIN worker w ON w.id = e.worker_id WHERE e.task_id = ? ORDER BY e.id DESC LIMIT 1",
        (task_id,),
    )
    return str(row["name"]) if row else ""


def code_links(store: Store, task_id: int) -> tuple[str, list[sqlite3.Row]]:
    """(digest of a task's code or "None", role, name and content of what it is given): what a copy of it would run."""
    row = task_by_id(store, task_id)
    links = store.database.rows(
        "SELECT role, name, coalesce(digest, '') AS digest FROM artifact WHERE task_id = ? AND role <> 'output'"
        " ORDER BY role, name",
        (task_id,),
    )
    return str(row and row["code_key"]), links


def run_by_agents(store: Store, task_ids: Iterable[int]) -> set[int]:
    """Row ids of those tasks whose last attempt a worker ran, and not the process that made them."""
    rows = store.database.rows(
        "SELECT t.id, (SELECT w.kind FROM event e JOIN worker w ON w.id = e.worker_id WHERE e.task_id = t.id"
        " AND e.new = 'in_progress' ORDER BY e.id DESC LIMIT 1) AS kind FROM task t WHERE t.id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(task_ids)),),
    )
    return {row["id"] for row in rows if row["kind"] == "agent"}


def label_of(store: Store, task: sqlite3.Row) -> str:
    """``8b0e44d1/train`` for a step, ``8b0e44d1`` for everything else."""
    run = task_by_id(store, task["parent_id"])
    return f"{run['uid'][:8]}/{task['name']}" if run is not None else str(task["uid"][:8])


def elapsed_s(task: sqlite3.Row, now: float) -> float | None:
    """Seconds that a task has run: of its last attempt, or (a run) from its start to its end or to now; None before."""
    if task["duration_s"] is not None and task["run_name"] is None and task["status"] != states.IN_PROGRESS:
        return float(task["duration_s"])
    if task["started_at"] is None:
        return None
    return float(max(0.0, (task["ended_at"] or now) - task["started_at"]))


def error_of(task: sqlite3.Row) -> dict[str, str]:
    """The recorded failure of a task: type, message, where, traceback, as far as they are known."""
    if not task["error"]:
        return {}
    found = json.loads(task["error"])
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def neighbours(store: Store, task_id: int) -> tuple[list[str], list[str]]:
    """(names of the steps that a step needs, names of those that need it)."""
    both = []
    for mine, other in (("child_id", "parent_id"), ("parent_id", "child_id")):
        rows = store.database.rows(
            f"SELECT t.name FROM edge e JOIN task t ON t.id = e.{other} WHERE e.{mine} = ? AND e.kind <> 'control' ORDER BY t.id",
            (task_id,),
        )
        both.append([row["name"] for row in rows])
    return both[0], both[1]


def arguments_of(store: Store, task_id: int) -> tuple[tuple[str, str, str], ...]:
    """(section, name, text) of the values that were given to a task; neither its scalar results nor links to other results."""
    rows = store.database.rows(
        "SELECT section, name, text FROM parameter WHERE task_id = ? AND section NOT IN ('return', 'kwargs_artifacts', 'pipeline')"
        " ORDER BY id LIMIT 40",
        (task_id,),
    )
    return tuple((row["section"], row["name"], row["text"]) for row in rows)


def changed_arguments(store: Store, task_id: int, source_id: int) -> list[tuple[str, str, str]]:
    """(name, text there, text here) of the parameters in which a task differs from the one that it is a copy of."""
    rows = store.database.rows(
        "SELECT n.section, n.name, coalesce(o.text, '') AS old, n.text AS new FROM parameter n LEFT JOIN parameter o"
        " ON o.task_id = ? AND o.section = n.section AND o.name = n.name"
        " WHERE n.task_id = ? AND n.section <> 'return' AND n.value IS NOT o.value ORDER BY n.id",
        (source_id, task_id),
    )
    return [
        (row["name"] if row["section"] == "Args" else f"{row['section']}/{row['name']}", row["old"], row["new"]) for row in rows
    ]


def tags_of(store: Store, task_id: int) -> tuple[str, ...]:
    """What people tagged a task with."""
    rows = store.database.rows("SELECT name FROM tag WHERE task_id = ? AND system = 0 ORDER BY name", (task_id,))
    return tuple(row["name"] for row in rows)


def artifacts_of(store: Store, task: sqlite3.Row) -> list[dict[str, Any]]:
    """A task's artifacts and scalar results: outputs, then inputs, then code; nothing is decoded.

    A scalar result has codec "scalar" and its ``value`` as JSON; everything else is a blob.
    """
    rows = store.database.rows(
        "SELECT name, CASE role WHEN 'reference' THEN 'input' ELSE role END AS role, type, size, digest, preview, codec,"
        " metadata, NULL AS value FROM artifact WHERE task_id = ?"
        " ORDER BY CASE role WHEN 'output' THEN 0 WHEN 'code' THEN 2 ELSE 1 END, id",
        (task["id"],),
    )
    scalars = store.database.rows(
        "SELECT name, 'output' AS role, type, NULL AS size, NULL AS digest, text AS preview, 'scalar' AS codec,"
        " '{}' AS metadata, value FROM parameter WHERE task_id = ? AND section = 'return' ORDER BY id",
        (task["id"],),
    )
    found = [dict(row) for row in (*scalars, *rows)]
    for one in found:
        if one["codec"] == "scalar":
            one.update(size=None, digest=None, type=one["type"] or "str")
    return found


def code_of(store: Store, key: str | None) -> tuple[str, str, list[dict[str, Any]]] | None:
    """(name, source, parts) of a step's captured code, None if none was captured."""
    row = store.database.row("SELECT name, source, parts FROM code WHERE key = ?", (key,))
    return (row["name"], row["source"], json.loads(row["parts"])) if row else None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a task, from its history."""

    number: int
    started_at: float
    ended_at: float | None
    ended_as: str
    worker: str
    reason: str


def attempts_of(store: Store, task_id: int) -> list[AttemptView]:
    """All tries of a task, oldest first."""
    rows = store.database.rows(
        "SELECT e.at, e.old, e.new, e.attempt, e.detail, w.name AS worker FROM event e LEFT JOIN worker w ON w.id = e.worker_id"
        " WHERE e.task_id = ? AND e.kind = 'status' AND 'in_progress' IN (e.old, e.new) ORDER BY e.id",
        (task_id,),
    )
    found: list[AttemptView] = []
    for row in rows:
        if row["new"] == states.IN_PROGRESS:
            found.append(AttemptView(row["attempt"], row["at"], None, states.IN_PROGRESS, row["worker"] or "", ""))
        elif found:
            last = found[-1]
            found[-1] = AttemptView(last.number, last.started_at, row["at"], row["new"], last.worker, row["detail"])
    return found


def configurations_of(store: Store, task_id: int) -> list[sqlite3.Row]:
    """Configuration objects of a task: name, kind, description and text of each."""
    return store.database.rows(
        "SELECT name, kind, description, text FROM configuration WHERE task_id = ? ORDER BY rowid", (task_id,)
    )
