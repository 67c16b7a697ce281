"""Queues: what waits in them, who serves them, and what people do with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minipipe.store.home import Store
from minipipe.store.presence import LiveWorker, servers


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


def start_hint(queue: str) -> str:
    """The command that starts a worker for a queue."""
    return "minipipe worker" if queue in ("default", "services") else f"minipipe worker --queue {queue}"


def set_paused(store: Store, queue: str, paused: bool) -> bool:
    """Pause a queue or let it go on; False if there is none of that name. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        return connection.execute("UPDATE queue SET paused = ? WHERE name = ?", (int(paused), queue)).rowcount > 0
