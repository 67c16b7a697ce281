"""Models: weights with a name, a configuration, labels and metadata, made or used by tasks.

A model is a thing of its own: it has an id, belongs to a project, and stays when the task that made it is retried (a checkpoint is
what the next attempt goes on from). Its weights are a blob (`digest`, under the name `file`; `packed` says that they are a zip of
several files), or they were only registered and lie at `url`, which minipipe never reads by itself, or there are none yet.

Tasks and models are linked by role (``input``, ``output``) and by a name that is the task's own word for the model: read the links with
`of_task`, all models with `query`, one with `by_uid`. A monitored model of a step is linked to its run, too
(`minipipe.store.monitors`); a step from the cache has the links of its original. Nothing here decodes anything.

What is written for a task is fenced by the attempt's lease like every report. A published model refuses new weights and
configuration.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.context import Lease
from minipipe.store import blobs, monitors, naming
from minipipe.store.home import Store
from minipipe.store.records import fenced

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True, slots=True)
class Model:
    """One model as it is stored.

    Attributes:
        id: row id.
        uid: 32 hex digits, what people see.
        name: its name.
        project: name of its project.
        project_uid: id of its project.
        task: id of the task that made it; None if it was imported, or that task was deleted.
        framework: "PyTorch", "ScikitLearn" …, "" if nobody said.
        comment: free text.
        config: its configuration ("design") as text.
        labels: name -> number.
        tags, system_tags: sorted.
        metadata: key -> {"value": text, "type": text}.
        digest: blob of its weights, None if there are none here.
        file: file name of the weights.
        size: bytes of the weights.
        packed: the weights are a zip of several files.
        url: where weights lie that were only registered.
        iteration: what the task was at when it stored them.
        published, archived: as they say.
        created_at, updated_at: seconds since 1970.
    """

    id: int
    uid: str
    name: str
    project: str
    project_uid: str
    task: str | None
    framework: str
    comment: str
    config: str
    labels: dict[str, int]
    tags: tuple[str, ...]
    system_tags: tuple[str, ...]
    metadata: dict[str, dict[str, str]]
    digest: str | None
    file: str
    size: int
    packed: bool
    url: str | None
    iteration: int | None
    published: bool
    archived: bool
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Linked:
    """A model of a task.

    Attributes:
        role: `INPUT` or `OUTPUT`.
        name: the task's word for it.
        model: the model.
    """

    role: str
    name: str
    model: Model


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model to make; see `Model`."""

    name: str
    project: str
    task_id: int | None = None
    framework: str = ""
    comment: str = ""
    config: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    tags: Sequence[str] = ()
    system_tags: Sequence[str] = ()
    url: str | None = None
    packed: bool = False


# -- reading ------------------------------------------------------------------------------------------------------------

_SELECT = (
    "SELECT m.*, p.name AS project, p.uid AS project_uid, t.uid AS task FROM model m JOIN project p ON p.id = m.project_id"
    " LEFT JOIN task t ON t.id = m.task_id"
)
_JSON = {"labels": dict, "metadata": dict, "tags": tuple, "system_tags": tuple}


def _model(row: sqlite3.Row) -> Model:
    facts = {name: row[name] for name in Model.__slots__}
    facts.update({name: kind(json.loads(row[name])) for name, kind in _JSON.items()})
    facts.update({name: bool(row[name]) for name in ("packed", "published", "archived")})
    return Model(**facts)


def by_uid(store: Store, uid: str) -> Model:
    """The model with exactly this id.

    Raises:
        NotFound: there is none.
    """
    row = store.database.row(f"{_SELECT} WHERE m.uid = ?", (uid,))
    if row is None:
        raise errors.NotFound(f"no model {uid!r} in {store.path}", hint="Model.query_models() lists them")
    return _model(row)


