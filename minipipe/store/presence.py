"""Which processes are alive, and what they serve. Only probes locks: costs no import of filelock, so `status` stays quick."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minipipe.store import locks
from minipipe.store.home import Store

AGENT = "agent"


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A living process that owns or claims tasks.

    Attributes:
        queues: what it serves for everybody; empty for one that serves a command.
        busy: steps that it runs now.
    """

    id: int
    name: str
    kind: str
    pid: int
    slots: int
    queues: tuple[str, ...]
    session: str
    started_at: float
    busy: int


def living(store: Store) -> list[LiveWorker]:
    """Processes whose lock is held, with what they run. Only probes the locks; costs no import of filelock."""
    rows = store.database.rows("SELECT * FROM worker WHERE ended_at IS NULL ORDER BY id")
    alive = [row for row in rows if locks.is_held(store.folder("workers") / f"{row['uid']}.lock")]
    busy = {
        row["worker_id"]: row["n"]
        for row in store.database.rows(
            "SELECT worker_id, count(*) AS n FROM task WHERE status = 'in_progress' AND controller = 0 GROUP BY worker_id"
        )
    }
    return [
        LiveWorker(
            row["id"],
            row["name"],
            row["kind"],
            row["pid"],
            row["slots"],
            tuple(json.loads(row["queues"])),
            row["session"],
            row["started_at"],
            busy.get(row["id"], 0),
        )
        for row in alive
    ]


def servers(living: Iterable[LiveWorker], queue: str) -> list[LiveWorker]:
    """Workers that serve a queue for everybody."""
    return [worker for worker in living if worker.kind == AGENT and not worker.session and queue in worker.queues]


def own_processes(store: Store, task_ids: Sequence[int]) -> list[int]:
    """Process ids of living scripts that execute one of these tasks themselves, without a worker.

    Runs are left out, and the steps that a run executes in its own process: their process looks for itself.
    """
    rows = store.database.rows(
        "SELECT DISTINCT w.uid, w.pid FROM json_each(?) j JOIN task t ON t.id = j.value JOIN worker w ON w.id = t.worker_id"
        " WHERE t.status = 'in_progress' AND t.run_name IS NULL AND w.kind <> ? AND w.ended_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM task p WHERE p.id = t.parent_id AND p.worker_id = t.worker_id)",
        (json.dumps(list(task_ids)), AGENT),
    )
    return [row["pid"] for row in rows if locks.is_held(store.folder("workers") / f"{row['uid']}.lock")]


def dead_holders(store: Store, living: Sequence[LiveWorker]) -> int:
    """Number of tasks whose worker is gone and that nobody has given back yet."""
    alive = {worker.id for worker in living}
    rows = store.database.rows("SELECT worker_id FROM task WHERE status = 'in_progress'")
    return sum(row["worker_id"] not in alive for row in rows)
