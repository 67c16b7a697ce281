"""The one place that makes a waiting task move, and what follows from an ending.

Everything here runs inside the caller's write transaction and uses work lists, never recursion: a chain of thousands of cached
steps completes in one go without touching the stack limit.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Iterable

from minipipe import hashing, states
from minipipe.store import cache, environments, placeholders
from minipipe.store.home import Store

_NEEDS = "kind IN ('data', 'order')"  # control edges are shown and decide nothing

_DESCENDANTS = f"""
WITH RECURSIVE below (id) AS (
    SELECT child_id FROM edge WHERE parent_id = :id AND {_NEEDS}
    UNION SELECT e.child_id FROM edge e JOIN below b ON e.parent_id = b.id WHERE e.{_NEEDS}
)"""


def promote(store: Store, connection: sqlite3.Connection, ids: Iterable[int], now: float) -> None:
    """Move each pending task that waits for nothing: to `completed` if the cache serves it, else to `queued`.

    A task that its controller holds (a Python callback comes first) stays pending until `release`.
    """
    work = deque(ids)
    while work:
        task = connection.execute(
            "SELECT id, uid, name, parent_id, template_id, use_cache, key_base, hold, gate, placeholders, environment FROM task"
            " WHERE id = ? AND status = 'pending' AND waiting_on = 0",
            (work.popleft(),),
        ).fetchone()
        if task is None or task["hold"] == "retry":
            continue
        if task["placeholders"] and (trouble := placeholders.fill(store, connection, task["id"], task["parent_id"])):
            _fail_launch(connection, task["id"], trouble, now)
            settle(store, connection, task["id"], states.FAILED, now)
            continue
        if task["hold"]:
            continue
        key, serves = _resolve(store, connection, task), True
        if key and task["environment"]:
            key, serves = environments.key_with(connection, task["environment"], key)
        source = cache.lookup(store, connection, key, now) if key and serves and task["use_cache"] else None
        if source is None:
            _enqueue(connection, task["id"], key, now)
            continue
        cache.serve(connection, task["id"], source, key or "", now)
        if not task["gate"]:
            work.extend(count_down(connection, task["id"]))


def _resolve(store: Store, connection: sqlite3.Connection, task: sqlite3.Row) -> str | None:
    """Fill in what the references of a task point to; return its cache key, None if it has no stable one."""
    parts: list[str] = []
    references = connection.execute(
        "SELECT id, name, source_id, source_name, key FROM artifact WHERE task_id = ? AND role = 'reference' ORDER BY id",
        (task["id"],),
    ).fetchall()
    for reference in references:
        if "${" in reference["source_name"]:  # a text, filled in by `placeholders.fill`
            parts += (reference["name"], reference["key"] or "")
            continue
        found = connection.execute(
            "SELECT digest, codec, type, key, preview, size, metadata FROM artifact"
            " WHERE task_id = ? AND role = 'output' AND name = ?",
            (reference["source_id"], reference["source_name"]),
        ).fetchone()
        if found is None:
            found = connection.execute(
                "SELECT NULL AS digest, 'scalar' AS codec, type, key, text AS preview, 0 AS size, '{}' AS metadata"
                " FROM parameter WHERE task_id = ? AND section = 'return' AND name = ?",
                (reference["source_id"], reference["source_name"]),
            ).fetchone()
        # A parent that ended well without this output (its failure was tolerated): the value is None.
        facts = tuple(found) if found else (None, "none", "None", "none", "None", 0, "{}")
        connection.execute(
            "UPDATE artifact SET digest = ?, codec = ?, type = ?, key = ?, preview = ?, size = ?, metadata = ? WHERE id = ?",
            (*facts, reference["id"]),
        )
        parts += (reference["name"], facts[3] or "")
    if not task["key_base"]:
        return None
    told = placeholders.keys(store, connection, task["id"], task["parent_id"]) if task["placeholders"] else {}
    if task["template_id"] is not None:  # a copy of a template: all that it was told counts, overrides included
        for table in ("section, name, text FROM parameter", "'' AS section, name, text FROM configuration"):
            for cell in connection.execute(f"SELECT {table} WHERE task_id = ? ORDER BY 1, 2", (task["id"],)).fetchall():
                place = (cell["section"], cell["name"])
                parts += ("/".join(place), told.get(place, cell["text"]))
    else:
        for place in sorted(told):
            parts += ("/".join(place), told[place])
    return hashing.combine("step", task["key_base"], *parts)


def serve_draft(store: Store, task_id: int, key_base: str) -> bool:
    """Complete a copy of a task with the results of an equal earlier one; without one it stays a draft that will serve others.

    Args:
        store: where it is.
        task_id: a draft with a template; what it is told may not change any more.
        key_base: digest of its code.

    Returns:
        True if it was served.

    Transaction effect: one durable commit.
    """
    now = time.time()
    with store.database.write() as connection:
        connection.execute("UPDATE task SET use_cache = 1, key_base = ? WHERE id = ? AND status = 'created'", (key_base, task_id))
        task = connection.execute("SELECT * FROM task WHERE id = ? AND status = 'created'", (task_id,)).fetchone()
        key = _resolve(store, connection, task) if task is not None else None
        if not key or cache.lookup(store, connection, key, now) is None:
            return False
        connection.execute("UPDATE task SET status = 'pending', updated_at = ? WHERE id = ?", (now, task_id))
        promote(store, connection, [task_id], now)
    return True


def _fail_launch(connection: sqlite3.Connection, task_id: int, trouble: str, now: float) -> None:
    connection.execute(
        "UPDATE task SET status = 'failed', reason = ?, ended_at = ?, updated_at = ? WHERE id = ?", (trouble, now, now, task_id)
    )


def _enqueue(connection: sqlite3.Connection, task_id: int, key: str | None, now: float) -> None:
    # The ticket is the next event's number: it only grows, so equal priorities are served in order of enqueueing.
    connection.execute(
        "UPDATE task SET status = 'queued', cache_key = ?, ticket = (SELECT coalesce(max(id), 0) + 1 FROM event),"
        " queued_at = ?, updated_at = ?, reason = '' WHERE id = ?",
        (key, now, now, task_id),
    )


def requeue(connection: sqlite3.Connection, task_id: int, now: float, not_before: float = 0.0, reason: str = "") -> None:
    """Put a task at the end of its queue for another attempt. What a lost attempt uploaded does not mix with the next one's."""
    connection.execute("DELETE FROM artifact WHERE task_id = ? AND role = 'output'", (task_id,))
    connection.execute(
        "UPDATE task SET status = 'queued', ticket = (SELECT coalesce(max(id), 0) + 1 FROM event), queued_at = ?, updated_at = ?,"
        " not_before = ?, reason = ?, worker_id = NULL WHERE id = ?",
        (now, now, not_before, reason, task_id),
    )


