"""Tasks and how they come to be: what is known of a new one, and the commit that submits it.

What is done to a task that is there is in `minipipe.store.steering`; what an attempt does to it (claim, finish) in
`minipipe.store.attempts`; what follows from an ending in `minipipe.store.promote`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors, states
from minipipe.chance import fresh_id
from minipipe.requirements import Requirements
from minipipe.store import blobs, codec, environments, names, naming, promote
from minipipe.store.home import Store


@dataclass(frozen=True, slots=True)
class Parameter:
    """A cell ``section/name`` of a task.

    Attributes:
        text: the value as ClearML writes it.
        type: type tag ("int", "float", "list/int" …), "" for None and str.
        value: the typed value as JSON.
        key: digest of the value, for cache keys of results.
        declared: the type that code declares, see `minipipe.sdk.declared`.
        usual: the value that code gives it where nobody says otherwise, as `text`; None if there is none.
    """

    section: str
    name: str
    text: str
    type: str
    value: str
    key: str | None = None
    description: str | None = None
    declared: str | None = None
    usual: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A value of a task: its code, a literal input, or (with `encoded` None) a reference to another task's output.

    With `published` the parent shows it as an artifact of that name (ClearML keeps what is passed to a step with the pipeline).
    """

    role: str
    name: str
    encoded: codec.Encoded | None = None
    source_id: int | None = None
    source_name: str | None = None
    published: str | None = None


@dataclass(frozen=True, slots=True)
class Monitor:
    """What of a step is mirrored onto its run (ClearML's ``monitor_metrics`` and ``monitor_artifacts``)."""

    kind: str
    title: str
    series: str
    to_title: str
    to_series: str


