"""What a task says of itself while it runs: metrics, artifacts, progress, tags; and how these are read.

Writes by a step carry its lease and are fenced like an ending: an attempt that lost its task stores nothing
(`AttemptLost`). Metrics are committed one by one without a sync: they can be repeated, and a kill of the process loses none.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.context import Lease
from minipipe.store import blobs, codec, formats, monitors, naming, tasks
from minipipe.store.home import Store


@contextmanager
def fenced(store: Store, lease: Lease | None, durable: bool) -> Iterator[sqlite3.Connection]:
    """A write transaction that only the present owner of the task gets through.

    Raises:
        AttemptLost: the attempt does not own its task any more; the transaction is rolled back.
    """
    with store.database.write(durable=durable) as connection:
        if lease is not None:
            row = connection.execute("SELECT token, status FROM task WHERE id = ?", (lease.task,)).fetchone()
            if row is None or row["token"] != lease.token or row["status"] != "in_progress":
                raise errors.AttemptLost(
                    f"attempt {lease.attempt} of task {lease.uid[:8]} does not own it any more",
                    "it was stopped, or taken for dead and given to another worker; nothing was stored",
                )
        yield connection


def report(
    store: Store, lease: Lease | None, task_id: int, title: str, series: str, value: float | None, iteration: int | None
) -> None:
    """Append a metric point; one without iteration is a single value. Monitored points go to the run in the same transaction.

    Transaction effect: one commit without sync.
    """
    now, attempt = time.time(), lease.attempt if lease else 0
    with fenced(store, lease, durable=False) as connection:
        connection.execute(
            "INSERT INTO metric (task_id, attempt, title, series, iteration, value, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (task_id, attempt, title, series, iteration, value, now),
        )
        connection.execute(
            "INSERT INTO metric (task_id, attempt, title, series, iteration, value, at)"
            " SELECT t.parent_id, p.attempt, m.to_title, m.to_series, ?, ?, ? FROM monitor m JOIN task t ON t.id = m.task_id"
            " JOIN task p ON p.id = t.parent_id WHERE m.task_id = ? AND m.kind = 'metric' AND m.title = ? AND m.series = ?",
            (iteration, value, now, task_id, title, series),
        )


def upload(store: Store, lease: Lease | None, task_id: int, name: str, value: Any) -> None:
    """Store a value as an artifact of a task, losing nothing of it; see `store_artifact`."""
    store_artifact(store, lease, task_id, name, codec.encode(store, value))


def upload_object(
    store: Store,
    lease: Lease | None,
    task_id: int,
    name: str,
    value: Any,
    wish: formats.Wish,
    metadata: dict[str, str],
    preview: str | None = None,
) -> None:
    """Store an object as a file of the format that its type has (ClearML's rule); see `store_artifact`.

    Raises:
        UsageError: it cannot be stored as wished.
    """
    encoded = codec.described(formats.encode(store, name, value, wish), metadata)
    if preview is not None:
        encoded = replace(encoded, preview=preview[:_PREVIEW_CHARACTERS])
    store_artifact(store, lease, task_id, name, encoded)


_PREVIEW_CHARACTERS = 64 << 10


def store_artifact(store: Store, lease: Lease | None, task_id: int, name: str, encoded: codec.Encoded) -> None:
    """Store staged bytes as an artifact; a second one under the name replaces the first. Transaction effect: one durable commit."""
    try:
        naming.checked("artifact", name)
        with fenced(store, lease, durable=True) as connection:
            tasks.put_artifact(store, connection, task_id, "output", name, encoded, time.time())
            monitors.mirror(connection, task_id)
    except BaseException:
        if encoded.writer is not None and encoded.staged.path is not None and encoded.staged.path.exists():
            encoded.writer.discard()
        raise
    finally:
        if encoded.writer is not None:
            encoded.writer.close()


def artifact_row(store: Store, task_id: int, name: str, role: str = "output") -> sqlite3.Row | None:
    """The row of an artifact with its inline bytes, None if there is none."""
    return store.database.row(
        "SELECT a.*, b.bytes FROM artifact a LEFT JOIN blob b ON b.digest = a.digest"
        " WHERE a.task_id = ? AND a.role = ? AND a.name = ?",
        (task_id, role, name),
    )


def artifacts_of(store: Store, task_id: int) -> list[sqlite3.Row]:
    """The rows of a task's artifacts, in upload order."""
    return store.database.rows("SELECT * FROM artifact WHERE task_id = ? AND role = 'output' ORDER BY id", (task_id,))


def outputs_of(store: Store, task_id: int) -> list[sqlite3.Row]:
    """Artifacts of a task in ClearML's words: key, type, mode, uri, content_size, timestamp (seconds since 1970)."""
    return store.database.rows(
        "SELECT name AS key, type, 'output' AS mode, 'minipipe://' || digest AS uri, size AS content_size, created_at AS timestamp"
        " FROM artifact WHERE task_id = ? AND role = 'output' ORDER BY id",
        (task_id,),
    )


def row_of_digest(store: Store, digest: str) -> dict[str, Any] | None:
    """A row for bytes that an artifact, a model or a plot has, as that of an artifact; None if none has them."""
    row = store.database.row("SELECT * FROM artifact WHERE digest = ? AND role = 'output' ORDER BY id DESC LIMIT 1", (digest,))
    if row is not None:
        return dict(row)
    row = store.database.row(
        "SELECT file, name, size FROM model WHERE digest = ?1 UNION ALL"
        " SELECT file, series || iif(file = '', '.json', '') AS name, size FROM plot WHERE digest = ?1 LIMIT 1",
        (digest,),
    )
    if row is None:
        return None
    metadata = json.dumps({"name": row["file"] or row["name"]})
    return {"name": row["name"], "codec": "file", "type": "custom", "digest": digest, "size": row["size"], "metadata": metadata}


def value_of(store: Store, task_id: int, name: str, scratch: Path) -> Any:
    """The value of a task's output, from its ``return`` parameters or its artifacts; verified before it is decoded.

    Raises:
        NotFound: no such output.
        ArtifactError: damaged, or cannot be decoded here. A damaged one is not served from the cache again.
    """
    scalar = store.database.row(
        "SELECT value FROM parameter WHERE task_id = ? AND section = 'return' AND name = ?", (task_id, name)
    )
    if scalar is not None:
        return json.loads(scalar["value"])
    row = artifact_row(store, task_id, name)
    if row is None:
        raise errors.NotFound(f"the task has no output {name!r}")
    what = f"artifact {name!r}"
    try:
        data = blobs.read(store, row["digest"], row["bytes"], what)
    except errors.ArtifactError:
        forget_damaged(store, row["digest"])
        raise
    return codec.decode(data, row["codec"], json.loads(row["metadata"]), scratch, what)


def forget_damaged(store: Store, digest: str) -> int:
    """Drop the cache entries of all tasks that have this blob among their outputs: they would serve damage; returns how many."""
    with store.database.write() as connection:
        return connection.execute(
            "DELETE FROM cache WHERE task_id IN (SELECT task_id FROM artifact WHERE digest = ? AND role = 'output')", (digest,)
        ).rowcount


def set_progress(store: Store, lease: Lease | None, task_id: int, percent: int) -> None:
    """Note how far a task is, 0 to 100. Transaction effect: one commit without sync."""
    with fenced(store, lease, durable=False) as connection:
        connection.execute("UPDATE task SET progress = ? WHERE id = ?", (percent, task_id))


def add_tags(store: Store, task_id: int, tags: list[str]) -> None:
    """Tag a task. Transaction effect: one durable commit."""
    for tag in tags:
        naming.checked("tag", tag)
    with store.database.write() as connection:
        connection.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?, 0)", [(task_id, tag) for tag in tags])
        connection.execute("UPDATE task SET updated_at = ? WHERE id = ?", (time.time(), task_id))


