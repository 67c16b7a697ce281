"""What of a step is mirrored onto its run while it runs: artifacts and models (metric points go in the report itself)."""

from __future__ import annotations

import fnmatch
import sqlite3
from collections.abc import Sequence


def mirror(connection: sqlite3.Connection, step_id: int) -> None:
    """Bring a step's monitored artifacts and models up to date on its run. Part of the caller's transaction."""
    if connection.execute("SELECT 1 FROM monitor WHERE task_id = ? AND kind <> 'metric'", (step_id,)).fetchall():
        _artifacts(connection, step_id)
        _models(connection, step_id)


def mirror_points(connection: sqlite3.Connection, step_id: int, source_id: int) -> None:
    """Copy the monitored points of the task that a step was served from. Part of the caller's transaction."""
    connection.execute(
        "INSERT INTO metric (task_id, attempt, title, series, iteration, value, at)"
        " SELECT t.parent_id, 0, m.to_title, m.to_series, p.iteration, p.value, p.at"
        " FROM monitor m JOIN task t ON t.id = m.task_id JOIN task s ON s.id = ?"
        " JOIN metric p ON p.task_id = s.id AND p.attempt = s.attempt AND p.title = m.title AND p.series = m.series"
        " WHERE m.task_id = ? AND m.kind = 'metric' AND t.parent_id IS NOT NULL ORDER BY p.id",
        (source_id, step_id),
    )


def _artifacts(connection: sqlite3.Connection, step_id: int) -> None:
    connection.execute(
        # Not INSERT OR REPLACE: its deletes fire no triggers, so the old blob would keep a reference for ever.
        "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, preview, size, metadata, created_at)"
        " SELECT t.parent_id, 'output', m.to_title, a.digest, a.codec, a.type, a.key, a.preview, a.size, a.metadata,"
        " a.created_at FROM monitor m JOIN task t ON t.id = m.task_id"
        " JOIN artifact a ON a.task_id = t.id AND a.role = 'output' AND a.name = m.title"
        " WHERE m.task_id = ? AND m.kind = 'artifact' AND t.parent_id IS NOT NULL"
        " ON CONFLICT (task_id, role, name) DO UPDATE SET digest = excluded.digest, codec = excluded.codec, type = excluded.type,"
        " key = excluded.key, preview = excluded.preview, size = excluded.size, metadata = excluded.metadata,"
        " created_at = excluded.created_at",
        (step_id,),
    )


def _models(connection: sqlite3.Connection, step_id: int) -> None:
    monitors = connection.execute(
        "SELECT m.title, m.to_title, t.parent_id FROM monitor m JOIN task t ON t.id = m.task_id"
        " WHERE m.task_id = ? AND m.kind = 'model' AND t.parent_id IS NOT NULL",
        (step_id,),
    ).fetchall()
    made = connection.execute(
        "SELECT name, model_id FROM task_model WHERE task_id = ? AND role = 'output' ORDER BY model_id", (step_id,)
    ).fetchall()
    for row in monitors:
        found = match(row["title"], [(one["name"], one["model_id"]) for one in made])
        if found is None:
            continue
        name, model_id = found
        entry = f"{row['title']}\n{row['to_title']}"
        # What the pattern matched before goes: at the end there is one model for each entry, whenever somebody looked.
        connection.execute(
            "DELETE FROM task_model WHERE task_id = ? AND step_id = ? AND monitor = ? AND model_id <> ?",
            (row["parent_id"], step_id, entry, model_id),
        )
        connection.execute(
            "INSERT INTO task_model (task_id, model_id, role, name, step_id, monitor) VALUES (?, ?, 'output', ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (row["parent_id"], model_id, row["to_title"] or name, step_id, entry),
        )


def match(pattern: str, made: Sequence[tuple[str, int]]) -> tuple[str, int] | None:
    """The model that an entry of ``monitor_models`` means: ``*`` the last created, a pattern the lexicographically last name.

    Args:
        pattern: a name, or one with ``*``, ``?`` or ``[…]``.
        made: (name, id) of the step's models, oldest first.
    """
    if pattern == "*":
        return made[-1] if made else None
    exact = [one for one in made if one[0] == pattern]
    if exact:
        return exact[-1]
    return max((one for one in made if fnmatch.fnmatchcase(one[0], pattern)), default=None)
