"""Environments of steps: what was asked for, what it became, and what that means for cache keys.

An environment is named by the digest of what was asked for; what the installer made of it (`resolved`) is known after the first
build. It belongs to the cache key, so a task's key has two parts, ``<what runs>:<what is installed>``; the second is empty until
the environment has been built once, and such a key serves nobody.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from minipipe import hashing
from minipipe.context import Lease
from minipipe.requirements import Requirements
from minipipe.store.home import Store

FOLDER = "envs"


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment, as the store knows it.

    Attributes:
        digest: names it and its folder.
        requirements: what was asked for.
        resolved: ``name==version`` of everything in it; None before the first build.
        installer: what made it ("uv", "pip").
        duration_s: seconds that the last build took.
    """

    digest: str
    requirements: Requirements
    resolved: tuple[str, ...] | None
    installer: str
    duration_s: float


def folder(store: Store, digest: str) -> Path:
    """Where an environment lives, or would."""
    return store.path / FOLDER / digest[:32]


def note(connection: sqlite3.Connection, wanted: Requirements, now: float) -> str:
    """Enter what a task asks for; returns the digest. Part of the caller's transaction."""
    connection.execute(
        "INSERT OR IGNORE INTO environment (digest, python, lines, created_at) VALUES (?, ?, ?, ?)",
        (wanted.digest, wanted.python, json.dumps(wanted.lines), now),
    )
    return wanted.digest


def find(store: Store, digest: str) -> Environment | None:
    """The environment of that digest, None if no task asked for it."""
    row = store.database.row("SELECT * FROM environment WHERE digest = ?", (digest,))
    return None if row is None else _of(row)


def of_task(store: Store, task_id: int) -> Environment | None:
    """The environment that a task runs in, None for the worker's own Python."""
    row = store.database.row("SELECT e.* FROM task t JOIN environment e ON e.digest = t.environment WHERE t.id = ?", (task_id,))
    return None if row is None else _of(row)


def assign(store: Store, task_id: int, wanted: Requirements | None) -> None:
    """Say what a draft needs, instead of what it needed so far. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        digest = None if wanted is None else note(connection, wanted, time.time())
        connection.execute("UPDATE task SET environment = ? WHERE id = ?", (digest, task_id))


def listed(store: Store) -> list[Environment]:
    """All environments that tasks asked for, oldest first."""
    return [_of(row) for row in store.database.rows("SELECT * FROM environment ORDER BY created_at, digest")]


def _of(row: sqlite3.Row) -> Environment:
    return Environment(
        row["digest"],
        Requirements(tuple(json.loads(row["lines"])), row["python"]),
        tuple(json.loads(row["resolved"])) if row["resolved"] is not None else None,
        row["installer"],
        row["duration_s"] or 0.0,
    )


def built(store: Store, wanted: Requirements, resolved: tuple[str, ...], installer: str, duration_s: float) -> None:
    """Note what the installer made. Transaction effect: one commit without sync (it can be repeated)."""
    now = time.time()
    with store.database.write(durable=False) as connection:
        note(connection, wanted, now)
        connection.execute(
            "UPDATE environment SET resolved = ?, installer = ?, duration_s = ?, built_at = ? WHERE digest = ?",
            (json.dumps(resolved), installer, duration_s, now, wanted.digest),
        )


def enter(store: Store, lease: Lease, digest: str, promised: bool) -> None:
    """An attempt is about to run in an environment: its task's key follows what is installed there.

    Args:
        store: the store.
        lease: the attempt.
        digest: of the environment.
        promised: True if the task was submitted for it; False if its worker found out that its own Python will not do: such a
            task was given a key for another set of packages, and gets none.

    Transaction effect: at most one commit without sync, only if something changes.
    """
    row = store.database.row("SELECT cache_key, environment FROM task WHERE id = ?", (lease.task,))
    if row is None or (row["cache_key"] is None and row["environment"] == digest):
        return
    found = find(store, digest)
    key = None
    if promised and row["cache_key"] and found is not None and found.resolved is not None:
        key = _joined(row["cache_key"].partition(":")[0], found.resolved)
    if key == row["cache_key"] and row["environment"] == digest:
        return
    with store.database.write(durable=False) as connection:
        connection.execute(
            "UPDATE task SET cache_key = ?, environment = ? WHERE id = ? AND token = ? AND status = 'in_progress'",
            (key, digest, lease.task, lease.token),
        )


def key_with(connection: sqlite3.Connection, digest: str, key: str) -> tuple[str, bool]:
    """The key of a task that runs in an environment, and whether it can serve: not before that was built once."""
    row = connection.execute("SELECT resolved FROM environment WHERE digest = ?", (digest,)).fetchone()
    if row is None or row["resolved"] is None:
        return f"{key}:", False
    return _joined(key, json.loads(row["resolved"])), True


def _joined(key: str, resolved: tuple[str, ...] | list[str]) -> str:
    return f"{key}:{hashing.combine('resolved', *resolved)}"
