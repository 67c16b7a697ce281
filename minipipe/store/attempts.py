"""The life of one attempt: claimed with a random token, ended through one gate that checks it.

Every ending of every task passes `finish`. It changes a row only if the attempt's token is still there and the task is in
progress, so a late, lost or repeated ending changes nothing. What follows (children, cache entry, the slot's next task) happens
in the same transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from minipipe import errors, states
from minipipe.chance import between, fresh_id
from minipipe.context import Lease
from minipipe.store import cache, codec, monitors, promote, tasks
from minipipe.store.home import Store

RETRY_BASE_S = 0.1

# How an attempt ended, as its worker saw it.
DONE = "completed"
FAILED = "failed"
CRASHED = "crashed"  # killed from outside, or lost with its host
RETURNED = "returned"  # the worker leaves; nobody's fault, counted nowhere


@dataclass(frozen=True, slots=True)
class Output:
    """A named result of an attempt: a scalar parameter or staged bytes."""

    name: str
    parameter: tasks.Parameter | None = None
    encoded: codec.Encoded | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt leaves behind.

    Attributes:
        ending: `DONE`, `FAILED`, `CRASHED` or `RETURNED`.
        reason: one line for people.
        error: type, message, where, traceback of a failure, as text.
        outputs: results of a good ending.
        duration_s: monotonic seconds.
        code_changed: project files that differ from what they were at submission; the result is not entered in the cache.
        final: the task may not be retried (its limit is the run's, or an argument was unusable).
    """

    ending: str
    reason: str = ""
    error: dict[str, str] | None = None
    outputs: tuple[Output, ...] = ()
    duration_s: float = 0.0
    code_changed: tuple[str, ...] = ()
    final: bool = False


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, and what for.

    Attributes:
        worker_id: row of a living worker.
        queues: served in this order; ignored with a session.
        session: serve only what this command submitted, from every queue but those in `left_alone`.
        left_alone: queues that other living workers serve.
    """

    worker_id: int
    queues: tuple[str, ...] = ()
    session: str = ""
    left_alone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that the caller now owns."""

    lease: Lease
    name: str
    controller: bool
    entry: dict[str, Any]
    time_limit_s: float | None
    run: str
    session: str
    private: bool
    environment: str | None = None


# A wait is never longer than the cap: one that ends further away was set before the clock was set back, and is over.
_DUE = f"(not_before <= :now OR not_before > :now + {states.RETRY_CAP_S})"

_CLAIM = """
UPDATE task SET status = 'in_progress', worker_id = :worker, token = :token, attempt = attempt + 1, started_at = :now,
       updated_at = :now, ended_at = NULL, duration_s = NULL, progress = NULL, reason = '', lent = 0
 WHERE status = 'queued' AND id = (
       SELECT id FROM task WHERE status = 'queued' AND controller = :controller AND {whose}
          AND {due} AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.name = task.queue AND q.paused = 1)
        ORDER BY priority DESC, ticket, id LIMIT 1)
RETURNING id, uid, name, attempt, token, controller, entry, time_limit_s, parent_id, run_name, session, private, environment"""
_CLAIM_PUBLIC = _CLAIM.format(due=_DUE, whose="private = 0 AND queue = :queue")
_CLAIM_SESSION = _CLAIM.format(
    due=_DUE,
    whose="session = :session AND session <> '' AND (private = 1 OR queue NOT IN (SELECT value FROM json_each(:left_alone)))",
)


def claim(
    store: Store,
    connection: sqlite3.Connection,
    who: Claimant,
    controller: bool,
    excluding: Collection[str] = (),
    token: str = "",
) -> Claim | None:
    """Take the next queued task. Part of the caller's transaction.

    Args:
        store: the store.
        connection: inside a write transaction.
        who: the claiming worker.
        controller: look for a controller (which takes no step slot) or for a step.
        excluding: queues not to serve now.
        token: the new attempt's; default a random one.
    """
    values: dict[str, Any] = {
        "worker": who.worker_id,
        "token": token or fresh_id(),
        "now": time.time(),
        "controller": int(controller),
        "session": who.session,
        "left_alone": json.dumps(who.left_alone),
    }
    if who.session:
        rows = connection.execute(_CLAIM_SESSION, values).fetchall()
    else:
        rows = []
        for queue in who.queues:
            if queue not in excluding:
                rows = connection.execute(_CLAIM_PUBLIC, {**values, "queue": queue}).fetchall()
            if rows:
                break
    return _as_claim(connection, rows[0]) if rows else None


