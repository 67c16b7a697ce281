"""What people change of a task after it was made: its parameters, configuration, status, place, labels; copies.

Parameters, configuration and code change only while a task is a draft, waits, or runs; name, project, comment and tags always.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from minipipe import errors, states
from minipipe.chance import fresh_id
from minipipe.context import Lease
from minipipe.store import attempts, cache, models, names, naming, promote, tasks
from minipipe.store.home import Store

EDITABLE = frozenset({states.CREATED, states.PENDING, states.IN_PROGRESS})


def row_of(connection: sqlite3.Connection, task_id: int) -> sqlite3.Row:
    """The full row of a task.

    Raises:
        NotFound: it was deleted.
    """
    row = connection.execute("SELECT * FROM task WHERE id = ?", (task_id,)).fetchone()
    if row is None:
        raise errors.NotFound("the task was deleted")
    found: sqlite3.Row = row
    return found


def _editable(connection: sqlite3.Connection, task_id: int) -> None:
    row = row_of(connection, task_id)
    if row["status"] not in EDITABLE:
        raise errors.IllegalMove(
            f"task {row['uid'][:8]} is {row['status']}: its parameters cannot change",
            "only drafts, waiting and running tasks can be edited",
            "clone it and edit the clone",
        )


# -- parameters ---------------------------------------------------------------------------------------------------------


def set_parameters(store: Store, task_id: int, cells: Sequence[tasks.Parameter], replace: bool = False) -> None:
    """Write parameters; with `replace` all others go (but results and links to artifacts stay).

    Raises:
        IllegalMove: the task's status does not allow it; nothing was changed.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        _editable(connection, task_id)
        if replace:
            connection.execute("DELETE FROM parameter WHERE task_id = ? AND section <> 'return'", (task_id,))
            connection.execute("DELETE FROM placeholder WHERE task_id = ?", (task_id,))
        for cell in cells:  # a value takes the place of a reference
            connection.execute(
                "DELETE FROM placeholder WHERE task_id = ? AND section = ? AND name = ?", (task_id, cell.section, cell.name)
            )
        tasks.insert_parameters(connection, task_id, cells)
        _forget_reference(connection, task_id, cells)


def _forget_reference(connection: sqlite3.Connection, task_id: int, cells: Iterable[tasks.Parameter]) -> None:
    # A plain value for an argument of a function step takes the place of the artifact or result that it was linked to.
    for cell in cells:
        if cell.section == "kwargs":
            connection.execute(
                "DELETE FROM artifact WHERE task_id = ? AND role IN ('input', 'reference') AND (name = ? OR name LIKE ? || '#%')",
                (task_id, cell.name, cell.name),
            )
            connection.execute(
                "DELETE FROM parameter WHERE task_id = ? AND section = 'kwargs_artifacts' AND name = ?", (task_id, cell.name)
            )


def delete_parameter(store: Store, task_id: int, section: str, name: str) -> bool:
    """Remove a parameter; True if there was one. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        _editable(connection, task_id)
        gone = connection.execute(
            "DELETE FROM parameter WHERE task_id = ? AND section = ? AND name = ? RETURNING id", (task_id, section, name)
        ).fetchall()
    return bool(gone)


def forget_overrides(store: Store, task_id: int, places: Sequence[tuple[str, str]]) -> None:
    """Give parameters (section, name) of a copy the values of its template again; what the template lacks goes.

    Transaction effect: one durable commit, none without places.
    """
    if not places:
        return
    with store.database.write() as connection:
        row = row_of(connection, task_id)
        for section, name in places:
            for table in ("placeholder", "parameter"):
                connection.execute(
                    f"DELETE FROM {table} WHERE task_id = ? AND section = ? AND name = ?", (task_id, section, name)
                )
            connection.execute(
                "INSERT INTO parameter (task_id, section, name, text, type, value, key, description)"
                " SELECT ?, section, name, text, type, value, key, description FROM parameter"
                " WHERE task_id = ? AND section = ? AND name = ?",
                (task_id, row["template_id"], section, name),
            )


def set_properties(store: Store, task_id: int, cells: Sequence[tasks.Parameter]) -> None:
    """Write user properties, in any status. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        tasks.insert_parameters(connection, task_id, cells)


