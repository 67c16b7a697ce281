"""Queues: what waits in them, who serves them, and what people do with them."""

from __future__ import annotations

import datetime
import difflib
import shlex
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minipipe import errors, states
from minipipe.chance import fresh_id
from minipipe.store import naming
from minipipe.store.home import Store
from minipipe.store.presence import LiveWorker, living, servers

STANDARD = ("default", "services")


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue with what waits in it and who serves it."""

    name: str
    paused: bool
    queued: int
    in_progress: int
    oldest: float | None
    workers: tuple[str, ...]


# Two halves, because each must fit a partial index: a plain `status = 'queued'` would read all tasks that ever were.
_QUEUED = """
SELECT queue, count(*) AS n, {oldest} AS oldest FROM task WHERE status = 'queued' AND private = 0 GROUP BY queue
UNION ALL
SELECT queue, count(*), {oldest} FROM task WHERE status = 'queued' AND session <> '' AND private = 1 GROUP BY queue"""


def queued_counts(store: Store) -> dict[str, int]:
    """Number of queued tasks by queue; empty queues are left out."""
    counts: dict[str, int] = {}
    for row in store.database.rows(_QUEUED.format(oldest="0")):
        counts[row["queue"]] = counts.get(row["queue"], 0) + row["n"]
    return dict(sorted(counts.items()))


def queues(store: Store, living: Sequence[LiveWorker]) -> list[QueueView]:
    """All queues by name."""
    waiting: dict[str, tuple[int, float]] = {}
    for row in store.database.rows(_QUEUED.format(oldest="min(queued_at)")):
        number, oldest = waiting.get(row["queue"], (0, row["oldest"]))
        waiting[row["queue"]] = number + row["n"], min(oldest, row["oldest"])
    running = {
        row["queue"]: row["n"]
        for row in store.database.rows("SELECT queue, count(*) AS n FROM task WHERE status = 'in_progress' GROUP BY queue")
    }
    found = []
    for row in store.database.rows("SELECT name, paused FROM queue ORDER BY name"):
        name = row["name"]
        number, since = waiting.get(name, (0, None))
        names = tuple(worker.name for worker in servers(living, name))
        found.append(QueueView(name, bool(row["paused"]), number, running.get(name, 0), since, names))
    return found


def queue_of(store: Store, *, uid: str | None = None, name: str | None = None) -> sqlite3.Row | None:
    """A queue by id or exact name, None if there is none."""
    return store.database.row("SELECT * FROM queue WHERE uid = ? OR name = ?", (uid, name))


def entries(store: Store) -> list[dict[str, Any]]:
    """All queues by name: ``id``, ``name``, ``created`` (UTC), ``entries`` (ids of the tasks that wait, first come first)."""
    waiting: dict[str, list[str]] = {}
    sql = "SELECT queue, uid FROM task WHERE status = 'queued' ORDER BY priority DESC, ticket, id"
    for row in store.database.rows(sql):
        waiting.setdefault(row["queue"], []).append(row["uid"])
    return [
        {
            "id": row["uid"],
            "name": row["name"],
            "created": datetime.datetime.fromtimestamp(row["created_at"], datetime.UTC),
            "entries": waiting.get(row["name"], []),
        }
        for row in store.database.rows("SELECT * FROM queue ORDER BY name")
    ]


def start_hint(queue: str) -> str:
    """The command that starts a worker for a queue."""
    return "minipipe worker" if queue in STANDARD else f"minipipe worker --queue {shlex.quote(queue)}"


def servers_of(store: Store, queue: str) -> list[LiveWorker]:
    """Living workers that serve a queue for everybody."""
    return servers(living(store), queue)


# -- what people do with them -------------------------------------------------------------------------------------------


def _known(connection: sqlite3.Connection, name: str) -> None:
    """Make sure that there is such a queue.

    Raises:
        NotFound: there is none; names the nearest.
    """
    names = [row["name"] for row in connection.execute("SELECT name FROM queue ORDER BY name").fetchall()]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "minipipe queue"
        raise errors.NotFound(f"no queue {name!r}", f"there are {', '.join(names)}", hint, name=name)


def create(store: Store, name: str) -> bool:
    """Make a queue; False if there is one of that name. Transaction effect: one durable commit.

    Raises:
        UsageError: it is no name (`naming.checked`).
    """
    naming.checked("queue", name)
    with store.database.write() as connection:
        sql = "INSERT OR IGNORE INTO queue (name, uid, paused, created_at) VALUES (?, ?, 0, ?)"
        return connection.execute(sql, (name, fresh_id(), time.time())).rowcount > 0


def set_paused(store: Store, name: str, paused: bool) -> None:
    """Pause a queue or let it go on. Transaction effect: one durable commit.

    Raises:
        NotFound: there is no such queue.
    """
    with store.database.write() as connection:
        _known(connection, name)
        connection.execute("UPDATE queue SET paused = ? WHERE name = ?", (int(paused), name))


def remove(store: Store, name: str) -> None:
    """Remove a queue. Ended tasks stay; which queue they came from is kept in their history.

    Raises:
        NotFound: there is no such queue.
        UsageError: it is one of the two that always exist, or something is waiting in it or running from it.

    Transaction effect: one durable commit.
    """
    if name in STANDARD:
        raise errors.UsageError(f"queue {name!r} cannot be removed", "it always exists", f"minipipe queue pause {name}")
    now = time.time()
    with store.database.write() as connection:
        _known(connection, name)
        busy = connection.execute(
            "SELECT count(*) FROM task WHERE queue = ? AND status IN ('pending', 'queued', 'in_progress')", (name,)
        ).fetchone()[0]
        if busy:
            what = "task waits in it or runs" if busy == 1 else "tasks wait in it or run"
            raise errors.UsageError(
                f"queue {name!r} cannot be removed", f"{busy} {what}", f"minipipe queue purge {shlex.quote(name)}"
            )
        connection.execute(
            "INSERT INTO event (task_id, at, kind, attempt, detail) SELECT id, ?, 'queue', attempt, ? FROM task WHERE queue = ?",
            (now, f"its queue {name!r} was removed", name),
        )
        connection.execute("UPDATE task SET queue = NULL WHERE queue = ?", (name,))
        connection.execute("DELETE FROM queue WHERE name = ?", (name,))


def purge(store: Store, name: str) -> list[str]:
    """Take every task out of a queue: they are drafts again. Tasks that only one command may run are left alone.

    Returns:
        the tasks' ids, oldest first.

    Raises:
        NotFound: there is no such queue.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        _known(connection, name)
        rows = connection.execute(
            "UPDATE task SET status = 'created', reason = 'dequeued', updated_at = ? WHERE queue = ? AND status = 'queued'"
            " AND private = 0 RETURNING id, uid",
            (time.time(), name),
        ).fetchall()
    return [row["uid"] for row in sorted(rows, key=lambda row: row["id"])]


