"""Why a task does not move, in words with the next thing to type."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from minipipe import states
from minipipe.store import naming
from minipipe.store.home import Store
from minipipe.store.presence import AGENT, LiveWorker, servers
from minipipe.store.queues import start_hint

UNSERVED = "no worker serves"  # how a reason begins that a command with workers of its own does away with
_FIRST_QUEUED = "SELECT * FROM task WHERE parent_id = ? AND superseded = 0 AND status = 'queued' ORDER BY id LIMIT 1"


def waiting_reason(store: Store, task: sqlite3.Row, living: Sequence[LiveWorker], steps: dict[str, int] | None = None) -> str:
    """Why a task does not move, in words with the next thing to type; "" if it moves, ended, or was never started.

    A run in progress waits if none of its steps runs and its oldest queued one cannot.
    """
    status = task["status"]
    if status == states.QUEUED:
        return _why_queued(store, task, living)
    if status == states.PENDING:
        return _why_pending(store, task)
    if status != states.IN_PROGRESS:
        return ""
    if all(worker.id != task["worker_id"] for worker in living):
        owner = store.database.row("SELECT kind FROM worker WHERE id = ?", (task["worker_id"],))
        if owner is not None and owner["kind"] == AGENT:
            return "its worker died; the next one takes it up: minipipe worker"
        return f"its process died; go on: minipipe {naming.again(task)} {task['run_name'] or task['uid'][:8]}"
    if steps and steps.get(states.QUEUED) and not steps.get(states.IN_PROGRESS):
        step = store.database.row(_FIRST_QUEUED, (task["id"],))
        return _why_queued(store, step, living) if step is not None else ""
    return ""


def _why_queued(store: Store, task: sqlite3.Row, living: Sequence[LiveWorker]) -> str:
    queue = task["queue"]
    paused = store.database.row("SELECT 1 FROM queue WHERE name = ? AND paused = 1", (queue,))
    if paused is not None:
        return f"queue {queue!r} is paused; go on: minipipe queue resume {queue}"
    wait_s = task["not_before"] - time.time()
    if 0 < wait_s <= states.RETRY_CAP_S:
        return f"tries again in {max(1, round(wait_s))}s" + (f" ({task['reason']})" if task["reason"] else "")
    own = [worker for worker in living if worker.kind == AGENT and worker.session and worker.session == task["session"]]
    serving = own or ([] if task["private"] else servers(living, queue))
    if not serving:
        if task["private"]:
            return "the command that would run it is gone"
        return f"{UNSERVED} queue {queue!r}; start one: {start_hint(queue)}"
    slots, busy = sum(worker.slots for worker in serving), sum(worker.busy for worker in serving)
    if not task["controller"] and busy >= slots:
        names = ", ".join(worker.name for worker in serving)
        return f"all {slots} slots of {names} are busy" if slots != 1 else f"the slot of {names} is busy"
    return ""


def _why_pending(store: Store, task: sqlite3.Row) -> str:
    if task["waiting_on"] > 0:
        rows = store.database.rows(
            "SELECT t.name FROM edge e JOIN task t ON t.id = e.parent_id WHERE e.child_id = ? AND e.kind <> 'control'"
            " AND (t.status NOT IN ('completed', 'published') OR t.gate = 1) ORDER BY t.id LIMIT 4",
            (task["id"],),
        )
        names = [row["name"] for row in rows]
        if names:
            return "waits for " + ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        return ""
    if task["hold"]:
        run = store.database.row("SELECT uid, run_name, status FROM task WHERE id = ?", (task["parent_id"],))
        what = "decides on its retry" if task["hold"] == "retry" else "calls back"
        if run is not None and run["status"] != states.IN_PROGRESS:
            return f"its run is {run['status']} and {what} no more; go on: minipipe resume {run['run_name'] or run['uid'][:8]}"
        return f"waits until its run {what}"
    return ""