def delete_properties(store: Store, task_id: int, names: Sequence[str]) -> None:
    """Remove user properties. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        for name in names:
            connection.execute("DELETE FROM parameter WHERE task_id = ? AND section = 'properties' AND name = ?", (task_id, name))


# -- configuration ------------------------------------------------------------------------------------------------------


def set_configuration(store: Store, task_id: int, name: str, text: str, kind: str = "", description: str = "") -> None:
    """Store a configuration object under a name. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        _editable(connection, task_id)
        connection.execute(
            "INSERT INTO configuration VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET text = excluded.text, kind = excluded.kind, description = excluded.description",
            (task_id, name, text, kind, description),
        )


def configurations(store: Store, task_id: int) -> dict[str, str]:
    """Configuration objects: name -> text."""
    rows = store.database.rows("SELECT name, text FROM configuration WHERE task_id = ? ORDER BY rowid", (task_id,))
    return {row["name"]: row["text"] for row in rows}


# -- status -------------------------------------------------------------------------------------------------------------


def move(store: Store, task_id: int, status: str, reason: str = "", force: bool = False) -> None:
    """Change a task's status as a person asks (ClearML's ``mark_*``, ``publish``, ``dequeue``).

    Raises:
        IllegalMove: the life cycle does not know the move, or only with `force`; nothing was changed.

    Transaction effect: one durable commit.
    """
    now = time.time()
    with store.database.write() as connection:
        row = row_of(connection, task_id)
        old = row["status"]
        if old == status:
            return
        free, forced = states.MOVES[old]
        if status not in free and not (force and status in forced):
            hint = "force=True does it" if status in forced else "clone it, or reset it first"
            raise errors.IllegalMove(f"task {row['uid'][:8]} is {old} and cannot become {status}", hint=hint)
        ended = now if status in states.ENDED else None
        connection.execute(
            "UPDATE task SET status = ?, reason = ?, worker_id = NULL, updated_at = ?, ended_at = ? WHERE id = ?",
            (status, reason, now, row["ended_at"] if status == states.PUBLISHED else ended, task_id),
        )
        if status != states.PUBLISHED:
            promote.settle(store, connection, task_id, status, now)


def start(store: Store, task_id: int, worker_id: int, force: bool = False) -> Lease:
    """Begin a task in this very process (`Task.init`, ``mark_started``). Transaction effect: one durable commit."""
    if force:
        with store.database.write() as connection:
            row = row_of(connection, task_id)
            if row["status"] in (states.COMPLETED, states.FAILED, states.QUEUED):
                _to_draft(connection, task_id, keep_results=True)
    return attempts.start_here(store, task_id, worker_id)


def reset(store: Store, task_id: int, force: bool = False) -> None:
    """Make a task a draft again: outputs, metrics, and log are forgotten; parameters stay.

    Raises:
        IllegalMove: it is published, or runs (without `force`).

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        row = row_of(connection, task_id)
        if row["status"] == states.PUBLISHED or (row["status"] == states.IN_PROGRESS and not force):
            raise errors.IllegalMove(f"task {row['uid'][:8]} is {row['status']} and cannot be reset")
        _to_draft(connection, task_id, keep_results=False)


def renew(store: Store, task_id: int, entry: dict[str, Any], settings: dict[str, Any], forget: bool, session: str = "") -> None:
    """Make an ended task ready for another go of its script.

    Args:
        store: where it is.
        task_id: its row.
        entry: what it runs now.
        settings: recorded arguments, beside those that it has.
        forget: results, parameters and configuration go, as if it were new.
        session: the command that it belongs to now.

    Raises:
        IllegalMove: it is published, or runs.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        row = row_of(connection, task_id)
        if row["status"] in (states.PUBLISHED, states.IN_PROGRESS):
            raise errors.IllegalMove(f"task {row['uid'][:8]} is {row['status']} and cannot begin again")
        _to_draft(connection, task_id, keep_results=not forget)
        if forget:
            connection.execute("DELETE FROM parameter WHERE task_id = ?", (task_id,))
            connection.execute("DELETE FROM configuration WHERE task_id = ?", (task_id,))
        kept = {} if forget else json.loads(row["settings"])
        connection.execute(
            "UPDATE task SET entry = ?, settings = ?, session = ? WHERE id = ?",
            (json.dumps(entry), json.dumps({**kept, **settings}), session, task_id),
        )


