"""Which earlier task may stand in for a new one, and why one could not.

A key is the digest of (code closure, arguments, input digests). Every completed step records its key; only steps that ask for it
(`cache=True`) are served. Served tasks point at the task that really ran, never at another served one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from minipipe.store import blobs, monitors
from minipipe.store.home import Store


def lookup(store: Store, connection: sqlite3.Connection, key: str, now: float) -> int | None:
    """The newest task that may serve `key`: completed or published, not archived, all outputs there.

    Damage that shows is a miss, never an error: the entry is dropped and an event says so.
    """
    rows = connection.execute(
        "SELECT c.task_id FROM cache c JOIN task t ON t.id = c.task_id"
        " WHERE c.key = ? AND t.status IN ('completed', 'published') AND t.archived = 0 ORDER BY c.task_id DESC",
        (key,),
    ).fetchall()
    for row in rows:
        digests = [
            output["digest"]
            for output in connection.execute(
                "SELECT digest FROM artifact WHERE task_id = ? AND role = 'output' AND digest IS NOT NULL", (row["task_id"],)
            ).fetchall()
        ]
        if blobs.looks_whole(store, digests):
            return int(row["task_id"])
        connection.execute("DELETE FROM cache WHERE key = ? AND task_id = ?", (key, row["task_id"]))
        connection.execute(
            "INSERT INTO event (task_id, at, kind, detail) VALUES (?, ?, 'warning', ?)",
            (row["task_id"], now, "an output is missing or damaged: no longer served from the cache"),
        )
    return None


def serve(connection: sqlite3.Connection, task_id: int, source_id: int, key: str, now: float) -> None:
    """Complete a task with the outputs of an earlier one. Transaction effect: part of the caller's."""
    connection.execute(
        "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, preview, size, metadata, created_at)"
        " SELECT ?, role, name, digest, codec, type, key, preview, size, metadata, created_at FROM artifact"
        " WHERE task_id = ? AND role = 'output'",
        (task_id, source_id),
    )
    connection.execute(
        "INSERT INTO parameter (task_id, section, name, text, type, value, key, description)"
        " SELECT ?, section, name, text, type, value, key, description FROM parameter WHERE task_id = ? AND section = 'return'",
        (task_id, source_id),
    )
    source = connection.execute("SELECT uid FROM task WHERE id = ?", (source_id,)).fetchone()
    connection.execute(
        "UPDATE task SET status = 'completed', cached_from = ?, cache_key = ?, reason = ?, ended_at = ?, updated_at = ?,"
        " duration_s = 0 WHERE id = ?",
        (source_id, key, f"cached from {source['uid'][:8]}", now, now, task_id),
    )
    connection.execute(
        "INSERT INTO task_model (task_id, model_id, role, name) SELECT ?, model_id, role, name FROM task_model"
        " WHERE task_id = ? AND role = 'output' ORDER BY id",
        (task_id, source_id),
    )
    monitors.mirror_points(connection, task_id, source_id)
    monitors.mirror(connection, task_id)


def hand_down(connection: sqlite3.Connection, task_id: int) -> None:
    """Give the tasks that were served from one their own copies of what they read through it, before it loses its results.

    Part of the caller's transaction. Artifacts, results and models are theirs from the start; points and plots are not.
    """
    for table, columns in (
        ("metric", "title, series, iteration, value, at"),
        ("plot", "kind, title, series, iteration, type, file, digest, url, size, at"),
    ):
        read = ", ".join(f"r.{column}" for column in columns.split(", "))
        connection.execute(
            f"INSERT INTO {table} (task_id, attempt, {columns})"
            f" SELECT h.id, 0, {read} FROM task h JOIN task s ON s.id = h.cached_from JOIN {table} r"
            " ON r.task_id = s.id AND (r.attempt IN (0, s.attempt) OR s.parent_id IS NULL)"
            " WHERE s.id = ? ORDER BY h.id, r.id",
            (task_id,),
        )
    connection.execute("UPDATE task SET cached_from = NULL WHERE cached_from = ?", (task_id,))


