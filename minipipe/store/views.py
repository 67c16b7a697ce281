"""Read models: what the command line and the report show, asked in as few statements as possible and changing nothing.

Listing runs costs the same with a hundred or a million tasks: counts come from ``tally``, runs from a partial index. Nothing here
decodes a value; previews were stored when the value was.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from minipipe import states
from minipipe.store import locks, lookup
from minipipe.store.home import Store

AGENT = "agent"
WAITING = frozenset({states.CREATED, states.PENDING, states.QUEUED})
_FIRST_QUEUED = "SELECT * FROM task WHERE parent_id = ? AND superseded = 0 AND status = 'queued' ORDER BY id LIMIT 1"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks `tasks_of` lists.

    Attributes:
        limit: at most so many, newest first.
        everything: also steps, templates and archived ones.
        since: created at or after this time.
        parameters: (name or "Section/name", text) pairs that must hold.
    """

    limit: int = 20
    everything: bool = False
    statuses: tuple[str, ...] = ()
    pipeline: str | None = None
    project: str | None = None
    tags: tuple[str, ...] = ()
    since: float | None = None
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A task of a list.

    Attributes:
        row: the full row of ``task``.
        pipeline, project: as people know them.
        steps: number of steps by status, of a run.
        failed: name of its first failed step, "" if there is none.
        parameters: (section, name, text) of its own arguments.
        tags: what people tagged it with.
        waiting: why it does not move, "" if it does.
    """

    row: sqlite3.Row
    pipeline: str
    project: str
    steps: dict[str, int] = field(default_factory=dict)
    failed: str = ""
    parameters: tuple[tuple[str, str, str], ...] = ()
    tags: tuple[str, ...] = ()
    waiting: str = ""


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


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue with what waits in it and who serves it."""

    name: str
    paused: bool
    queued: int
    in_progress: int
    oldest: float | None
    workers: tuple[str, ...]


# -- lists --------------------------------------------------------------------------------------------------------------


def tasks_of(store: Store, wanted: Filter, living: Sequence[LiveWorker]) -> list[Listed]:
    """Runs (or all tasks) that fit, newest first, with all that a status table shows."""
    sql, values = _list_query(store, wanted)
    rows = store.database.rows(sql, values)
    found = []
    for row in rows:
        pipeline, project = lookup.pipeline_of(row["name"], row["project_name"])
        is_run = row["run_name"] is not None
        steps = step_counts(store, row["id"]) if is_run else {}
        found.append(
            Listed(
                row,
                pipeline if is_run else row["name"],
                project,
                steps,
                _first_failed(store, row["id"]) if steps.get(states.FAILED) else "",
                arguments_of(store, row["id"]),
                tags_of(store, row["id"]),
                waiting_reason(store, row, living, steps),
            )
        )
    return found


def _list_query(store: Store, wanted: Filter) -> tuple[str, list[object]]:
    where = ["1"] if wanted.everything else ["t.run_name IS NOT NULL", "t.archived = 0"]
    values: list[object] = []
    if wanted.statuses:
        where.append(f"t.status IN ({_marks(wanted.statuses)})")
        values += wanted.statuses
    if wanted.pipeline is not None:
        projects = lookup.pipeline_projects(store, wanted.pipeline)
        where.append(f"(t.project_id IN ({_marks(projects)}) OR t.name = ?)")
        values += [*projects, wanted.pipeline]
    if wanted.project is not None:
        where.append("(p.name = ? OR substr(p.name, 1, length(?)) = ?)")
        values += [wanted.project, wanted.project + "/", wanted.project + "/"]
    for tag in wanted.tags:
        where.append("EXISTS (SELECT 1 FROM tag g WHERE g.task_id = t.id AND g.name = ?)")
        values.append(tag)
    if wanted.since is not None:
        where.append("t.created_at >= ?")
        values.append(wanted.since)
    for name, text in wanted.parameters:
        where.append(
            "EXISTS (SELECT 1 FROM parameter a WHERE a.task_id = t.id"
            " AND ? IN (a.name, a.section || '/' || a.name) AND a.text = ?)"
        )
        values += [name, text]
    sql = "SELECT t.*, p.name AS project_name FROM task t CROSS JOIN project p ON p.id = t.project_id"
    return f"{sql} WHERE {' AND '.join(where)} ORDER BY t.id DESC LIMIT ?", [*values, wanted.limit]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def step_counts(store: Store, run_id: int) -> dict[str, int]:
    """Number of a run's steps by status, from the tallies; replaced steps do not count."""
    rows = store.database.rows("SELECT status, n FROM tally WHERE scope = ? AND n > 0", (run_id,))
    return {row["status"]: row["n"] for row in rows}


def _first_failed(store: Store, run_id: int) -> str:
    row = store.database.row(
        "SELECT name FROM task WHERE parent_id = ? AND superseded = 0 AND status = 'failed' LIMIT 1", (run_id,)
    )
    return str(row["name"]) if row else ""