def _as_claim(connection: sqlite3.Connection, row: sqlite3.Row) -> Claim:
    run = row["uid"]
    if row["parent_id"] is not None and row["run_name"] is None:  # a run under another one, or under a search, is its own
        run = connection.execute("SELECT uid FROM task WHERE id = ?", (row["parent_id"],)).fetchone()[0]
    return Claim(
        Lease(row["id"], row["uid"], row["attempt"], row["token"]),
        row["name"],
        bool(row["controller"]),
        json.loads(row["entry"]),
        row["time_limit_s"],
        run,
        row["session"],
        bool(row["private"]),
        row["environment"],
    )


def claim_next(store: Store, who: Claimant, step: bool = True) -> Claim | None:
    """Claim a controller if one waits, else (with `step`) a step. Transaction effect: one commit that may be lost in a power cut,
    which only brings the task back."""
    with store.database.write(durable=False) as connection:
        found = claim(store, connection, who, controller=True)
        return found or (claim(store, connection, who, controller=False) if step else None)


def anything_for(store: Store, who: Claimant, step: bool, due: bool = True) -> bool:
    """True if a task waits that `claim_next` would take. A plain read: looking does not disturb writers.

    Args:
        store: the store.
        who: the worker.
        step: look for steps too, not only for controllers.
        due: count only tasks whose retry wait is over.
    """
    whose = (
        "session = :mine AND session <> ''" if who.session else "private = 0 AND queue IN (SELECT value FROM json_each(:mine))"
    )
    sql = (
        f"SELECT 1 FROM task WHERE status = 'queued' AND {whose} AND controller >= :controller AND {_DUE if due else '1'}"
        " AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.name = task.queue AND q.paused = 1)"
        " AND (private = 1 OR queue NOT IN (SELECT value FROM json_each(:left_alone))) LIMIT 1"
    )
    values = {
        "mine": who.session or json.dumps(who.queues),
        "controller": 0 if step else 1,
        "now": time.time(),
        "left_alone": json.dumps(who.left_alone if who.session else ()),
    }
    return store.database.row(sql, values) is not None


def start_here(store: Store, task_id: int, worker_id: int) -> Lease:
    """Begin a run in this very process (local and mixed mode).

    Raises:
        IllegalMove: it waits in a queue, runs elsewhere, or is done (two `resume` of one run at the same time).

    Transaction effect: one durable commit.
    """
    now, token = time.time(), fresh_id()
    with store.database.write() as connection:
        rows = connection.execute(
            "UPDATE task SET status = 'in_progress', worker_id = ?, token = ?, attempt = attempt + 1, started_at = ?,"
            " updated_at = ?, ended_at = NULL, error = NULL, reason = '', abort_requested = 0,"
            " retries = 0, crashes = 0, returns = 0"
            " WHERE id = ? AND status IN ('created', 'failed', 'stopped') RETURNING uid, attempt",
            (worker_id, token, now, now, task_id),
        ).fetchall()
        if not rows:
            found = connection.execute("SELECT uid, status FROM task WHERE id = ?", (task_id,)).fetchone()
            raise errors.IllegalMove(f"run {found['uid'][:8]} is {found['status']} and cannot be started here")
    return Lease(task_id, rows[0]["uid"], rows[0]["attempt"], token)


@dataclass(frozen=True, slots=True)
class Finished:
    """What `finish` did.

    Attributes:
        status: the task's status now, None if the attempt was fenced out (nothing was stored).
        reason: why, in words.
        next: the task claimed for the same slot, if one was asked for and waits.
    """

    status: str | None
    reason: str = ""
    next: Claim | None = None


