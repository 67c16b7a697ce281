"""A run and its steps, as the process that runs its logic asks for them. Everything here only reads.

A step is a task whose parent is the run. A clone of the run has the run as parent too (ClearML's rule) and is no step; a run that
is a step of another one is marked as such.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from minipipe.store.home import Store

STEPS = "parent_id = ? AND superseded = 0 AND (run_name IS NULL OR nested = 1)"


def open_steps(store: Store, run_id: int) -> int:
    """Steps that have not ended, or whose callbacks have not run."""
    row = store.database.row(
        f"SELECT count(*) FROM task WHERE {STEPS} AND (gate = 1 OR status IN ('created', 'pending', 'queued', 'in_progress'))",
        (run_id,),
    )
    return int(row[0]) if row else 0


def live_steps(store: Store, run_id: int) -> int:
    """Steps that are in progress."""
    row = store.database.row(f"SELECT count(*) FROM task WHERE {STEPS} AND status = 'in_progress'", (run_id,))
    return int(row[0]) if row else 0


def bad_steps(store: Store, run_id: int) -> list[tuple[str, str]]:
    """(name, status) of steps whose ending fails the run."""
    rows = store.database.rows(
        f"SELECT name, status FROM task WHERE {STEPS} AND (status = 'failed' AND tolerated = 0"
        " OR status = 'stopped' AND tolerates_abort = 0) ORDER BY id",
        (run_id,),
    )
    return [(row["name"], row["status"]) for row in rows]


def first_reason(store: Store, run_id: int) -> str:
    """Why the first step that failed the run did."""
    row = store.database.row(
        f"SELECT reason FROM task WHERE {STEPS} AND tolerated = 0 AND status = 'failed' ORDER BY id LIMIT 1", (run_id,)
    )
    return str(row["reason"]) if row else ""


def steps(store: Store, run_id: int) -> list[int]:
    """Row ids of all its steps."""
    return [row["id"] for row in store.database.rows(f"SELECT id FROM task WHERE {STEPS}", (run_id,))]


def statuses(store: Store, run_id: int) -> set[str]:
    """The statuses that its steps have."""
    return {row["status"] for row in store.database.rows(f"SELECT DISTINCT status FROM task WHERE {STEPS}", (run_id,))}


def step_of(store: Store, run_id: int, name: str) -> sqlite3.Row | None:
    """The step of that name, None if there is none."""
    return store.database.row(f"SELECT * FROM task WHERE {STEPS} AND name = ? ORDER BY id DESC LIMIT 1", (run_id, name))


def asked_to_stop(store: Store, task_id: int) -> bool:
    """True if somebody asked the run, or any other task, to stop."""
    row = store.database.row("SELECT abort_requested FROM task WHERE id = ?", (task_id,))
    return bool(row and row["abort_requested"])


def facts(store: Store, task_id: int) -> sqlite3.Row | None:
    """The row of a run; None for any other task."""
    return store.database.row("SELECT * FROM task WHERE id = ? AND run_name IS NOT NULL", (task_id,))


def row_of(store: Store, task_id: int) -> sqlite3.Row:
    """The row of a task that exists."""
    row = store.database.row("SELECT * FROM task WHERE id = ?", (task_id,))
    assert row is not None
    return row


def id_of(store: Store, uid: str) -> int:
    """Row id of a task that exists."""
    row = store.database.row("SELECT id FROM task WHERE uid = ?", (uid,))
    assert row is not None
    return int(row["id"])


# -- one step -----------------------------------------------------------------------------------------------------------


def standing(store: Store, task_id: int) -> sqlite3.Row | None:
    """How a step stands: status, reason, error, hold, waiting_on, gate, retries; None if it is gone."""
    return store.database.row("SELECT status, reason, error, hold, waiting_on, gate, retries FROM task WHERE id = ?", (task_id,))


def changes(store: Store, task_id: int, after: int) -> list[sqlite3.Row]:
    """The status changes of a step since event number `after`, in order: id, old, new, cached_from."""
    return store.database.rows(
        "SELECT e.id, e.old, e.new, t.cached_from FROM event e JOIN task t ON t.id = e.task_id"
        " WHERE e.task_id = ? AND e.kind = 'status' AND e.id > ? ORDER BY e.id",
        (task_id, after),
    )


def parents_of(store: Store, task_id: int) -> list[str]:
    """Names of the steps that a step needs."""
    rows = store.database.rows(
        "SELECT t.name FROM edge e JOIN task t ON t.id = e.parent_id WHERE e.child_id = ? AND e.kind <> 'control'", (task_id,)
    )
    return [row["name"] for row in rows]


# -- pipelines ----------------------------------------------------------------------------------------------------------


def count_of(store: Store, project: str) -> int:
    """How many runs a project has."""
    row = store.database.row(
        "SELECT count(*) FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.run_name IS NOT NULL",
        (project,),
    )
    return int(row[0]) if row else 0


def last_version(store: Store, project: str, name: str | None = None) -> str | None:
    """The version of the newest task of a project that has one; with a `name` only tasks of that name count."""
    row = store.database.row(
        "SELECT t.version FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = :project AND t.version IS NOT NULL"
        " AND (:name IS NULL OR t.name = :name) ORDER BY t.id DESC LIMIT 1",
        {"project": project, "name": name},
    )
    return str(row["version"]) if row else None


def pipelines(
    store: Store, uid: str | None, project: str | None, name: str | None, version: str | None, tags: Sequence[str]
) -> list[sqlite3.Row]:
    """Runs by id, or by exact project and name (run numbers left out), oldest first: id, uid, version.

    Args:
        store: where to look.
        uid: excludes the others; only by it runs are found that are steps of others.
        project, name: of the pipeline.
        version: exactly this one.
        tags: one of these; none ask for none.
    """
    return store.database.rows(
        "SELECT t.id, t.uid, t.version FROM task t JOIN project p ON p.id = t.project_id"
        " WHERE t.run_name IS NOT NULL AND t.type = 'controller' AND (t.uid = :uid OR (:uid IS NULL AND t.nested = 0"
        " AND (p.name = :hidden OR (p.name = :project AND (t.name = :name OR t.name LIKE :name || ' #%')))))"
        " AND (:version IS NULL OR t.version = :version)"
        " AND (:tags = '[]' OR EXISTS (SELECT 1 FROM tag g WHERE g.task_id = t.id"
        " AND g.name IN (SELECT value FROM json_each(:tags)))) ORDER BY t.archived DESC, t.updated_at, t.id",
        {
            "uid": uid,
            "hidden": f"{project}/.pipelines/{name}",
            "project": project,
            "name": name,
            "version": version,
            "tags": json.dumps(list(tags)),
        },
    )


def steps_with_templates(store: Store, run_id: int) -> list[sqlite3.Row]:
    """The steps of a run in the order they were submitted; ``template`` is the id of what each is a copy of."""
    return store.database.rows(
        "SELECT t.*, s.uid AS template FROM task t LEFT JOIN task s ON s.id = t.template_id"
        " WHERE t.parent_id = ? AND t.superseded = 0 AND (t.run_name IS NULL OR t.nested = 1) ORDER BY t.id",
        (run_id,),
    )


def named(store: Store, uid: str, project: str, name: str) -> sqlite3.Row | None:
    """The task of that id, if it has that project and name."""
    return store.database.row(
        "SELECT t.id FROM task t JOIN project p ON p.id = t.project_id WHERE t.uid = ? AND p.name = ? AND t.name = ?",
        (uid, project, name),
    )


def resumable(store: Store, uid: str, key: str, project: str) -> sqlite3.Row | None:
    """The run of that id, if it is one of a pipeline: by the key that its code goes by, or by its project."""
    return store.database.row(
        "SELECT t.id, t.uid FROM task t JOIN project p ON p.id = t.project_id WHERE t.uid = ?"
        " AND coalesce(json_extract(t.settings, '$.pipeline') = ?, p.name = ?)",
        (uid, key, project),
    )


def newest_template(store: Store, project: str | None, name: str) -> sqlite3.Row | None:
    """The newest task of exactly that name, and project if one is given, that a step may copy (ClearML's rule: it did not fail); one
    that is archived only if there is no other."""
    return store.database.row(
        "SELECT t.id, t.uid, t.archived FROM task t JOIN project p ON p.id = t.project_id"
        " WHERE (:project IS NULL OR p.name = :project) AND t.name = :name"
        " AND t.status IN ('created', 'queued', 'in_progress', 'published', 'stopped', 'completed')"
        " ORDER BY t.archived, t.updated_at DESC, t.id DESC LIMIT 1",
        {"project": project, "name": name},
    )