def arguments_of(store: Store, task_id: int) -> tuple[tuple[str, str, str], ...]:
    """(section, name, text) of the parameters that were given to a task; its scalar results are not among them."""
    rows = store.database.rows(
        "SELECT section, name, text FROM parameter WHERE task_id = ? AND section <> 'return' ORDER BY id LIMIT 40", (task_id,)
    )
    return tuple((row["section"], row["name"], row["text"]) for row in rows)


def tags_of(store: Store, task_id: int) -> tuple[str, ...]:
    """What people tagged a task with."""
    rows = store.database.rows("SELECT name FROM tag WHERE task_id = ? AND system = 0 ORDER BY name", (task_id,))
    return tuple(row["name"] for row in rows)


def steps_of(store: Store, run_id: int) -> list[sqlite3.Row]:
    """Steps of a run in the order they started (then were submitted), without those that a resumed run replaced.

    Each has ``source_run``: the id of the run that a cached one was taken from.
    """
    return store.database.rows(
        "SELECT t.*, r.uid AS source_run FROM task t LEFT JOIN task s ON s.id = t.cached_from"
        " LEFT JOIN task r ON r.id = coalesce(s.parent_id, s.id) WHERE t.parent_id = ? AND t.superseded = 0"
        " ORDER BY t.started_at IS NULL AND t.cached_from IS NULL, coalesce(t.started_at, t.ended_at), t.id",
        (run_id,),
    )


# -- who serves ---------------------------------------------------------------------------------------------------------


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


# -- why nothing moves --------------------------------------------------------------------------------------------------


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
        return f"its process died; go on: minipipe resume {task['run_name'] or task['uid'][:8]}"
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
    if wait_s > 0:
        return f"tries again in {max(1, round(wait_s))}s" + (f" ({task['reason']})" if task["reason"] else "")
    own = [worker for worker in living if worker.session and worker.session == task["session"]]
    serving = own or ([] if task["private"] else servers(living, queue))
    if not serving:
        if task["private"]:
            return "the command that would run it is gone"
        return f"no worker serves queue {queue!r}; start one: {start_hint(queue)}"
    slots, busy = sum(worker.slots for worker in serving), sum(worker.busy for worker in serving)
    if not task["controller"] and busy >= slots:
        return f"all {slots} slots of {', '.join(worker.name for worker in serving)} are busy"
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


# -- one task -----------------------------------------------------------------------------------------------------------


def project_of(store: Store, task: sqlite3.Row) -> str:
    """Full name of a task's project."""
    row = store.database.row("SELECT name FROM project WHERE id = ?", (task["project_id"],))
    return str(row["name"]) if row else ""


def task_by_id(store: Store, task_id: int | None) -> sqlite3.Row | None:
    """A full row by its row id, None if there is none."""
    return store.database.row("SELECT * FROM task WHERE id = ?", (task_id,)) if task_id is not None else None


def task_by_uid(store: Store, uid: str | None) -> sqlite3.Row | None:
    """A full row by its id, None if there is none."""
    return store.database.row("SELECT * FROM task WHERE uid = ?", (uid,)) if uid is not None else None


def label_of(store: Store, task: sqlite3.Row) -> str:
    """``8b0e44d1/train`` for a step, ``8b0e44d1`` for everything else."""
    run = task_by_id(store, task["parent_id"])
    return f"{run['uid'][:8]}/{task['name']}" if run is not None else str(task["uid"][:8])


def neighbours(store: Store, task_id: int) -> tuple[list[str], list[str]]:
    """(names of the steps that a step needs, names of those that need it)."""
    both = []
    for mine, other in (("child_id", "parent_id"), ("parent_id", "child_id")):
        rows = store.database.rows(
            f"SELECT t.name FROM edge e JOIN task t ON t.id = e.{other} WHERE e.{mine} = ? AND e.kind <> 'control' ORDER BY t.id",
            (task_id,),
        )
        both.append([row["name"] for row in rows])
    return both[0], both[1]


def artifacts_of(store: Store, task: sqlite3.Row) -> list[dict[str, Any]]:
    """A task's artifacts and scalar results: outputs, then inputs, then code; nothing is decoded.

    A scalar result has codec "scalar" and its ``value`` as JSON; everything else is a blob.
    """
    rows = store.database.rows(
        "SELECT name, CASE role WHEN 'reference' THEN 'input' ELSE role END AS role, type, size, digest, preview, codec,"
        " metadata, NULL AS value FROM artifact WHERE task_id = ?"
        " ORDER BY CASE role WHEN 'output' THEN 0 WHEN 'code' THEN 2 ELSE 1 END, id",
        (task["id"],),
    )
    scalars = store.database.rows(
        "SELECT name, 'output' AS role, type, NULL AS size, NULL AS digest, text AS preview, 'scalar' AS codec,"
        " '{}' AS metadata, value FROM parameter WHERE task_id = ? AND section = 'return' ORDER BY id",
        (task["id"],),
    )
    found = [dict(row) for row in (*scalars, *rows)]
    for one in found:
        if one["codec"] == "scalar":
            one.update(size=None, digest=None, type=one["type"] or "str")
    return found