@dataclass(frozen=True, slots=True)
class NewTask:
    """All that is known of a task when it is submitted. See the columns of ``task`` in `minipipe.store.schema`."""

    type: str
    name: str
    project: str
    entry: dict[str, Any]
    parent_id: int | None = None
    template_id: int | None = None  # what it is a copy of: parameters, configuration and code come from there
    queue: str | None = None
    controller: bool = False
    is_run: bool = False
    nested: bool = False  # a run that is a step of its parent
    adopts: int | None = None  # a draft that becomes the step, instead of a new task
    version: str | None = None
    session: str = ""
    private: bool = False
    draft: bool = False
    hold: str | None = None
    gate: bool = False
    max_retries: int = 0
    ask_retry: bool = False
    time_limit_s: float | None = None
    environment: Requirements | None = None  # packages that the worker's own Python may not have
    tolerated: bool = False
    tolerates_abort: bool = False
    passes: tuple[str, ...] = ()  # bad endings after which its children run all the same
    abort_on_failure: bool = False
    comment: str | None = None  # default the template's
    use_cache: bool = False
    code: tuple[str, str, str, str] | None = None  # key, name, source, parts as JSON
    key_base: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    configurations: tuple[tuple[str, str], ...] = ()  # name, text
    placeholders: tuple[tuple[str, str, str], ...] = ()  # section, name, text with ${…}
    links: tuple[Link, ...] = ()
    parents: tuple[tuple[int, str], ...] = ()  # (task id, kind of edge)
    monitors: tuple[Monitor, ...] = ()
    tags: tuple[str, ...] = ()
    system_tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task as it stands right after `submit`."""

    id: int
    uid: str
    status: str
    run_name: str | None


def submit(store: Store, new: NewTask, durable: bool = True) -> Submitted:
    """Store a task and let it go: queued, completed from the cache, or pending until its parents have ended.

    A draft and a run stay `created`: the first waits for a person, the second is started by `attempts.start_here` or enqueued.

    Args:
        store: where to.
        new: the task.
        durable: False for a step of a run: it is told to nobody but the run's logic, which a power cut ends too, and any later
            durable commit (an ending, a value that is handed out) makes it durable. A kill of the process never loses it.

    Transaction effect: one commit; staged bytes become blobs in it.
    """
    naming.checked("step" if new.parent_id is not None and not new.is_run else "task", new.name)
    for tag in new.tags:
        naming.checked("tag", tag)
    now = time.time()
    waits = new.draft or (new.is_run and not new.nested)
    with store.database.write(durable) as connection:
        make = _insert if new.adopts is None else _adopt
        task_id, uid, run_name = make(store, connection, new, now)
        if new.template_id is not None:
            copy_facts(connection, new.template_id, task_id, now)
        if new.comment is not None:
            connection.execute("UPDATE task SET comment = ? WHERE id = ?", (new.comment, task_id))
        if new.environment is not None:
            digest = environments.note(connection, new.environment, now)
            connection.execute("UPDATE task SET environment = ? WHERE id = ?", (digest, task_id))
        for link in new.links:
            insert_link(store, connection, task_id, link, now)
        publish(connection, task_id, new)
        for name, text in new.configurations:
            values = (task_id, name, text)
            connection.execute(
                "INSERT INTO configuration (task_id, name, text) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET text = excluded.text",
                values,
            )
        for section, name, text in new.placeholders:
            connection.execute("INSERT INTO placeholder VALUES (?, ?, ?, ?)", (task_id, section, name, text))
        if new.parameters:
            insert_parameters(connection, task_id, new.parameters)
        for tag, system in [(tag, 0) for tag in new.tags] + [(tag, 1) for tag in new.system_tags]:
            connection.execute("INSERT OR IGNORE INTO tag VALUES (?, ?, ?)", (task_id, tag, system))
        for m in new.monitors:
            monitor = (task_id, m.kind, m.title, m.series, m.to_title, m.to_series)
            connection.execute("INSERT OR IGNORE INTO monitor VALUES (?, ?, ?, ?, ?, ?)", monitor)
        if new.parents:
            insert_edges(connection, task_id, new.parents, now)
        if not waits:
            promote.promote(store, connection, [task_id], now)
        status = connection.execute("SELECT status FROM task WHERE id = ?", (task_id,)).fetchone()[0]
    for link in new.links:
        if link.encoded is not None and link.encoded.writer is not None:
            link.encoded.writer.close()
    return Submitted(task_id, uid, status, run_name)


def _insert(store: Store, connection: sqlite3.Connection, new: NewTask, now: float) -> tuple[int, str, str | None]:
    uid = fresh_id()
    project = _project_id(store, connection, new.project)
    if new.queue not in (None, "default", "services"):  # these two are always there
        naming.checked("queue", new.queue)
        connection.execute("INSERT OR IGNORE INTO queue VALUES (?, ?, 0, ?)", (new.queue, fresh_id(), now))
    if new.code is not None:
        connection.execute("INSERT OR IGNORE INTO code VALUES (?, ?, ?, ?)", new.code)
    run_name = names.unused(connection) if new.is_run else None
    row = connection.execute(
        "INSERT INTO task (uid, type, name, project_id, parent_id, template_id, placeholders, run_name, version, status, queue,"
        " controller, nested, session,"
        " private, hold, gate, max_retries, ask_retry, time_limit_s, tolerated, tolerates_abort, passes,"
        " abort_on_failure, use_cache, code_key, key_base,"
        " entry, settings, created_at, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
        " RETURNING id",
        (
            uid,
            new.type,
            new.name,
            project,
            new.parent_id,
            new.template_id,
            int(bool(new.placeholders) or any("${" in (link.source_name or "") for link in new.links)),
            run_name,
            new.version,
            states.CREATED if new.draft or (new.is_run and not new.nested) else states.PENDING,
            new.queue,
            int(new.controller),
            int(new.nested),
            new.session,
            int(new.private),
            new.hold,
            int(new.gate),
            new.max_retries,
            int(new.ask_retry),
            new.time_limit_s,
            int(new.tolerated),
            int(new.tolerates_abort),
            " ".join(new.passes),
            int(new.abort_on_failure),
            int(new.use_cache),
            new.code[0] if new.code else None,
            new.key_base,
            json.dumps(new.entry),
            json.dumps(new.settings),
            now,
            now,
        ),
    ).fetchall()[0]
    return row["id"], uid, run_name


def _adopt(store: Store, connection: sqlite3.Connection, new: NewTask, now: float) -> tuple[int, str, str | None]:
    """Make a draft the step that is submitted (ClearML's ``clone_base_task=False``); what it runs is its own.

    Raises:
        IllegalMove: it is no draft any more; nothing was changed.
    """
    row = connection.execute("SELECT uid, status, run_name FROM task WHERE id = ?", (new.adopts,)).fetchone()
    if row["status"] != states.CREATED:
        raise errors.IllegalMove(
            f"task {row['uid'][:8]} is {row['status']} and cannot be a step itself",
            f"step {new.name!r} runs it, not a copy",
            "clone_base_task=True runs a copy",
        )
    if new.queue not in (None, "default", "services"):
        naming.checked("queue", new.queue)
        connection.execute("INSERT OR IGNORE INTO queue VALUES (?, ?, 0, ?)", (new.queue, fresh_id(), now))
    connection.execute(
        "UPDATE task SET name = ?, parent_id = ?, nested = ?, queue = ?, session = ?, private = ?, hold = ?, gate = ?,"
        " max_retries = ?, ask_retry = ?, time_limit_s = coalesce(?, time_limit_s), tolerated = ?, tolerates_abort = ?, passes = ?,"
        " placeholders = ?, use_cache = 0, key_base = ?, entry = ?, settings = json_patch(settings, ?), status = 'pending',"
        " updated_at = ? WHERE id = ?",
        (
            new.name,
            new.parent_id,
            int(row["run_name"] is not None),
            new.queue,
            new.session,
            int(new.private),
            new.hold,
            int(new.gate),
            new.max_retries,
            int(new.ask_retry),
            new.time_limit_s,
            int(new.tolerated),
            int(new.tolerates_abort),
            " ".join(new.passes),
            int(bool(new.placeholders)),
            new.key_base,
            json.dumps(new.entry),
            json.dumps(new.settings),
            now,
            new.adopts,
        ),
    )
    return int(new.adopts or 0), row["uid"], row["run_name"]


def _project_id(store: Store, connection: sqlite3.Connection, name: str) -> int:
    known = store.project_ids.get(name)  # only projects found by SELECT are kept
    if known is not None:
        return known
    row = connection.execute("SELECT id FROM project WHERE name = ?", (name,)).fetchone()
    if row is not None:
        store.project_ids[name] = int(row[0])
        return int(row[0])
    naming.checked("project", name)
    connection.execute("INSERT INTO project (uid, name) VALUES (?, ?)", (fresh_id(), name))
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])


def insert_link(store: Store, connection: sqlite3.Connection, task_id: int, link: Link, now: float) -> None:
    """Write a value of a task, or a reference to another task's. Part of the caller's transaction."""
    if link.encoded is None:
        connection.execute(
            "INSERT INTO artifact (task_id, role, name, source_id, source_name, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (task_id, link.role, link.name, link.source_id, link.source_name, now),
        )
        return
    put_artifact(store, connection, task_id, link.role, link.name, link.encoded, now, replace=False)


def publish(connection: sqlite3.Connection, task_id: int, new: NewTask) -> None:
    """Show values of a step as artifacts of its run; a second one under a name replaces the first. Part of the caller's transaction."""
    for link in new.links:
        if link.published is None:
            continue
        connection.execute(
            "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, preview, size, metadata, created_at)"
            " SELECT ?, 'output', ?, digest, codec, type, key, preview, size, metadata, created_at FROM artifact"
            " WHERE task_id = ? AND role = ? AND name = ?"
            " ON CONFLICT (task_id, role, name) DO UPDATE SET digest = excluded.digest, codec = excluded.codec,"
            " type = excluded.type, key = excluded.key, preview = excluded.preview, size = excluded.size,"
            " metadata = excluded.metadata, created_at = excluded.created_at",
            (new.parent_id, link.published, task_id, link.role, link.name),
        )


def put_artifact(
    store: Store,
    connection: sqlite3.Connection,
    task_id: int,
    role: str,
    name: str,
    encoded: codec.Encoded,
    now: float,
    replace: bool = True,
) -> None:
    """Publish staged bytes and link them; a second one under the name replaces the first. Part of the caller's transaction."""
    blobs.publish(store, connection, encoded.staged)
    if replace:
        connection.execute("DELETE FROM artifact WHERE task_id = ? AND role = ? AND name = ?", (task_id, role, name))
    connection.execute(
        "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, preview, size, metadata, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            task_id,
            role,
            name,
            encoded.staged.digest,
            encoded.codec,
            encoded.type,
            encoded.key,
            encoded.preview,
            encoded.staged.size,
            json.dumps(encoded.metadata),
            now,
        ),
    )