def by_id(store: Store, model_id: int) -> Model:
    """The model of a row.

    Raises:
        NotFound: it was removed.
    """
    row = store.database.row(f"{_SELECT} WHERE m.id = ?", (model_id,))
    if row is None:
        raise errors.NotFound("the model was removed")
    return _model(row)


def of_task(store: Store, task_id: int, role: str | None = None) -> list[Linked]:
    """The models of a task in the order they were linked, inputs and outputs, or those of one role."""
    rows = store.database.rows(
        f"SELECT l.role AS link_role, l.name AS link_name, x.* FROM task_model l JOIN ({_SELECT}) x ON x.id = l.model_id"
        " WHERE l.task_id = ? AND (? IS NULL OR l.role = ?) ORDER BY l.role, l.id",
        (task_id, role, role),
    )
    return [Linked(row["link_role"], row["link_name"], _model(row)) for row in rows]


def tasks_of(store: Store, model_id: int) -> list[tuple[str, str, str, str]]:
    """(task id, task name, role, the task's word for it) of all tasks that have a model, oldest link first."""
    rows = store.database.rows(
        "SELECT t.uid, t.name AS task_name, l.role, l.name FROM task_model l JOIN task t ON t.id = l.task_id"
        " WHERE l.model_id = ? ORDER BY l.id",
        (model_id,),
    )
    return [(row["uid"], row["task_name"], row["role"], row["name"]) for row in rows]


def query(
    store: Store,
    *,
    project: str | None = None,
    name: str | None = None,
    published: bool = False,
    archived: bool = False,
    url: str | None = None,
) -> list[Model]:
    """Models, newest first.

    Args:
        store: where to look.
        project: exact name of the project.
        name: exact name.
        published: only published ones.
        archived: also archived ones.
        url: only those whose weights were registered there.
    """
    wanted, values = ["1"], []
    for column, value in (("p.name", project), ("m.name", name), ("m.url", url)):
        if value is not None:
            wanted.append(f"{column} = ?")
            values.append(value)
    if published:
        wanted.append("m.published = 1")
    if not archived:
        wanted.append("m.archived = 0")
    rows = store.database.rows(f"{_SELECT} WHERE {' AND '.join(wanted)} ORDER BY m.id DESC", values)
    return [_model(row) for row in rows]


def weights(store: Store, model: Model) -> memoryview:
    """The bytes of a model's weights, verified.

    Raises:
        NotFound: there are none here (they were only registered, or never given).
        ArtifactError: missing or damaged.
    """
    if model.digest is None:
        cause = f"they were registered at {model.url}" if model.url else "none were stored yet"
        raise errors.NotFound(f"model {model.name!r} ({model.uid[:8]}) has no weights in the store", cause)
    return blobs.load(store, model.digest, f"model {model.name!r}")


def points(store: Store, model_id: int) -> list[sqlite3.Row]:
    """Scalars that were reported on a model, in order: title, series, iteration (None for single values), value, at."""
    return store.database.rows("SELECT * FROM model_metric WHERE model_id = ? ORDER BY id", (model_id,))


# -- writing ------------------------------------------------------------------------------------------------------------


def create(store: Store, lease: Lease | None, new: NewModel) -> Model:
    """Make a model. Transaction effect: one durable commit, fenced.

    Raises:
        AttemptLost: this attempt does not own its task any more.
    """
    naming.checked("project", new.project)
    now, uid = time.time(), fresh_id()
    with fenced(store, lease, durable=True) as connection:
        connection.execute("INSERT OR IGNORE INTO project (uid, name) VALUES (?, ?)", (fresh_id(), new.project))
        connection.execute(
            "INSERT INTO model (uid, name, project_id, task_id, framework, comment, config, labels, tags, system_tags, url,"
            " packed, created_at, updated_at)"
            " VALUES (?, ?, (SELECT id FROM project WHERE name = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                uid,
                new.name,
                new.project,
                new.task_id,
                new.framework,
                new.comment,
                new.config,
                json.dumps(dict(new.labels)),
                json.dumps(sorted(set(new.tags))),
                json.dumps(sorted(set(new.system_tags))),
                new.url,
                int(new.packed),
                now,
                now,
            ),
        )
    return by_uid(store, uid)


