"""What one command started: its runs, how their steps ended, what is left to do. Everything here only reads.

A command marks what it starts with its session, a random number in the column of that name. Following it costs what is new:
endings are read from the history by their growing number, never by looking through tasks.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from minipipe.store.home import Store

# Under a run stand its steps, and what they start; a task under any other task (a clone under its template, a trial under its
# optimiser) stands for itself.
_ON_ITS_OWN = (
    "NOT EXISTS (SELECT 1 FROM task r LEFT JOIN task g ON g.id = r.parent_id"
    " WHERE r.id = t.parent_id AND (r.run_name IS NOT NULL OR g.run_name IS NOT NULL))"
)
# Also an older task that the command began again or enqueued. By number, for what is older than the command costs nothing then.
_MINE = (
    "t.session = :session AND (t.id > :after OR t.id IN"
    " (SELECT e.task_id FROM event e WHERE e.id > :event AND e.new IN ('queued', 'in_progress')))"
)
_OPEN = "('pending', 'queued', 'in_progress')"
_ENDED = "('completed', 'failed', 'stopped', 'skipped')"


@dataclass(frozen=True, slots=True)
class Scope:
    """The tasks that one command is about.

    Attributes:
        session: what the command marks new tasks with.
        after: row id of the newest task that is older than the command; 0 if the store was empty.
        event: number of the last change before the command.
        runs: older runs that it goes on with: row id, number of attempts before.
    """

    session: str
    after: int = 0
    event: int = 0
    runs: tuple[tuple[int, int], ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """Values of the statements' parameters."""
        runs = json.dumps([run for run, _ in self.runs])
        return {"session": self.session, "after": self.after, "event": self.event, "runs": runs}


def scope_from_now(store: Store | None, session: str, runs: tuple[tuple[int, int], ...] = ()) -> Scope:
    """A scope that begins now. Transaction effect: one read; None stands for a store that is not there yet."""
    if store is None:
        return Scope(session, runs=runs)
    row = store.database.row("SELECT (SELECT coalesce(max(id), 0) FROM task), (SELECT coalesce(max(id), 0) FROM event)")
    return Scope(session, int(row[0]), int(row[1]), runs) if row else Scope(session, runs=runs)


def runs(store: Store, scope: Scope) -> list[sqlite3.Row]:
    """The scope's tasks that are no steps, oldest first; ``executor`` is what kind of process began their last attempt.

    A task under another one of the scope counts as its step, whether that is a run or not, unless that is a draft.
    """
    return store.database.rows(
        "SELECT t.*, p.name AS project, (SELECT w.kind FROM event e JOIN worker w ON w.id = e.worker_id WHERE e.task_id = t.id"
        " AND e.kind = 'status' AND e.new = 'in_progress' ORDER BY e.id DESC LIMIT 1) AS executor"
        " FROM task t JOIN project p ON p.id = t.project_id WHERE"
        f" (t.parent_id IS NULL OR ({_ON_ITS_OWN} AND EXISTS (SELECT 1 FROM task u WHERE u.id = t.parent_id"
        " AND (u.session <> :session OR u.status = 'created'))))"
        f" AND (t.id IN (SELECT value FROM json_each(:runs)) OR ({_MINE})) ORDER BY t.id",
        scope.values,
    )


def open_runs(store: Store, scope: Scope) -> list[int]:
    """Row ids of the scope's tasks that wait or run, without the steps of runs."""
    rows = store.database.rows(
        f"SELECT t.id FROM task t WHERE t.status IN {_OPEN} AND {_ON_ITS_OWN}"
        f" AND (t.id IN (SELECT value FROM json_each(:runs)) OR ({_MINE}))",
        scope.values,
    )
    return [row["id"] for row in rows]


def endings(store: Store, scope: Scope, after: int) -> list[sqlite3.Row]:
    """Steps of the scope that ended since event number `after`, in that order.

    ``event`` is the number to go on from, ``ended_as`` the status, ``cached_uid`` the id of the task that served it and
    ``source_run`` that of its run.
    """
    return store.database.rows(
        "SELECT e.id AS event, e.new AS ended_as, t.*, c.uid AS cached_uid, coalesce(r.uid, c.uid) AS source_run"
        " FROM event e JOIN task t ON t.id = e.task_id LEFT JOIN task c ON c.id = t.cached_from"
        f" LEFT JOIN task r ON r.id = c.parent_id WHERE e.id > :event AND e.kind = 'status' AND e.new IN {_ENDED}"
        " AND t.parent_id IS NOT NULL"
        " AND (t.session = :session OR t.parent_id IN (SELECT value FROM json_each(:runs))) ORDER BY e.id",
        {**scope.values, "event": after},
    )


def running_steps(store: Store, scope: Scope) -> list[sqlite3.Row]:
    """Steps of the scope that run now."""
    # By worker, because that is the index of running tasks: finished ones cost nothing.
    return store.database.rows(
        "SELECT * FROM task WHERE status = 'in_progress' AND worker_id IN (SELECT id FROM worker WHERE ended_at IS NULL)"
        " AND parent_id IS NOT NULL"
        " AND (session = :session OR parent_id IN (SELECT value FROM json_each(:runs))) ORDER BY id",
        scope.values,
    )