def _to_draft(connection: sqlite3.Connection, task_id: int, keep_results: bool) -> None:
    now = time.time()
    row = row_of(connection, task_id)
    if row["status"] == states.SKIPPED or states.CREATED in states.MOVES[row["status"]][0]:
        connection.execute(
            "UPDATE task SET status = 'created', reason = '', worker_id = NULL, token = NULL, ended_at = NULL, error = NULL,"
            " cache_key = NULL, cached_from = NULL, progress = NULL, updated_at = ? WHERE id = ?",
            (now, task_id),
        )
    if not keep_results:
        cache.hand_down(connection, task_id)
        models.forget_outputs(connection, task_id)
        connection.execute("DELETE FROM plot WHERE task_id = ?", (task_id,))
        connection.execute("DELETE FROM artifact WHERE task_id = ? AND role = 'output'", (task_id,))
        connection.execute("DELETE FROM metric WHERE task_id = ?", (task_id,))
        connection.execute("DELETE FROM parameter WHERE task_id = ? AND section = 'return'", (task_id,))
        connection.execute("DELETE FROM cache WHERE task_id = ?", (task_id,))


def become_run(store: Store, task_id: int, new: tasks.NewTask) -> tasks.Submitted:
    """Make a task that a script began the controller of a pipeline; name and project stay (ClearML's rule).

    Args:
        store: where the task is.
        task_id: its row.
        new: what a controller has: version, queue, entry, settings, parameters, system tags.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        row = row_of(connection, task_id)
        run_name = row["run_name"] or names.unused(connection)
        if new.queue is not None:
            naming.checked("queue", new.queue)
            connection.execute("INSERT OR IGNORE INTO queue VALUES (?, ?, 0, ?)", (new.queue, fresh_id(), time.time()))
        settings = {**json.loads(row["settings"]), **new.settings}
        connection.execute(
            "UPDATE task SET type = ?, controller = 1, run_name = ?, version = ?, queue = ?, entry = ?, session = ?,"
            " abort_on_failure = ?, settings = ?, updated_at = ? WHERE id = ?",
            (
                new.type,
                run_name,
                row["version"] or new.version,
                new.queue,
                json.dumps(new.entry),
                new.session,
                int(new.abort_on_failure),
                json.dumps(settings),
                time.time(),
                task_id,
            ),
        )
        tasks.insert_parameters(connection, task_id, new.parameters)
        for tag in new.system_tags:
            connection.execute("INSERT OR IGNORE INTO tag VALUES (?, ?, 1)", (task_id, tag))
    return tasks.Submitted(task_id, row["uid"], row["status"], run_name)


# -- labels and place ---------------------------------------------------------------------------------------------------


def label(store: Store, task_id: int, **columns: Any) -> None:
    """Set any of name, type, comment, archived, entry, priority. Transaction effect: one durable commit."""
    allowed = {"name", "type", "comment", "archived", "entry", "priority", "version"}
    assert columns.keys() <= allowed, columns
    if "name" in columns:
        naming.checked("task", columns["name"])
    with store.database.write() as connection:
        for column, value in columns.items():
            connection.execute(f"UPDATE task SET {column} = ?, updated_at = ? WHERE id = ?", (value, time.time(), task_id))


def set_queue(store: Store, task_id: int, queue: str) -> None:
    """Name the queue of a task that is not in one yet, making the queue if need be. Transaction effect: one durable commit."""
    naming.checked("queue", queue)
    with store.database.write() as connection:
        _editable(connection, task_id)
        connection.execute("INSERT OR IGNORE INTO queue VALUES (?, ?, 0, ?)", (queue, fresh_id(), time.time()))
        connection.execute("UPDATE task SET queue = ?, updated_at = ? WHERE id = ?", (queue, time.time(), task_id))


def set_project(store: Store, task_id: int, project: str) -> None:
    """Move a task to a project, making it if need be. Transaction effect: one durable commit."""
    naming.checked("project", project)
    with store.database.write() as connection:
        connection.execute("INSERT OR IGNORE INTO project (uid, name) VALUES (?, ?)", (fresh_id(), project))
        connection.execute(
            "UPDATE task SET project_id = (SELECT id FROM project WHERE name = ?), updated_at = ? WHERE id = ?",
            (project, time.time(), task_id),
        )


def set_parent(store: Store, task_id: int, parent_id: int | None) -> None:
    """Put a task under another, or under none.

    Raises:
        UsageError: the other one is below it, or is the task itself.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        row, above = row_of(connection, task_id), parent_id
        while above is not None:
            if above == task_id:
                raise errors.UsageError(f"task {row['uid'][:8]} cannot be its own parent", "the parent is below it")
            above = row_of(connection, above)["parent_id"]
        # What the views count by parent and status moves with it.
        for scope, count in ((row["parent_id"], -1), (parent_id, 1)):
            connection.execute(
                "INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
                (scope or 0, row["status"], 0 if row["superseded"] else count),
            )
        connection.execute("UPDATE task SET parent_id = ?, updated_at = ? WHERE id = ?", (parent_id, time.time(), task_id))


