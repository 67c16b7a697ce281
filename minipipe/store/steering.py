"""What a controller or a person does to a task that is there: release, change its arguments, open its gate, enqueue, abort.

How it came to be there is in `minipipe.store.tasks`; how an ended run goes on in `minipipe.store.resume`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from minipipe import errors, states
from minipipe.chance import fresh_id
from minipipe.store import naming, promote, tasks
from minipipe.store.home import Store


def release(store: Store, task_id: int, skip: bool = False) -> None:
    """Let go a step that its controller held: its callbacks have run. With `skip` they said no.

    Transaction effect: one durable commit.
    """
    now = time.time()
    with store.database.write() as connection:
        connection.execute("UPDATE task SET hold = NULL WHERE id = ? AND status = 'pending'", (task_id,))
        if skip:
            connection.execute(
                "UPDATE task SET status = 'skipped', reason = 'skipped on request', ended_at = ?, updated_at = ?"
                " WHERE id = ? AND status = 'pending'",
                (now, now, task_id),
            )
            promote.skip_below(connection, task_id, "skipped on request", now)
        else:
            promote.promote(store, connection, [task_id], now)


def change_arguments(
    store: Store, task_id: int, parameters: Sequence[tasks.Parameter], links: Sequence[tasks.Link], key_base: str | None
) -> None:
    """Replace the arguments of a step that its controller still holds. Transaction effect: one commit."""
    now = time.time()
    with store.database.write(durable=False) as connection:
        connection.execute("DELETE FROM parameter WHERE task_id = ? AND section IN ('kwargs', 'kwargs_artifacts')", (task_id,))
        connection.execute("DELETE FROM placeholder WHERE task_id = ?", (task_id,))  # what the callback saw was filled in
        connection.execute("DELETE FROM artifact WHERE task_id = ? AND role IN ('input', 'reference')", (task_id,))
        tasks.insert_parameters(connection, task_id, parameters)
        for link in links:
            tasks.insert_link(store, connection, task_id, link, now)
        connection.execute("UPDATE task SET key_base = ? WHERE id = ?", (key_base, task_id))


def open_gate(store: Store, task_id: int) -> None:
    """Let the children of an ended step go on: its callbacks have run. Transaction effect: one durable commit."""
    now = time.time()
    with store.database.write() as connection:
        row = connection.execute("UPDATE task SET gate = 0 WHERE id = ? AND gate = 1 RETURNING status", (task_id,)).fetchall()
        if row:
            promote.settle(store, connection, task_id, row[0]["status"], now)


def answer_retry(store: Store, task_id: int, again: bool) -> None:
    """Settle a failed attempt whose retry predicate was asked. Transaction effect: one durable commit."""
    now = time.time()
    with store.database.write() as connection:
        task = connection.execute("SELECT hold, reason FROM task WHERE id = ? AND status = 'pending'", (task_id,)).fetchone()
        if task is None or task["hold"] != "retry":
            return
        if again:
            connection.execute("UPDATE task SET hold = NULL, retries = retries + 1 WHERE id = ?", (task_id,))
            promote.requeue(connection, task_id, now)
            return
        connection.execute(
            "UPDATE task SET hold = NULL, status = 'failed', ended_at = ?, updated_at = ? WHERE id = ?", (now, now, task_id)
        )
        promote.settle(store, connection, task_id, states.FAILED, now)


def enqueue(
    store: Store, task_id: int, queue: str, session: str = "", private: bool = False, entry: dict[str, Any] | None = None
) -> None:
    """Put a created, failed or stopped task into a queue, making the queue if need be.

    What goes to ``services`` takes no slot of a worker, as a controller (ClearML's services mode): a schedule or a search that
    waits for its tasks would else keep the slot that they need.

    Args:
        store: where the task is.
        task_id: its row.
        queue: name of the queue.
        session: the command whose workers serve it if nobody else does.
        private: nobody else may serve it.
        entry: what it runs; default what it has.

    Raises:
        IllegalMove: the task is in another status.
        UsageError: the queue's name is none.

    Transaction effect: one durable commit.
    """
    naming.checked("queue", queue)
    now = time.time()
    with store.database.write() as connection:
        task = connection.execute("SELECT uid, status, parent_id, use_cache FROM task WHERE id = ?", (task_id,)).fetchone()
        if task["status"] not in (states.CREATED, states.FAILED, states.STOPPED):
            raise errors.IllegalMove(f"task {task['uid'][:8]} is {task['status']} and cannot become queued")
        connection.execute("INSERT OR IGNORE INTO queue VALUES (?, ?, 0, ?)", (queue, fresh_id(), now))
        connection.execute(
            "UPDATE task SET queue = ?, abort_requested = 0, ended_at = NULL, error = NULL, retries = 0, crashes = 0, returns = 0,"
            " entry = json_remove(coalesce(?, entry), '$.mode'), session = CASE WHEN ? = '' THEN session ELSE ? END, private = ?,"
            " controller = CASE WHEN run_name IS NULL THEN ? = 'services' ELSE controller END WHERE id = ?",
            (queue, None if entry is None else json.dumps(entry), session, session, int(private), queue, task_id),
        )
        if task["status"] == states.CREATED and (task["parent_id"] is not None or task["use_cache"]):
            # A step that was a draft: its parents are awaited and its references resolved as for any other.
            connection.execute("UPDATE task SET status = 'pending', updated_at = ? WHERE id = ?", (now, task_id))
            promote.promote(store, connection, [task_id], now)
            return
        promote.requeue(connection, task_id, now)


def abort(
    store: Store, task_ids: Iterable[int], reason: str = "aborted by a person", grace_s: float | None = None
) -> list[tuple[int, str]]:
    """Stop tasks and everything that runs under them.

    Waiting tasks end at once; running ones are marked and ended by their worker; ended ones are left alone.

    Returns:
        (task id, status it had) of each task that was stopped or marked.

    Transaction effect: one durable commit; once it is done no marked task can end as completed.
    """
    now, touched = time.time(), []
    with store.database.write() as connection:
        for task_id in task_ids:
            rows = connection.execute(
                # A clone of a run stands under it, and is none of its work; one under a search is.
                "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT t.id FROM task t JOIN tree ON t.parent_id = tree.id"
                " JOIN task p ON p.id = t.parent_id WHERE t.run_name IS NULL OR t.nested = 1 OR p.run_name IS NULL)"
                " SELECT id, status, abort_requested FROM task WHERE id IN tree ORDER BY id",
                (task_id,),
            ).fetchall()
            for row in rows:
                if row["status"] == states.IN_PROGRESS:
                    connection.execute(
                        "UPDATE task SET abort_requested = 1, abort_grace_s = coalesce(?, abort_grace_s), reason = ? WHERE id = ?",
                        (grace_s, reason, row["id"]),
                    )
                elif row["status"] in (states.CREATED, states.PENDING, states.QUEUED):
                    connection.execute(
                        "UPDATE task SET status = 'stopped', reason = ?, ended_at = ?, updated_at = ? WHERE id = ?",
                        (reason, now, now, row["id"]),
                    )
                else:
                    continue
                touched.append((row["id"], row["status"]))
            for row in rows:
                if row["status"] in (states.CREATED, states.PENDING, states.QUEUED):
                    promote.settle(store, connection, row["id"], states.STOPPED, now)
    return touched