def insert_parameters(connection: sqlite3.Connection, task_id: int, parameters: Iterable[Parameter]) -> None:
    """Write parameters; one that is there already is replaced. Part of the caller's transaction."""
    parameters = list(parameters)
    for p in parameters:
        naming.storable("parameter name", p.name)
        naming.storable(f"parameter {p.section}/{p.name}", p.text)
    connection.executemany(
        "INSERT INTO parameter (task_id, section, name, text, type, value, key, description, declared, usual)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (task_id, section, name) DO UPDATE SET text = excluded.text,"
        " type = excluded.type, value = excluded.value, key = excluded.key,"
        " description = coalesce(excluded.description, description), declared = coalesce(excluded.declared, declared),"
        " usual = coalesce(excluded.usual, usual)",
        [(task_id, p.section, p.name, p.text, p.type, p.value, p.key, p.description, p.declared, p.usual) for p in parameters],
    )


def insert_edges(connection: sqlite3.Connection, task_id: int, parents: Sequence[tuple[int, str]], now: float) -> None:
    """Draw a task's edges, count what it waits for, skip it if a parent has ended badly. Part of the caller's transaction."""
    waiting, bad = 0, ""
    for parent_id, kind in dict(reversed(parents)).items():
        connection.execute("INSERT INTO edge VALUES (?, ?, ?)", (task_id, parent_id, kind))
        if kind == "control":
            continue
        parent = connection.execute("SELECT name, status, gate, passes FROM task WHERE id = ?", (parent_id,)).fetchone()
        if not parent["gate"] and (parent["status"] in states.GOOD or parent["status"] in parent["passes"].split()):
            continue
        if parent["status"] in states.ENDED and not parent["gate"]:
            bad = bad or f"{parent['name']} {parent['status']}"
        waiting += 1
    if bad:
        connection.execute("UPDATE task SET status = 'pending' WHERE id = ? AND status = 'created'", (task_id,))
        connection.execute(
            "UPDATE task SET status = 'skipped', reason = ?, ended_at = ?, updated_at = ?, waiting_on = ? WHERE id = ?",
            (bad, now, now, waiting, task_id),
        )
    elif waiting:
        connection.execute("UPDATE task SET waiting_on = ? WHERE id = ?", (waiting, task_id))


def copy_facts(connection: sqlite3.Connection, source_id: int, task_id: int, now: float) -> None:
    """Copy what a clone keeps beside its row. Part of the caller's transaction."""
    connection.execute(
        "INSERT INTO parameter (task_id, section, name, text, type, value, key, description, declared, usual)"
        " SELECT ?, section, name, text, type, value, key, description, declared, usual FROM parameter"
        " WHERE task_id = ? AND section <> 'return' ORDER BY id",
        (task_id, source_id),
    )
    connection.execute(
        "INSERT INTO configuration SELECT ?, name, text, kind, description FROM configuration WHERE task_id = ?",
        (task_id, source_id),
    )
    connection.execute("INSERT INTO tag SELECT ?, name, system FROM tag WHERE task_id = ?", (task_id, source_id))
    connection.execute(
        "INSERT INTO artifact (task_id, role, name, digest, codec, type, key, source_id, source_name, preview, size, metadata,"
        " created_at) SELECT ?, role, name, digest, codec, type, key, source_id, source_name, preview, size, metadata, ?"
        " FROM artifact WHERE task_id = ? AND role IN ('code', 'input', 'reference') ORDER BY id",
        (task_id, now, source_id),
    )
