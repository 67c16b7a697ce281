"""Who is alive, and what happens to the tasks of who is not.

A process that owns tasks locks ``workers/<id>.lock`` first, then enters its row, and keeps the lock for life. Whoever can take
that lock has proof of its death; clocks, heartbeats and process numbers prove nothing (a suspended laptop looks dead to all
three). Workers and waiting controllers reap once a second and at their start.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.store import locks, naming, promote
from minipipe.store.home import Store

AGENT, PROCESS = "agent", "process"


@dataclass(frozen=True, slots=True)
class Registration:
    """A living process that may own tasks.

    Attributes:
        id: row id.
        uid: name of its lock file.
        name: what people see.
        kind: "agent" (a worker, claims from queues) or "process" (runs a pipeline of its own).
        session: the command it serves, "" for a worker that serves everybody.
        lock: held until it ends.
    """

    id: int
    uid: str
    name: str
    kind: str
    session: str
    lock: locks.Held


def register(
    store: Store, kind: str, *, slots: int = 0, queues: Sequence[str] = (), session: str = "", name: str | None = None
) -> Registration:
    """Enter this process among the living. Transaction effect: one commit, after the lock is held."""
    uid = fresh_id()
    lock = locks.hold(store.folder("workers") / f"{uid}.lock")
    assert lock is not None
    with store.database.write(durable=False) as connection:
        row = connection.execute(
            "INSERT INTO worker (uid, name, kind, pid, host, slots, queues, session, started_at)"
            " VALUES (?, '', ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (uid, kind, os.getpid(), socket.gethostname(), slots, json.dumps(list(queues)), session, time.time()),
        ).fetchall()[0]
        shown = name or f"{'w' if kind == AGENT else 'p'}{row['id']}"
        connection.execute("UPDATE worker SET name = ? WHERE id = ?", (shown, row["id"]))
    return Registration(row["id"], uid, shown, kind, session, lock)


def leave(store: Store, registration: Registration, reason: str = "left") -> None:
    """End a registration in an orderly way; its tasks must have ended or gone back before.

    If one has not, the registration stays as if this process had died here: ended rows are never looked at again, and the task
    would be in progress for ever. Transaction effect: one commit.
    """
    with store.database.write(durable=False) as connection:
        busy = connection.execute(
            "SELECT 1 FROM task WHERE worker_id = ? AND status = 'in_progress' LIMIT 1", (registration.id,)
        ).fetchall()
        if not busy:
            connection.execute(
                "UPDATE worker SET ended_at = ?, end_reason = ? WHERE id = ? AND ended_at IS NULL",
                (time.time(), reason, registration.id),
            )
    registration.lock.release(unlink=not busy)


def alive(store: Store) -> list[sqlite3.Row]:
    """Rows of the workers whose lock is held. Only probes; never writes."""
    rows = store.database.rows("SELECT * FROM worker WHERE ended_at IS NULL ORDER BY id")
    return [row for row in rows if locks.is_held(store.folder("workers") / f"{row['uid']}.lock")]


def served_queues(store: Store) -> tuple[str, ...]:
    """Queues that some living worker serves for everybody."""
    rows = [row for row in alive(store) if row["kind"] == AGENT and not row["session"]]
    return tuple(sorted({queue for row in rows for queue in json.loads(row["queues"])}))


def reap(store: Store, max_crashes: int, sweep: Callable[[str, Sequence[str]], None] | None = None) -> list[str]:
    """Give back what dead workers held.

    Args:
        store: the store.
        max_crashes: crashes that end a task as failed.
        sweep: called with the dead worker's id and the tokens of its attempts, before anything is given back: it must leave
            no process of theirs alive, or two attempts of one task could overlap.

    Returns:
        ids of the tasks that changed.

    Raises:
        StoreMoved: the store was renamed or deleted: at its old place every worker looks dead. Nothing was given back.

    Transaction effect: one commit per dead worker.
    """
    if store.database.moved():
        here = str(store.path)
        raise errors.StoreMoved(f"the store {here} was moved or deleted", "it was in use", path=here)
    changed: list[str] = []
    for row in store.database.rows("SELECT id, uid, kind FROM worker WHERE ended_at IS NULL"):
        path = store.folder("workers") / f"{row['uid']}.lock"
        if locks.is_held(path):
            continue
        lock = locks.hold(path, wait=False)  # kept while sweeping: of several reapers one does the work
        if lock is None:
            continue
        done = False
        try:
            if sweep is not None:
                tokens = store.database.rows(
                    "SELECT token FROM task WHERE worker_id = ? AND status = 'in_progress' AND token IS NOT NULL", (row["id"],)
                )
                sweep(row["uid"], [token["token"] for token in tokens])
            changed += _give_back(store, row["id"], row["kind"], max_crashes)
            done = True
        finally:
            lock.release(unlink=done)  # kept after a failure, it would make the dead one look alive
    return changed


def _give_back(store: Store, worker_id: int, kind: str, max_crashes: int) -> list[str]:
    now = time.time()
    with store.database.write() as connection:
        ended = connection.execute(
            "UPDATE worker SET ended_at = ?, end_reason = 'died' WHERE id = ? AND ended_at IS NULL RETURNING id",
            (now, worker_id),
        ).fetchall()
        if not ended:
            return []
        rows = connection.execute(
            "SELECT id, uid, status, crashes, abort_requested, run_name FROM task WHERE worker_id = ? AND status = 'in_progress'",
            (worker_id,),
        ).fetchall()
        settled: list[tuple[int, str]] = []
        for task in rows:
            status, reason, crash = _after_death(task, kind, max_crashes)
            if status == "queued":  # what a lost attempt uploaded does not mix with the next one's
                connection.execute("DELETE FROM artifact WHERE task_id = ? AND role = 'output'", (task["id"],))
            connection.execute(
                "UPDATE task SET status = ?, reason = ?, crashes = crashes + ?, worker_id = NULL, token = NULL, updated_at = ?,"
                " ended_at = CASE WHEN ? = 'queued' THEN NULL ELSE ? END WHERE id = ?",
                (status, reason, crash, now, status, now, task["id"]),
            )
            if kind == PROCESS:
                promote.stop_steps(connection, task["id"], reason, now, private=True)
            settled.append((task["id"], status))
        # After all moves: a failure that stops its run's other steps must find those that just went back to their queue.
        for task_id, status in settled:
            promote.settle(store, connection, task_id, status, now)
    return [task["uid"] for task in rows]


def _after_death(task: sqlite3.Row, kind: str, max_crashes: int) -> tuple[str, str, int]:
    if kind == PROCESS:
        # Nobody else can run this: the process itself was the run.
        return "stopped", f"its process died; go on with: minipipe {naming.again(task)} {task['run_name'] or task['uid'][:8]}", 0
    if task["abort_requested"]:
        return "stopped", "stopped; its worker died", 1
    if task["crashes"] + 1 >= max_crashes:
        return "failed", f"its worker died; crashed {task['crashes'] + 1} times", 1
    return "queued", "its worker died", 1