def code_of(store: Store, key: str | None) -> tuple[str, str, list[dict[str, Any]]] | None:
    """(name, source, parts) of a step's captured code, None if none was captured."""
    row = store.database.row("SELECT name, source, parts FROM code WHERE key = ?", (key,))
    return (row["name"], row["source"], json.loads(row["parts"])) if row else None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a task, from its history."""

    number: int
    started_at: float
    ended_at: float | None
    ended_as: str
    worker: str
    reason: str


def attempts_of(store: Store, task_id: int) -> list[AttemptView]:
    """All tries of a task, oldest first."""
    rows = store.database.rows(
        "SELECT e.at, e.old, e.new, e.attempt, e.detail, w.name AS worker FROM event e LEFT JOIN worker w ON w.id = e.worker_id"
        " WHERE e.task_id = ? AND e.kind = 'status' AND 'in_progress' IN (e.old, e.new) ORDER BY e.id",
        (task_id,),
    )
    found: list[AttemptView] = []
    for row in rows:
        if row["new"] == states.IN_PROGRESS:
            found.append(AttemptView(row["attempt"], row["at"], None, states.IN_PROGRESS, row["worker"] or "", ""))
        elif found:
            last = found[-1]
            found[-1] = AttemptView(last.number, last.started_at, row["at"], row["new"], last.worker, row["detail"])
    return found


def blobs(store: Store) -> Iterable[tuple[str, bytes | None]]:
    """(digest, inline bytes or None for a file) of every blob, a page at a time."""
    last = 0
    while rows := store.database.rows("SELECT id, digest, bytes FROM blob WHERE id > ? ORDER BY id LIMIT 256", (last,)):
        for row in rows:
            yield row["digest"], row["bytes"]
        last = rows[-1]["id"]


def users_of_blob(store: Store, digest: str) -> list[str]:
    """Which artifacts a blob serves, as ``8b0e44d1/train/model``; at most three."""
    rows = store.database.rows("SELECT task_id, name FROM artifact WHERE digest = ? ORDER BY id LIMIT 3", (digest,))
    found = []
    for row in rows:
        task = task_by_id(store, row["task_id"])
        if task is not None:
            found.append(f"{label_of(store, task)}/{row['name']}")
    return found


def check_database(store: Store, thorough: bool) -> list[str]:
    """What SQLite finds wrong with the database; empty if nothing. `thorough` also compares indexes and references."""
    pragma = "integrity_check" if thorough else "quick_check"
    found = [str(row[0]) for row in store.database.rows(f"PRAGMA {pragma}(10)") if row[0] != "ok"]
    if thorough:
        found += [f"foreign key of table {row[0]}, row {row[1]}" for row in store.database.rows("PRAGMA foreign_key_check")][:10]
    return found


def dead_holders(store: Store, living: Sequence[LiveWorker]) -> int:
    """Number of tasks whose worker is gone and that nobody has given back yet."""
    alive = {worker.id for worker in living}
    rows = store.database.rows("SELECT worker_id FROM task WHERE status = 'in_progress'")
    return sum(row["worker_id"] not in alive for row in rows)


# -- steering: one statement each, for the verbs `queue` and `cache` ----------------------------------------------------


def set_paused(store: Store, queue: str, paused: bool) -> bool:
    """Pause a queue or let it go on; False if there is none of that name. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        return connection.execute("UPDATE queue SET paused = ? WHERE name = ?", (int(paused), queue)).rowcount > 0


def forget_cache(store: Store, task_ids: Sequence[int] | None) -> int:
    """Drop the cache entries under the keys of tasks (None: all entries); runs and artifacts stay.

    Returns:
        number of entries.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        if task_ids is None:
            return connection.execute("DELETE FROM cache").rowcount
        keys = "SELECT cache_key FROM task WHERE id IN (SELECT value FROM json_each(?))"
        return connection.execute(f"DELETE FROM cache WHERE key IN ({keys})", (json.dumps(list(task_ids)),)).rowcount


def steps_of_pipeline(store: Store, pipeline: str) -> list[int]:
    """Row ids of all steps of all runs of a pipeline."""
    projects = lookup.pipeline_projects(store, pipeline)
    rows = store.database.rows(
        "SELECT s.id FROM task s JOIN task r ON r.id = s.parent_id"
        f" WHERE r.run_name IS NOT NULL AND (r.project_id IN ({_marks(projects)}) OR r.name = ?)",
        (*projects, pipeline),
    )
    return [row["id"] for row in rows]
