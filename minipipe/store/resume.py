"""How an ended run goes on: what of it stays, what starts again, and who serves it now."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from minipipe import states
from minipipe.store import promote, tasks
from minipipe.store.home import Store

_BELOW = (
    "WITH RECURSIVE below (id) AS (SELECT :step UNION SELECT e.child_id FROM edge e JOIN below b ON e.parent_id = b.id"
    " WHERE e.kind IN ('data', 'order'))"
)


def revive(store: Store, run_id: int, step_id: int | None = None) -> tuple[int, int]:
    """Prepare an ended run for another go: its failed, stopped and skipped steps may run again.

    Args:
        store: where it is.
        run_id: the run.
        step_id: this step and those that need it run again too, although they completed; a completed run then goes on as well.

    Returns:
        (completed steps that stay, steps that may run again).

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        again = connection.execute(
            "UPDATE task SET revive = 1 WHERE parent_id = ? AND superseded = 0 AND status IN ('failed', 'stopped', 'skipped')"
            " RETURNING id",
            (run_id,),
        ).fetchall()
        if step_id is not None:
            again += connection.execute(
                f"{_BELOW} UPDATE task SET revive = 1 WHERE id IN below AND parent_id = :run AND superseded = 0"
                " AND status = 'completed' RETURNING id",
                {"step": step_id, "run": run_id},
            ).fetchall()
            connection.execute("UPDATE task SET status = 'created' WHERE id = ? AND status = 'completed'", (run_id,))
        kept = connection.execute(
            "SELECT count(*) FROM task WHERE parent_id = ? AND superseded = 0 AND revive = 0"
            " AND status IN ('completed', 'published')",
            (run_id,),
        ).fetchone()[0]
    return int(kept), len(again)


def revive_called(store: Store, run_id: int, caller: str) -> None:
    """Let the steps that a step called in an earlier attempt, and that ended badly, run again. Transaction effect: one commit."""
    with store.database.write(durable=False) as connection:
        connection.execute(
            "UPDATE task SET revive = 1 WHERE parent_id = ? AND superseded = 0 AND status IN ('failed', 'stopped', 'skipped')"
            " AND json_extract(settings, '$.called_by') = ?",
            (run_id, caller),
        )


def reopen(store: Store, run_id: int) -> None:
    """Let the logic of a run that is a step run again; what its steps made stays. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        connection.execute("UPDATE task SET revive = 0 WHERE id = ?", (run_id,))
        connection.execute("UPDATE task SET status = 'created' WHERE id = ? AND status = 'completed'", (run_id,))


def hand_over(store: Store, run_id: int, session: str, entry: dict[str, Any] | None = None) -> None:
    """Give a run, and what of it has not ended, to another command; with `entry`, what it runs changes too.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        connection.execute(
            "UPDATE task SET session = ? WHERE id = ? OR (parent_id = ? AND status IN ('pending', 'queued', 'in_progress'))",
            (session, run_id, run_id),
        )
        if entry is not None:
            connection.execute("UPDATE task SET entry = ? WHERE id = ?", (json.dumps(entry), run_id))