def points(store: Store, task_id: int) -> list[sqlite3.Row]:
    """All metric points of a task's last attempt, in the order they were reported; a cached task shows those of its original."""
    return store.database.rows(
        "SELECT m.* FROM task t JOIN task s ON s.id = coalesce(t.cached_from, t.id)"
        " JOIN metric m ON m.task_id = s.id AND (m.attempt IN (0, s.attempt) OR s.parent_id IS NULL) WHERE t.id = ? ORDER BY m.id",
        (task_id,),
    )


def parameters(store: Store, task_id: int) -> list[sqlite3.Row]:
    """All parameters of a task in the order they were stored."""
    return store.database.rows(
        "SELECT section, name, text, type, value, description, declared, usual FROM parameter WHERE task_id = ? ORDER BY id",
        (task_id,),
    )


def type_of_parameter(store: Store, task_id: int, section: str, name: str) -> str:
    """The type tag of a parameter, "" if it has none or is not there."""
    row = store.database.row(
        "SELECT type FROM parameter WHERE task_id = ? AND section = ? AND name = ?", (task_id, section, name)
    )
    return str(row["type"] or "") if row else ""


def names_of(store: Store, task_id: int) -> tuple[str, str]:
    """Name of a task and of its project."""
    row = store.database.row(
        "SELECT t.name, p.name AS project FROM task t JOIN project p ON p.id = t.project_id WHERE t.id = ?", (task_id,)
    )
    return ("", "") if row is None else (row["name"], row["project"])