def move(store: Store, task_id: int, name: str, front: bool = False, priority: int = 0) -> str:
    """Move a waiting task to a queue, making the queue if need be; its own queue moves it to the end, or with `front` to the head.

    Args:
        store: where the task is.
        task_id: its row.
        name: the queue.
        front: before everything that waits there now, else behind what has its priority.
        priority: tasks of a higher one are taken first; 0 is that of tasks that were just enqueued.

    Returns:
        the task's status: a pending one gets into the queue once nothing holds it.

    Raises:
        IllegalMove: it runs, has ended, or was never enqueued.

    Transaction effect: one durable commit.
    """
    create(store, name)
    with store.database.write() as connection:
        task = connection.execute("SELECT uid, status FROM task WHERE id = ?", (task_id,)).fetchone()
        shown = task["uid"][:8]
        if task["status"] not in (states.QUEUED, states.PENDING):
            hint = f"minipipe resume {shown}" if task["status"] in states.BAD else "only what waits can be moved"
            raise errors.IllegalMove(f"task {shown} is {task['status']}: it waits in no queue", "", hint)
        highest, first = connection.execute(
            "SELECT priority, ticket FROM task WHERE queue = ? AND status = 'queued' AND private = 0 AND id <> ?"
            " ORDER BY priority DESC, ticket LIMIT 1",
            (name, task_id),
        ).fetchone() or (0, 1)
        last = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM event").fetchone()[0]
        connection.execute(
            "UPDATE task SET queue = ?, priority = ?, ticket = ?, updated_at = ? WHERE id = ?",
            (name, max(highest, priority) if front else priority, first - 1 if front else last, time.time(), task_id),
        )
    return str(task["status"])