def set_tags(store: Store, task_id: int, tags: Sequence[str], system: bool = False) -> None:
    """Replace a task's tags. Transaction effect: one durable commit."""
    for tag in tags:
        naming.checked("tag", tag)
    with store.database.write() as connection:
        connection.execute("DELETE FROM tag WHERE task_id = ? AND system = ?", (task_id, int(system)))
        connection.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?, ?)", [(task_id, tag, int(system)) for tag in tags])
        connection.execute("UPDATE task SET updated_at = ? WHERE id = ?", (time.time(), task_id))


def remove_tags(store: Store, task_id: int, tags: Sequence[str]) -> None:
    """Take tags away from a task. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        connection.executemany("DELETE FROM tag WHERE task_id = ? AND name = ? AND system = 0", [(task_id, tag) for tag in tags])
        connection.execute("UPDATE task SET updated_at = ? WHERE id = ?", (time.time(), task_id))


def amend(store: Store, task_id: int, entry: dict[str, Any], settings: dict[str, Any]) -> None:
    """Change what a draft runs, and add recorded arguments.

    Raises:
        IllegalMove: the task's status does not allow it.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        _editable(connection, task_id)
        kept = json.loads(row_of(connection, task_id)["settings"])
        connection.execute(
            "UPDATE task SET entry = ?, settings = ?, updated_at = ? WHERE id = ?",
            (json.dumps(entry), json.dumps({**kept, **settings}), time.time(), task_id),
        )


def facts(store: Store, task_id: int) -> dict[str, Any]:
    """The entry of a task: what it runs."""
    row = store.database.row("SELECT entry FROM task WHERE id = ?", (task_id,))
    found: dict[str, Any] = json.loads(row["entry"]) if row else {}
    return found


# -- copies -------------------------------------------------------------------------------------------------------------


def clone(
    store: Store,
    source_id: int,
    name: str,
    project: str | None = None,
    parent_id: int | None = None,
    comment: str | None = None,
    entry: dict[str, Any] | None = None,
    parameters: Sequence[tasks.Parameter] = (),
) -> tasks.Submitted:
    """Copy a task as a draft: code, parameters, configuration, tags and recorded settings, no results (ClearML's rule).

    Args:
        store: where the task is.
        source_id: its row.
        name: of the copy.
        project: default the source's; made if need be.
        parent_id: of the copy.
        comment: default the source's.
        entry: what the copy runs; default what the source does.
        parameters: take the place of the source's.

    Transaction effect: one durable commit.
    """
    naming.checked("task", name)
    if project is not None:
        naming.checked("project", project)
    now, uid = time.time(), fresh_id()
    with store.database.write() as connection:
        source = row_of(connection, source_id)
        if project is not None:
            connection.execute("INSERT OR IGNORE INTO project (uid, name) VALUES (?, ?)", (fresh_id(), project))
        run_name = names.unused(connection) if source["run_name"] is not None else None
        row = connection.execute(
            "INSERT INTO task (uid, type, name, project_id, parent_id, template_id, run_name, version, status, queue, controller,"
            " max_retries, ask_retry, time_limit_s, tolerated, tolerates_abort, passes,"
            " abort_on_failure, use_cache, code_key, key_base, entry, settings,"
            " environment, comment, created_at, updated_at)"
            " SELECT ?, type, ?, coalesce((SELECT id FROM project WHERE name = ?), project_id), ?, id, ?, version, 'created',"
            " queue, controller, max_retries, ask_retry, time_limit_s, tolerated, tolerates_abort, passes,"
            " abort_on_failure, use_cache, code_key, key_base,"
            " json_remove(coalesce(?, json_remove(entry, '$.told')), '$.mode'),"
            " settings, environment, coalesce(?, comment), ?, ? FROM task WHERE id = ? RETURNING id",
            (
                uid,
                name,
                project,
                parent_id,
                run_name,
                None if entry is None else json.dumps(entry),
                comment,
                now,
                now,
                source_id,
            ),
        ).fetchall()[0]
        tasks.copy_facts(connection, source_id, row["id"], now)
        tasks.insert_parameters(connection, row["id"], parameters)
    return tasks.Submitted(row["id"], uid, states.CREATED, run_name)
