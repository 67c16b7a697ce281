"""A store that lasts as long as somebody tries something: one task of another store with what its attempt reads, and nothing else.

What runs there may report, upload and ask for its task as anywhere; none of it reaches the store that the task comes from.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from minipipe import errors, states
from minipipe.store import blobs, bundle_reading, bundle_rows, details, unbundle
from minipipe.store.home import Store


@contextlib.contextmanager
def copy_of(store: Store, task_id: int) -> Iterator[tuple[Store, int]]:
    """A temporary store and the row of the task in it, as a draft; both are gone afterwards.

    Large values are links to the files of the other store, which stay as they are: a reader gets a private mapping of them.
    """
    folder = Path(tempfile.mkdtemp(prefix="minipipe-step-"))
    copy = Store.open(folder / "store", durability="fast", quiet=True)
    try:
        with store.database.snapshot():
            rows = _rows(store, task_id)
            digests = [row["digest"] for row in rows["artifact"] if row["digest"] is not None]
            small = [row for digest in digests for row in store.database.rows("SELECT * FROM blob WHERE digest = ?", (digest,))]
        with copy.database.write() as connection:
            for row in small:
                _borrow(connection, store, copy, row)
            content = bundle_reading.Content(folder, {"runs": []}, True, rows)
            unbundle.insert(connection, content, set(content.tasks))
        uid = store.database.rows("SELECT uid FROM task WHERE id = ?", (task_id,))[0]["uid"]
        yield copy, int(copy.database.rows("SELECT id FROM task WHERE uid = ?", (uid,))[0]["id"])
    finally:
        copy.close()
        shutil.rmtree(folder, ignore_errors=True)


def _rows(store: Store, task_id: int) -> dict[str, list[bundle_rows.Row]]:
    """The task, the results of those that it takes an input from, and its run; their histories stay where they are."""
    sql = (
        "SELECT source_id FROM artifact WHERE task_id = :id AND source_id IS NOT NULL"
        " UNION SELECT parent_id FROM task WHERE id = :id AND parent_id IS NOT NULL"
    )
    others = [int(row[0]) for row in store.database.rows(sql, {"id": task_id})]
    uid = store.database.rows("SELECT uid FROM task WHERE id = ?", (task_id,))[0]["uid"]
    found: dict[str, list[bundle_rows.Row]] = {table: [] for table in bundle_rows.TABLES}
    for table, row in bundle_rows.rows_of(store, bundle_rows.Selection(tasks=[*others, task_id])):
        mine = row.get("task_id") == uid
        if table == "task":
            own = row["uid"] == uid
            row |= {"status": states.CREATED if own else states.COMPLETED, "cached_from": None, "template_id": None}
            row |= {"hold": None, "waiting_on": 0, "gate": 0}
            if own:
                row |= {"attempt": 0, "retries": 0, "crashes": 0, "returns": 0, "error": None, "ended_at": None, "superseded": 0}
        elif table == "artifact":
            if not mine or row["role"] == "output":
                continue
        elif table == "parameter":
            if mine == (row["section"] == "return"):  # its own arguments, the others' results
                continue
        elif table not in ("code", "environment") and not (mine and table in ("configuration", "placeholder", "tag")):
            continue
        found[table].append(row)
    return found


def _borrow(connection: sqlite3.Connection, store: Store, copy: Store, row: sqlite3.Row) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO blob (digest, size, bytes, mtime_ns) VALUES (?, ?, ?, ?)",
        (row["digest"], row["size"], row["bytes"], row["mtime_ns"]),
    )
    if row["bytes"] is None:
        link = blobs.path_of(copy, row["digest"])
        link.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(blobs.path_of(store, row["digest"]))


def check(store: Store, task: sqlite3.Row) -> None:
    """See that a step has all that an attempt needs.

    Raises:
        UsageError: it is a run, or its inputs are not there yet.
    """
    label = details.label_of(store, task)
    if task["run_name"] is not None or json.loads(task["entry"]).get("kind") not in ("import", "pickled", "script"):
        raise errors.UsageError(f"{label} is a run", "one step of it can be run again", f"minipipe step {label}/STEP")
    missing = store.database.rows(
        "SELECT name FROM artifact WHERE task_id = ? AND role = 'reference' AND codec = '' AND digest IS NULL", (task["id"],)
    )
    if task["status"] == states.PENDING or missing:
        names = ", ".join(row["name"] for row in missing) or "what it waits for"
        raise errors.UsageError(
            f"{label} has no inputs yet: it is {task['status']}", f"not there: {names}", f"minipipe show {label}"
        )
