"""A task is removed with all that belongs to it."""

from __future__ import annotations

import sqlite3

from minipipe import errors, states
from minipipe.store import cache, models
from minipipe.store.home import Store

_BELONGINGS = (
    # A copy's key is made of its template's base and its own parameters; without the template the base alone would be a key
    # that copies with other parameters share.
    "UPDATE task SET template_id = NULL, key_base = NULL WHERE template_id = ?",
    "UPDATE artifact SET source_id = NULL WHERE source_id = ?",
    "DELETE FROM edge WHERE child_id = ?",
    "DELETE FROM edge WHERE parent_id = ?",
    "DELETE FROM event WHERE task_id = ?",
    "DELETE FROM artifact WHERE task_id = ?",
    "DELETE FROM cache WHERE task_id = ?",
    "DELETE FROM parameter WHERE task_id = ?",
    "DELETE FROM configuration WHERE task_id = ?",
    "DELETE FROM placeholder WHERE task_id = ?",
    "DELETE FROM metric WHERE task_id = ?",
    "DELETE FROM plot WHERE task_id = ?",
    "DELETE FROM task_model WHERE task_id = ?",
    "UPDATE task_model SET step_id = NULL WHERE step_id = ?",
    "UPDATE model SET task_id = NULL WHERE task_id = ?",
    "DELETE FROM monitor WHERE task_id = ?",
    "DELETE FROM tag WHERE task_id = ?",
    "DELETE FROM task WHERE id = ?",
    "DELETE FROM tally WHERE scope = ?",
)


def delete(store: Store, task_id: int, with_models: bool = True) -> None:
    """Remove a task and its steps with all that belongs to them; blobs that nobody else names become garbage.

    Args:
        store: where it is.
        task_id: its row.
        with_models: also the models that it made, unless they are published or another task has them.

    Raises:
        IllegalMove: one of them runs: abort it first. Nothing was removed.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        rows = connection.execute(
            "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT t.id FROM task t JOIN tree ON t.parent_id = tree.id)"
            " SELECT id, uid, status FROM task WHERE id IN tree ORDER BY id DESC",
            (task_id,),
        ).fetchall()
        for row in rows:
            if row["status"] == states.IN_PROGRESS:
                raise errors.IllegalMove(f"task {row['uid'][:8]} is in progress", hint=f"minipipe abort {row['uid'][:8]} first")
        for row in rows:
            erase(connection, row["id"], with_models)


def erase(connection: sqlite3.Connection, task_id: int, with_models: bool = True) -> None:
    """Remove a task that has no children left, with all that belongs to it. Part of the caller's transaction."""
    cache.hand_down(connection, task_id)
    models.forget_outputs(connection, task_id, with_models)
    for sql in _BELONGINGS:
        connection.execute(sql, (task_id,))