def finish(
    store: Store,
    lease: Lease,
    outcome: Outcome,
    max_crashes: int = 3,
    who: Claimant | None = None,
    early: Callable[[Claim], None] | None = None,
) -> Finished:
    """End an attempt: the one gate for every ending.

    Args:
        store: the store.
        lease: the attempt.
        outcome: how it ended.
        max_crashes: crashes that end a task as failed.
        who: claim the next step for this worker in the same transaction.
        early: called with that step just before the commit, to start it while the disk syncs. If the commit raises, whatever was
            started must be ended before this is called again: the step was not claimed.

    Returns:
        The task's status: completed, failed, stopped, or queued again. An attempt that was fenced out gets status None.

    Transaction effect: one durable commit. Raised errors leave the attempt as it was; the call may be repeated, also when the
    commit itself raised: an ending that did reach the disk is recognised by its token.
    """
    now = time.time()
    following: Claim | None = None
    with store.database.write() as connection:
        row = connection.execute(
            "SELECT status, token, reason, retries, max_retries, ask_retry, crashes, abort_requested FROM task WHERE id = ?",
            (lease.task,),
        ).fetchone()
        if row is None or row["token"] != lease.token:
            _let_go(outcome)
            return Finished(None, "another attempt owns the task")
        if row["status"] != states.IN_PROGRESS:  # our own earlier commit, which raised and still was stored
            _let_go(outcome)
            return Finished(row["status"], row["reason"], _claimed_before(connection, lease))
        verdict = _decide(row, outcome, max_crashes, now)
        if verdict.status == states.COMPLETED:
            _store_outputs(store, connection, lease, outcome, now)
        _move(connection, lease, verdict, outcome, now)
        _follow(store, connection, lease, verdict, outcome, now)
        if who is not None:
            following = claim(store, connection, who, controller=False, token=next_token(lease.token))
            if following is not None and early is not None:
                early(following)
    _let_go(outcome)
    return Finished(verdict.status, verdict.reason, following)


def _let_go(outcome: Outcome) -> None:
    for output in outcome.outputs:
        if output.encoded is not None and output.encoded.writer is not None:
            output.encoded.writer.close()


def next_token(token: str) -> str:
    """The token of the attempt that is claimed together with this one's ending: as random as its own, and known again when the
    commit raised although it was stored. A random one would leave that task in progress for ever, under a worker that lives."""
    return blake3(token.encode()).hexdigest()[:32]


def _claimed_before(connection: sqlite3.Connection, lease: Lease) -> Claim | None:
    rows = connection.execute(
        "SELECT * FROM task WHERE status = 'in_progress' AND token = ?", (next_token(lease.token),)
    ).fetchall()
    return _as_claim(connection, rows[0]) if rows else None


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: str
    reason: str
    retry: int = 0
    crash: int = 0
    returned: int = 0
    not_before: float = 0.0
    hold: str | None = None


def _decide(row: sqlite3.Row, outcome: Outcome, max_crashes: int, now: float) -> _Verdict:
    """The life cycle's answer to an ending. Once an abort is committed no result changes it."""
    if row["abort_requested"]:
        return _Verdict(states.STOPPED, row["reason"] or "stopped")
    if outcome.ending == DONE:
        return _Verdict(states.COMPLETED, outcome.reason)
    if outcome.ending == RETURNED:
        return _Verdict(states.QUEUED, outcome.reason or "its worker left", returned=1)
    if outcome.ending == CRASHED:
        crashes = row["crashes"] + 1
        if crashes >= max_crashes:
            return _Verdict(states.FAILED, f"{outcome.reason}, {crashes} times", crash=1)
        return _Verdict(states.QUEUED, outcome.reason, crash=1)
    if outcome.final:
        return _Verdict(states.FAILED, outcome.reason)
    if row["ask_retry"]:
        return _Verdict(states.PENDING, outcome.reason, hold="retry")
    if row["retries"] < row["max_retries"]:
        # Full jitter, capped: many steps that failed together must not come back together.
        wait = min(states.RETRY_CAP_S, RETRY_BASE_S * 2 ** row["retries"]) * between(0.5, 1.0)
        return _Verdict(states.QUEUED, outcome.reason, retry=1, not_before=now + wait)
    return _Verdict(states.FAILED, outcome.reason)