_FREE = frozenset({"name", "framework", "comment", "tags", "system_tags", "metadata", "published", "archived", "project"})
_CLOSED_BY_PUBLISHING = frozenset({"config", "labels", "url", "iteration", "packed", "task_id"})


def change(store: Store, lease: Lease | None, model_id: int, **facts: Any) -> None:
    """Change facts of a model, named as in `Model` (and ``task_id``: row of the task that made it).

    Raises:
        IllegalMove: it is published, and the fact is fixed then.
        NotFound: it was removed.

    Transaction effect: one durable commit, fenced.
    """
    assert facts.keys() <= _FREE | _CLOSED_BY_PUBLISHING, facts
    with fenced(store, lease, durable=True) as connection:
        _check(connection, model_id, bool(facts.keys() & _CLOSED_BY_PUBLISHING))
        for name, value in facts.items():
            column, stored = name, value
            if name == "project":
                naming.checked("project", str(value))
                connection.execute("INSERT OR IGNORE INTO project (uid, name) VALUES (?, ?)", (fresh_id(), value))
                found = connection.execute("SELECT id FROM project WHERE name = ?", (value,)).fetchone()
                column, stored = "project_id", found["id"]
            elif name in ("tags", "system_tags"):
                stored = json.dumps(sorted(set(value)))
            elif name in ("labels", "metadata"):
                stored = json.dumps(value)
            elif isinstance(value, bool):
                stored = int(value)
            connection.execute(f"UPDATE model SET {column} = ? WHERE id = ?", (stored, model_id))
        connection.execute("UPDATE model SET updated_at = ? WHERE id = ?", (time.time(), model_id))