def single_values(store: Store, task_id: int) -> list[sqlite3.Row]:
    """Names and last values of what a task reported without an iteration (ClearML's `report_single_value`)."""
    return store.database.rows(
        "SELECT m.series AS name, m.value FROM task t JOIN metric m ON m.task_id = t.id AND m.attempt = t.attempt"
        " WHERE t.id = ? AND m.title = 'Summary' AND m.iteration IS NULL"
        " AND m.id = (SELECT max(l.id) FROM metric l WHERE l.task_id = m.task_id AND l.title = m.title AND l.series = m.series)"
        " ORDER BY m.id",
        (task_id,),
    )


def waiting_queues(store: Store, scope: Scope) -> set[str]:
    """Queues that hold tasks of the scope which any worker may take."""
    rows = store.database.rows(
        "SELECT DISTINCT queue FROM task WHERE status = 'queued' AND session = :session AND session <> '' AND private = 0",
        scope.values,
    )
    return {row["queue"] for row in rows}


def steps(store: Store, run_id: int) -> list[sqlite3.Row]:
    """The steps of a run in the order they were submitted, without those that a resumed run replaced."""
    return store.database.rows(
        "SELECT t.*, c.uid AS cached_uid FROM task t LEFT JOIN task c ON c.id = t.cached_from"
        " WHERE t.parent_id = ? AND t.superseded = 0 ORDER BY t.id",
        (run_id,),
    )


def brief_steps(store: Store, run_id: int) -> list[sqlite3.Row]:
    """What a live view folds, of a run's steps in the order they were submitted; thousands of rows stay cheap."""
    return store.database.rows(
        "SELECT id, name, status, cached_from, started_at, ended_at FROM task WHERE parent_id = ? AND superseded = 0 ORDER BY id",
        (run_id,),
    )


def newest_values(store: Store, task_id: int) -> list[tuple[str, float | None]]:
    """(name, value) of the two series that a running task reported last; a series is called by its chart."""
    # Only the newest points of the store are looked at: a redraw must not read through a million of them.
    rows = store.database.rows(
        "SELECT title, series, value FROM metric WHERE id > (SELECT coalesce(max(id), 0) - 500 FROM metric) AND task_id = ?"
        " AND attempt = (SELECT attempt FROM task WHERE id = ?) ORDER BY id DESC LIMIT 16",
        (task_id, task_id),
    )
    found: dict[str, float | None] = {}
    for row in rows:
        found.setdefault(row["series"] if row["title"] == "Summary" else row["title"], row["value"])
    return list(reversed(list(found.items())[:2]))


def scope_of(store: Store, task: sqlite3.Row, session: str) -> Scope:
    """The scope of one task that somebody else started, from its beginning; `session` must be unused."""
    row = store.database.row("SELECT coalesce(min(id), 1) - 1 FROM event WHERE task_id = ?", (task["id"],))
    newest = store.database.row("SELECT coalesce(max(id), 0) FROM task")
    return Scope(session, int(newest[0]) if newest else 0, int(row[0]) if row else 0, ((task["id"], 0),))


def next_name(store: Store, run: sqlite3.Row) -> str:
    """What the next run of a pipeline is called: ``NAME #2``, ``NAME #3`` … (ClearML's rule); one without numbers keeps its name."""
    name, _, number = str(run["name"]).rpartition(" #")
    bare = name if name and number.isdigit() else str(run["name"])
    row = store.database.row(
        "SELECT count(*), sum(name = ?) FROM task WHERE project_id = ? AND run_name IS NOT NULL", (bare, run["project_id"])
    )
    total, unnumbered = (int(row[0]), int(row[1] or 0)) if row else (0, 0)
    return bare if unnumbered > 1 else f"{bare} #{total + 1}"


def live_steps(store: Store, run_id: int) -> int:
    """How many steps of a run are in progress."""
    row = store.database.row("SELECT count(*) FROM task WHERE parent_id = ? AND status = 'in_progress'", (run_id,))
    return int(row[0]) if row else 0


def is_newest_run(store: Store, run_id: int) -> bool:
    """True if no run of the store is newer: people may call it @last."""
    row = store.database.row("SELECT max(id) FROM task WHERE run_name IS NOT NULL AND archived = 0 AND nested = 0")
    return bool(row and row[0] == run_id)


def last_event(store: Store) -> int:
    """Number of the last change of any status, 0 if there was none."""
    row = store.database.row("SELECT coalesce(max(id), 0) FROM event")
    return int(row[0]) if row else 0


def changed_since(store: Store, event: int) -> list[sqlite3.Row]:
    """Tasks that are no steps and were made or changed after event number `event`, in the order in which that began."""
    return store.database.rows(
        "SELECT t.* FROM task t JOIN (SELECT task_id, min(id) AS first FROM event WHERE id > ? GROUP BY task_id) e"
        " ON e.task_id = t.id WHERE t.parent_id IS NULL ORDER BY e.first",
        (event,),
    )


def moved_since(store: Store, event: int) -> tuple[list[str], int]:
    """(ids of the tasks whose status changed since event number `event`, number to go on from)."""
    newest = last_event(store)
    rows = store.database.rows(
        "SELECT t.uid, max(e.id) AS event FROM event e JOIN task t ON t.id = e.task_id WHERE e.id > ? AND e.id <= ?"
        " AND e.kind = 'status' GROUP BY t.id ORDER BY event",
        (event, newest),
    )
    return [row["uid"] for row in rows], newest