def settings_of(store: Store, task_id: int) -> dict[str, Any]:
    """Recorded arguments of a task, by name."""
    row = store.database.row("SELECT settings FROM task WHERE id = ?", (task_id,))
    found: dict[str, Any] = json.loads(row["settings"]) if row else {}
    return found


def last_iteration(store: Store, task_id: int) -> int | None:
    """The highest iteration that a task reported, None if it reported none; a cached task shows that of its original."""
    row = store.database.row(
        "SELECT max(m.iteration) FROM task t JOIN metric m ON m.task_id = coalesce(t.cached_from, t.id) WHERE t.id = ?",
        (task_id,),
    )
    return None if row is None or row[0] is None else int(row[0])


def log_of(store: Store, task_id: int) -> Path:
    """Where a task's last attempt printed to; a cached task shows the log of its original. The file may not exist."""
    row = store.database.row(
        "SELECT s.uid, s.attempt FROM task t JOIN task s ON s.id = coalesce(t.cached_from, t.id) WHERE t.id = ?", (task_id,)
    )
    if row is None:
        raise errors.NotFound("the task was deleted")
    return store.log_path(row["uid"], max(row["attempt"], 1))


def tags(store: Store, task_id: int, system: bool = False) -> list[str]:
    """Tags of a task, sorted."""
    sql = "SELECT name FROM tag WHERE task_id = ? AND system = ? ORDER BY name"
    return [row["name"] for row in store.database.rows(sql, (task_id, int(system)))]


def project_of(store: Store, *, uid: str | None = None, name: str | None = None, row_id: int | None = None) -> sqlite3.Row | None:
    """A project by id, exact name or row id, None if there is none."""
    return store.database.row("SELECT * FROM project WHERE uid = ? OR name = ? OR id = ?", (uid, name, row_id))


def last_ended(store: Store, project: str, name: str, kind: str) -> int | None:
    """Row id of the last task of these names and this type that has ended, None if there is none; runs and what is archived do not
    count."""
    row = store.database.row(
        "SELECT t.id FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.name = ? AND t.archived = 0"
        " AND t.type = ? AND t.run_name IS NULL AND t.status IN ('completed', 'failed', 'stopped') ORDER BY t.id DESC LIMIT 1",
        (project, name, kind),
    )
    return int(row["id"]) if row else None


def last_begun(store: Store, project: str, name: str, kind: str) -> sqlite3.Row | None:
    """The last task that a script began under these names (`Task.init`), None if none did.

    Beside columns of ``task`` it has ``kept``: it holds artifacts or models, and ``served``: a worker ran it.
    """
    return store.database.row(
        "SELECT t.id, t.status, t.archived, t.created_at, t.settings, t.run_name,"
        " EXISTS (SELECT 1 FROM artifact a WHERE a.task_id = t.id AND a.role = 'output')"
        " OR EXISTS (SELECT 1 FROM task_model l WHERE l.task_id = t.id) AS kept,"
        " EXISTS (SELECT 1 FROM event e JOIN worker w ON w.id = e.worker_id WHERE e.task_id = t.id AND w.kind = 'agent') AS served"
        " FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.name = ? AND t.type = ?"
        " AND t.template_id IS NULL AND json_extract(t.settings, '$.init') ORDER BY t.id DESC LIMIT 1",
        (project, name, kind),
    )
