"""A run and its steps, as the process that runs its logic asks for them. Everything here only reads.

A step is a task whose parent is the run. A clone of the run has the run as parent too (ClearML's rule) and is no step; a run that
is a step of another one is marked as such.
"""

from __future__ import annotations

import sqlite3

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


def asked_to_stop(store: Store, run_id: int) -> bool:
    """True if somebody asked the run to stop."""
    row = store.database.row("SELECT abort_requested FROM task WHERE id = ?", (run_id,))
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