def record(connection: sqlite3.Connection, task_id: int) -> None:
    """Enter a task that completed under its key, if it has one."""
    connection.execute(
        # A key that ends in ":" is that of an environment that was never built, see `minipipe.store.environments`.
        "INSERT OR IGNORE INTO cache SELECT cache_key, id FROM task WHERE id = ? AND cache_key NOT LIKE '%:'",
        (task_id,),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """One line of `cache why`: what kind of thing, its name, and both values in words."""

    kind: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a step ran or was served.

    Attributes:
        verdict: one sentence.
        nearest: id of the earlier task it was compared with, None if there is none.
        differences: what is not equal.
    """

    verdict: str
    nearest: str | None
    differences: tuple[Difference, ...] = ()


def why(store: Store, task_id: int) -> Explanation:
    """Explain a step's last cache decision by comparing it with the nearest earlier finished step of its name.

    Transaction effect: one read.
    """
    with store.database.snapshot():
        task = store.database.row("SELECT * FROM task WHERE id = ?", (task_id,))
        assert task is not None
        if task["cached_from"]:
            source = store.database.row("SELECT uid FROM task WHERE id = ?", (task["cached_from"],))
            return Explanation(f"cached from {source['uid'][:8]}: its key is equal" if source else "cached", None)
        if task["key_base"] is None and task["code_key"] is not None:
            return Explanation("ran: an argument or a constant has no stable digest, so it has no key", None)
        nearest = _nearest(store, task)
        if nearest is None:
            return Explanation("ran: no earlier finished step of this name", None)
        differences = tuple(_differences(store, nearest, task))
        prefix = "" if task["use_cache"] else "caching is off for this step (cache=True turns it on); "
        if differences:
            return Explanation(f"ran: {prefix}its key differs from the nearest finished one", nearest["uid"], differences)
        if not task["use_cache"]:
            return Explanation(f"ran: {prefix}its key equals the nearest finished one", nearest["uid"])
        if nearest["archived"]:
            return Explanation("ran: the equal step is archived", nearest["uid"])
        return Explanation("ran: an equal step's outputs were missing, or a new run was asked for", nearest["uid"])


def _nearest(store: Store, task: sqlite3.Row) -> sqlite3.Row | None:
    same = store.database.row(
        "SELECT * FROM task WHERE cache_key = ? AND id < ? AND status IN ('completed', 'published') AND cached_from IS NULL"
        " ORDER BY id DESC LIMIT 1",
        (task["cache_key"], task["id"]),
    )
    return same or store.database.row(
        "SELECT * FROM task WHERE name = ? AND project_id = ? AND id < ? AND status IN ('completed', 'published')"
        " AND parent_id IS NOT NULL AND code_key IS NOT NULL ORDER BY id DESC LIMIT 1",
        (task["name"], task["project_id"], task["id"]),
    )


def _differences(store: Store, old: sqlite3.Row, new: sqlite3.Row) -> list[Difference]:
    found = code_differences(store, old["code_key"], new["code_key"])
    for kind, sql in (
        (
            "param",
            "SELECT name, text AS shown, coalesce(key, text) AS key FROM parameter WHERE task_id = ? AND section = 'kwargs'",
        ),
        (
            "input",
            "SELECT name, coalesce(substr(key, 1, 8), '') AS shown, key FROM artifact"
            " WHERE task_id = ? AND role IN ('input', 'reference')",
        ),
    ):
        before = {row["name"]: row for row in store.database.rows(sql, (old["id"],))}
        after = {row["name"]: row for row in store.database.rows(sql, (new["id"],))}
        for name in sorted(before.keys() | after.keys()):
            a, b = before.get(name), after.get(name)
            if (a and a["key"]) != (b and b["key"]):
                found.append(Difference(kind, name, f"{a['shown'] if a else 'absent'} -> {b['shown'] if b else 'absent'}"))
    return found


def code_differences(store: Store, old: str | None, new: str | None) -> list[Difference]:
    """What differs between two captured codes, part by part."""

    def parts(key: str | None) -> dict[str, dict[str, str]]:
        row = store.database.row("SELECT parts FROM code WHERE key = ?", (key,))
        return {part["name"]: part for part in json.loads(row["parts"])} if row else {}

    if old == new:
        return []
    before, after = parts(old), parts(new)
    found = []
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if (a and a["digest"]) != (b and b["digest"]):
            what = "changed" if a and b else "new" if b else "gone"
            place = b or a or {}
            where = f", {place['file']}:{place['line']}" if place.get("file") else ""
            found.append(Difference("code", name, what + where))
    return found


def forget(store: Store, task_ids: Sequence[int] | None) -> int:
    """Drop the cache entries under the keys of tasks (None: all entries); runs and artifacts stay.

    Returns:
        number of entries.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        if task_ids is None:
            return connection.execute("DELETE FROM cache").rowcount
        keys = "SELECT cache_key FROM task WHERE id IN (SELECT value FROM json_each(?))"
        return connection.execute(f"DELETE FROM cache WHERE key IN ({keys})", (json.dumps(list(task_ids)),)).rowcount