def _store_outputs(store: Store, connection: sqlite3.Connection, lease: Lease, outcome: Outcome, now: float) -> None:
    for output in outcome.outputs:
        if output.parameter is not None:
            tasks.insert_parameters(connection, lease.task, (output.parameter,))
        elif output.encoded is not None:
            tasks.put_artifact(store, connection, lease.task, "output", output.name, output.encoded, now)


def _move(connection: sqlite3.Connection, lease: Lease, verdict: _Verdict, outcome: Outcome, now: float) -> None:
    if verdict.status in (states.QUEUED, states.PENDING):
        connection.execute("DELETE FROM artifact WHERE task_id = ? AND role = 'output'", (lease.task,))
    error = None if outcome.error is None or verdict.status == states.STOPPED else json.dumps(outcome.error)
    connection.execute(
        "UPDATE task SET status = ?, reason = ?, worker_id = NULL, updated_at = ?, ended_at = ?, duration_s = ?, error = ?,"
        " retries = retries + ?, crashes = crashes + ?, returns = returns + ?, not_before = ?, hold = ? WHERE id = ?",
        (
            verdict.status,
            verdict.reason,
            now,
            now if verdict.status in states.ENDED else None,
            outcome.duration_s,
            error,
            verdict.retry,
            verdict.crash,
            verdict.returned,
            verdict.not_before,
            verdict.hold,
            lease.task,
        ),
    )


def _follow(store: Store, connection: sqlite3.Connection, lease: Lease, verdict: _Verdict, outcome: Outcome, now: float) -> None:
    if outcome.code_changed:
        connection.execute(
            "INSERT INTO event (task_id, at, kind, attempt, detail) VALUES (?, ?, 'warning', ?, ?)",
            (lease.task, now, lease.attempt, "code changed since submission: " + ", ".join(outcome.code_changed)),
        )
        connection.execute("UPDATE task SET cache_key = NULL WHERE id = ?", (lease.task,))
    if verdict.status == states.COMPLETED:
        cache.record(connection, lease.task)
    monitors.mirror(connection, lease.task)
    promote.settle(store, connection, lease.task, verdict.status, now)
    if verdict.status == states.COMPLETED:
        connection.execute(
            "UPDATE task SET status = 'published', updated_at = ? WHERE id = ? AND json_extract(settings, '$.publish_on_completion')",
            (now, lease.task),
        )


def lend(store: Store, lease: Lease, on: bool) -> None:
    """Say that an attempt only waits for steps of its own, so that its slot is free; or that it goes on.

    Transaction effect: one commit that may be lost in a power cut.
    """
    with store.database.write(durable=False) as connection:
        connection.execute("UPDATE task SET lent = ? WHERE id = ? AND token = ?", (int(on), lease.task, lease.token))


def lent(store: Store, worker_id: int) -> set[int]:
    """Tasks of a worker whose slot is free meanwhile."""
    rows = store.database.rows("SELECT id FROM task WHERE worker_id = ? AND status = 'in_progress' AND lent = 1", (worker_id,))
    return {row["id"] for row in rows}


def aborted(store: Store, worker_id: int) -> dict[int, float | None]:
    """Tasks of a worker that somebody asked to stop, with the grace that was asked for, in seconds (None: the worker's own)."""
    rows = store.database.rows(
        "SELECT id, abort_grace_s FROM task WHERE worker_id = ? AND status = 'in_progress' AND abort_requested = 1", (worker_id,)
    )
    return {row["id"]: row["abort_grace_s"] for row in rows}