def supersede_unreached(store: Store, run_id: int) -> None:
    """Take steps that a resumed run may repeat, but whose call is gone from its code, out of the run: they stay in the history.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        connection.execute("UPDATE task SET superseded = 1 WHERE parent_id = ? AND revive = 1 AND superseded = 0", (run_id,))


def reattach(store: Store, run_id: int, new: tasks.NewTask) -> tasks.Submitted | None:
    """The step of a run that was submitted before with the same name, code and inputs; None if it has to be submitted.

    A completed one is taken as it is, a waiting or running one is awaited, one that `revive` marked starts again. A step of that
    name with other code or inputs is superseded: it stays in the history. Transaction effect: at most one durable commit.
    """
    now = time.time()
    with store.database.write() as connection:
        row = connection.execute(
            "SELECT * FROM task WHERE parent_id = ? AND name = ? AND superseded = 0 ORDER BY id DESC LIMIT 1",
            (run_id, new.name),
        ).fetchone()
        if row is None:
            return None
        if not _same_work(connection, row, new):
            connection.execute("UPDATE task SET superseded = 1 WHERE id = ?", (row["id"],))
            return None
        if row["revive"] and row["status"] == states.COMPLETED:
            _forget_result(connection, row["id"])
        connection.execute(
            "UPDATE task SET session = ?, private = ? WHERE id = ? AND status NOT IN ('completed', 'published')",
            (new.session, int(new.private), row["id"]),
        )
        if row["revive"] and row["status"] in (states.FAILED, states.STOPPED, states.SKIPPED, states.COMPLETED):
            _start_again(store, connection, row["id"], new, now)
        tasks.publish(connection, row["id"], new)
        status = connection.execute("SELECT status FROM task WHERE id = ?", (row["id"],)).fetchone()[0]
    return tasks.Submitted(row["id"], row["uid"], status, None)


def _same_work(connection: sqlite3.Connection, row: sqlite3.Row, new: tasks.NewTask) -> bool:
    links = connection.execute(
        "SELECT name, source_id, source_name FROM artifact WHERE task_id = ? AND role = 'reference' ORDER BY id", (row["id"],)
    ).fetchall()
    references = [(link.name, link.source_id, link.source_name) for link in new.links if link.role == "reference"]
    code = new.code[0] if new.code else None
    return (
        new.key_base is not None
        and row["key_base"] == new.key_base
        and row["code_key"] == code
        and [tuple(link) for link in links] == references
        and (new.template_id is None or _same_copy(connection, row["id"], new))
    )


def _same_copy(connection: sqlite3.Connection, task_id: int, new: tasks.NewTask) -> bool:
    """True if a copy of a template was told the same: parameters, configuration and references, overrides included.

    What the task itself added while it ran does not count.
    """

    def cells(table: str, of: int | None) -> dict[tuple[str, str], str]:
        place = "''" if table == "configuration" else "section"
        rows = connection.execute(f"SELECT {place}, name, text FROM {table} WHERE task_id = ?", (of,)).fetchall()
        return {(row[0], row["name"]): row["text"] for row in rows if row[0] != "return"}

    waiting = {(section, name): text for section, name, text in new.placeholders}
    given = {(cell.section, cell.name): cell.text for cell in new.parameters}
    wanted = {**cells("parameter", new.template_id), **given}
    configured = {**cells("configuration", new.template_id), **{("", name): text for name, text in new.configurations}}
    found, configurations = cells("parameter", task_id), cells("configuration", task_id)
    return (
        cells("placeholder", task_id) == waiting
        and all(found.get(place) == text for place, text in wanted.items() if place not in waiting)
        and all(configurations.get(place) == text for place, text in configured.items())
    )


def _forget_result(connection: sqlite3.Connection, task_id: int) -> None:
    """Make a completed step one that has to run: neither its own result nor an equal one serves."""
    connection.execute(
        "UPDATE task SET status = 'created', use_cache = 0, cached_from = NULL, cache_key = NULL WHERE id = ?", (task_id,)
    )
    connection.execute("DELETE FROM cache WHERE task_id = ?", (task_id,))
    connection.execute("DELETE FROM parameter WHERE task_id = ? AND section = 'return'", (task_id,))


def _start_again(store: Store, connection: sqlite3.Connection, task_id: int, new: tasks.NewTask, now: float) -> None:
    connection.execute(
        "UPDATE task SET status = 'pending', reason = 'resumed', revive = 0, abort_requested = 0, hold = ?, retries = 0,"
        " crashes = 0, returns = 0, not_before = 0, error = NULL, ended_at = NULL, updated_at = ?, waiting_on = 0,"
        " entry = ? WHERE id = ?",
        (new.hold, now, json.dumps(new.entry), task_id),
    )
    connection.execute(  # if it is a run itself, what failed in it runs again too
        "UPDATE task SET revive = 1 WHERE parent_id = ? AND superseded = 0 AND status IN ('failed', 'stopped', 'skipped')"
        " AND EXISTS (SELECT 1 FROM task r WHERE r.id = task.parent_id AND r.nested = 1)",
        (task_id,),
    )
    connection.execute("DELETE FROM artifact WHERE task_id = ? AND role IN ('output', 'code')", (task_id,))
    for link in new.links:
        if link.role == "code":
            tasks.insert_link(store, connection, task_id, link, now)
    tasks.insert_parameters(connection, task_id, new.parameters)  # without what a callback made of them
    connection.execute("DELETE FROM edge WHERE child_id = ?", (task_id,))
    tasks.insert_edges(connection, task_id, new.parents, now)
    promote.promote(store, connection, [task_id], now)