def set_metadata(store: Store, model_id: int, given: Mapping[str, Mapping[str, str]], replace: bool = False) -> None:
    """Write metadata entries; with `replace` all others go. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        row = _check(connection, model_id, False)
        kept = {} if replace else json.loads(row["metadata"])
        connection.execute(
            "UPDATE model SET metadata = ?, updated_at = ? WHERE id = ?",
            (json.dumps({**kept, **{key: dict(entry) for key, entry in given.items()}}), time.time(), model_id),
        )


def _check(connection: sqlite3.Connection, model_id: int, changes_content: bool) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute("SELECT * FROM model WHERE id = ?", (model_id,)).fetchone()
    if row is None:
        raise errors.NotFound("the model was removed")
    if changes_content and row["published"]:
        raise errors.IllegalMove(
            f"model {row['name']!r} ({row['uid'][:8]}) is published and cannot be changed", hint="make a new OutputModel"
        )
    return row


def set_weights(
    store: Store,
    lease: Lease | None,
    model_id: int,
    *,
    writer: blobs.Writer | None = None,
    url: str | None = None,
    file: str = "",
    packed: bool = False,
    iteration: int | None = None,
) -> None:
    """Give a model weights in the place of those it had: bytes, or the URL where they lie.

    Args:
        store: where the model is.
        lease: of the attempt that does it.
        model_id: its row.
        writer: the bytes, all written; closed whatever happens. Or
        url: where they lie; not looked at.
        file: name of the file.
        packed: it is a zip of several files.
        iteration: what the task is at.

    Raises:
        IllegalMove: the model is published.
        AttemptLost: this attempt does not own its task any more.

    Transaction effect: one durable commit, fenced; steps that are monitored for models show it on their run at once.
    """
    with blobs.finished(writer) as staged, fenced(store, lease, durable=True) as connection:
        _check(connection, model_id, True)
        if staged is not None:
            blobs.publish(store, connection, staged)
        digest, size = (None, 0) if staged is None else (staged.digest, staged.size)
        connection.execute(
            "UPDATE model SET digest = ?, size = ?, url = ?, file = ?, packed = ?, iteration = ?, updated_at = ? WHERE id = ?",
            (digest, size, url, file, int(packed), iteration, time.time(), model_id),
        )


def link(store: Store, lease: Lease | None, task_id: int, model_id: int, role: str, name: str) -> None:
    """Say that a task uses or made a model; another model that it had under this role and name gives way (ClearML's rule).

    Transaction effect: one durable commit, fenced; a monitored output appears on the run in the same one.
    """
    with fenced(store, lease, durable=True) as connection:
        connection.execute(
            "DELETE FROM task_model WHERE task_id = ? AND role = ? AND name = ? AND model_id <> ? AND step_id IS NULL",
            (task_id, role, name, model_id),
        )
        connection.execute(
            "INSERT INTO task_model (task_id, model_id, role, name) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (task_id, model_id, role, name),
        )
        if role == OUTPUT:
            monitors.mirror(connection, task_id)


def unlink(store: Store, task_id: int, model_ids: Iterable[int], role: str) -> None:
    """Say that a task does not use models any more. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        for model_id in model_ids:
            connection.execute(
                "DELETE FROM task_model WHERE task_id = ? AND role = ? AND model_id = ?", (task_id, role, model_id)
            )


def report(
    store: Store, lease: Lease | None, model_id: int, title: str, series: str, value: float | None, iteration: int | None
) -> None:
    """Append a metric point to a model; one without iteration is a single value. Transaction effect: one commit without sync."""
    with fenced(store, lease, durable=False) as connection:
        connection.execute(
            "INSERT INTO model_metric (model_id, title, series, iteration, value, at) VALUES (?, ?, ?, ?, ?, ?)",
            (model_id, title, series, iteration, value, time.time()),
        )


# -- removing -----------------------------------------------------------------------------------------------------------


def remove(store: Store, model_id: int, force: bool = False) -> None:
    """Remove a model; its weights become garbage unless something else has the same bytes.

    Args:
        store: where it is.
        model_id: its row.
        force: even if it is published or tasks use it as an input.

    Raises:
        IllegalMove: it is published, or an input of a task, and `force` is False.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        row = _check(connection, model_id, False)
        users = connection.execute(
            "SELECT t.uid FROM task_model l JOIN task t ON t.id = l.task_id WHERE l.model_id = ? AND l.role = 'input' LIMIT 1",
            (model_id,),
        ).fetchall()
        if not force and (row["published"] or users):
            why = "is published" if row["published"] else f"is an input of task {users[0]['uid'][:8]}"
            raise errors.IllegalMove(f"model {row['name']!r} ({row['uid'][:8]}) {why}", hint="force=True removes it all the same")
        drop(connection, model_id)


def drop(connection: sqlite3.Connection, model_id: int) -> None:
    """Remove a model with all that belongs to it. Part of the caller's transaction."""
    for table in ("task_model", "model_metric", "plot"):
        connection.execute(f"DELETE FROM {table} WHERE model_id = ?", (model_id,))
    connection.execute("DELETE FROM model WHERE id = ?", (model_id,))


def forget_outputs(connection: sqlite3.Connection, task_id: int, models: bool = True) -> None:
    """Take away the models that a task made: they go unless they are published or another task has them too (ClearML's rule).

    Args:
        connection: of the caller's transaction, which this is a part of.
        task_id: row of the task.
        models: False keeps all models and only forgets that the task made them.
    """
    made = connection.execute(
        "SELECT id FROM model WHERE task_id = ? AND published = 0"
        " AND NOT EXISTS (SELECT 1 FROM task_model l WHERE l.model_id = model.id AND l.task_id <> ?)",
        (task_id, task_id),
    ).fetchall()
    for row in made if models else ():
        drop(connection, row["id"])
    connection.execute("DELETE FROM task_model WHERE task_id = ? AND role = 'output'", (task_id,))