def count_down(connection: sqlite3.Connection, parent_id: int) -> list[int]:
    """Tell the children of a task that it has ended; return those that wait for nobody any more."""
    rows = connection.execute(
        "UPDATE task SET waiting_on = waiting_on - 1 WHERE status IN ('pending', 'created') AND waiting_on > 0 AND id IN"
        f" (SELECT child_id FROM edge WHERE parent_id = ? AND {_NEEDS}) RETURNING id, waiting_on",
        (parent_id,),
    ).fetchall()
    return [row["id"] for row in rows if row["waiting_on"] == 0]


def skip_below(connection: sqlite3.Connection, task_id: int, reason: str, now: float) -> None:
    """Skip everything that needs a task which ended without success; drafts too: nobody can start them any more."""
    connection.execute(
        _DESCENDANTS + " UPDATE task SET status = 'pending' WHERE status = 'created' AND parent_id IS NOT NULL AND id IN below",
        {"id": task_id},
    )
    connection.execute(
        _DESCENDANTS + " UPDATE task SET status = 'skipped', reason = :reason, ended_at = :now, updated_at = :now"
        " WHERE status = 'pending' AND id IN below",
        {"id": task_id, "reason": reason, "now": now},
    )


def settle(store: Store, connection: sqlite3.Connection, task_id: int, status: str, now: float) -> None:
    """What follows from an ending: children go on, or are skipped; a run that says so stops its other steps."""
    if status not in states.ENDED:
        return
    task = connection.execute(
        "SELECT name, parent_id, tolerated, tolerates_abort, passes, gate, nested FROM task WHERE id = ?", (task_id,)
    ).fetchone()
    if status in states.BAD and task["nested"]:
        stop_steps(connection, task_id, f"its run {status}", now)
    if task["gate"]:
        return  # `steering.open_gate` settles it once the controller's callbacks have run
    if status in states.GOOD:
        promote(store, connection, count_down(connection, task_id), now)
        return
    if status in task["passes"].split():
        promote(store, connection, count_down(connection, task_id), now)
    else:
        skip_below(connection, task_id, f"{task['name']} {status}", now)
    tolerated = task["tolerates_abort"] if status == states.STOPPED else task["tolerated"]
    if status in states.BAD and not tolerated and task["parent_id"]:
        run = connection.execute("SELECT abort_on_failure FROM task WHERE id = ?", (task["parent_id"],)).fetchone()
        if run["abort_on_failure"]:
            stop_steps(connection, task["parent_id"], f"{task['name']} {status}", now)


def stop_steps(connection: sqlite3.Connection, run_id: int, reason: str, now: float, private: bool = False) -> None:
    """Stop what a run still has going: waiting steps are skipped, all others stopped (running ones by their worker).

    With `private` only those that nobody else can execute: a run's steps on public queues outlive their controller.
    """
    work = [run_id]
    while work:
        run_id = work.pop()
        _stop_steps(connection, run_id, reason, now, private)
        nested = "SELECT id FROM task WHERE parent_id = ? AND nested = 1 AND abort_requested = 1 AND status = 'in_progress'"
        work += [row["id"] for row in connection.execute(nested, (run_id,)).fetchall()]


def _stop_steps(connection: sqlite3.Connection, run_id: int, reason: str, now: float, private: bool) -> None:
    arguments = {"run": run_id, "reason": reason, "now": now, "private": int(private)}
    mine = "parent_id = :run AND (run_name IS NULL OR nested = 1) AND private >= :private"
    connection.execute(
        "UPDATE task SET status = 'skipped', reason = :reason, ended_at = :now, updated_at = :now"
        f" WHERE {mine} AND status = 'pending'",
        arguments,
    )
    stopped = connection.execute(
        "UPDATE task SET status = 'stopped', reason = :reason, ended_at = :now, updated_at = :now"
        f" WHERE {mine} AND status IN ('queued', 'created') RETURNING id, gate",
        arguments,
    ).fetchall()
    for row in stopped if private else ():  # else no step of the run is pending any more
        if not row["gate"]:
            skip_below(connection, row["id"], reason, now)
    connection.execute(
        f"UPDATE task SET abort_requested = 1, reason = :reason WHERE {mine} AND status = 'in_progress'", arguments
    )
