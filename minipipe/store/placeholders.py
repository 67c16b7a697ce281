"""``${STEP.…}`` in parameters: what another step of the run has, known once it has ended.

The texts are checked when the pipeline is built (`minipipe.sdk.references`); here they are filled in, inside the transaction that
lets the step go. A value that turned out not to exist (an artifact that the step did not store) fails the step with that reason.
A parameter whose type is a list, tuple or dict is JSON: each text in it is filled by itself.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any

from minipipe import hashing
from minipipe.store import blobs
from minipipe.store.home import Store

PATTERN = re.compile(r"\$\{([^{}]*)\}")
MODEL_ROLES = ("input", "output")
MODEL_FACTS = {
    "id": "m.uid",
    "name": "m.name",
    "url": "coalesce('minipipe://' || m.digest, m.url, '')",
    "project": "p.uid",
    "comment": "m.comment",
    "tags": "m.tags",
    "system_tags": "m.system_tags",
    "config_text": "m.config",
    "labels": "m.labels",
    "task": "coalesce(t.uid, '')",
    "original_task": "coalesce(t.uid, '')",
    "framework": "m.framework",
    "published": "iif(m.published, 'True', 'False')",
}
"""What a reference may ask of a model, and where it stands."""
_DOT = re.compile(r"(?<!\\)\.")


class Missing(Exception):
    """A reference that leads nowhere; the text says what is missing."""


def fill(store: Store, connection: sqlite3.Connection, task_id: int, run_id: int) -> str:
    """Put values in the place of all placeholders of a task. Part of the caller's transaction.

    Returns:
        "" or, if one leads nowhere, which and why.
    """

    def value(reference: str) -> str:
        return value_of(store, connection, run_id, reference)

    rows = connection.execute(
        "SELECT h.section, h.name, h.text, coalesce(p.type, '') AS type FROM placeholder h LEFT JOIN parameter p"
        " ON p.task_id = h.task_id AND p.section = h.section AND p.name = h.name WHERE h.task_id = ?",
        (task_id,),
    ).fetchall()
    for row in rows:
        try:
            text = _replace(row["text"], row["type"], value)
        except Missing as missing:
            return f"parameter {row['section']}/{row['name']}: {missing}"
        connection.execute(
            "INSERT INTO parameter (task_id, section, name, text, value) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (task_id, section, name) DO UPDATE SET text = excluded.text, value = excluded.value",
            (task_id, row["section"], row["name"], text, _typed(text, row["type"])),
        )
    held = connection.execute(
        "SELECT id, name, source_name FROM artifact WHERE task_id = ? AND role = 'reference' AND source_name LIKE '%${%'",
        (task_id,),
    ).fetchall()
    for row in held:  # a text with references inside a list, dict or tuple of a function step
        try:
            text = text_of(store, connection, run_id, row["source_name"])
        except Missing as missing:
            return f"argument {row['name'].partition('#')[0]}: {missing}"
        connection.execute(
            "UPDATE artifact SET codec = 'scalar', type = 'str', preview = ?, key = ? WHERE id = ?",
            (text, key_of(store, connection, run_id, row["source_name"]), row["id"]),
        )
    return ""


def text_of(store: Store, connection: sqlite3.Connection, run_id: int, text: str) -> str:
    """A text with all its references filled in.

    Raises:
        Missing: one of them leads nowhere.
    """
    return PATTERN.sub(lambda match: value_of(store, connection, run_id, match[1]), text)


def keys(store: Store, connection: sqlite3.Connection, task_id: int, run_id: int) -> dict[tuple[str, str], str]:
    """What the placeholders of a task add to its cache key: (section, name) -> text. Part of the caller's transaction."""
    rows = connection.execute("SELECT section, name, text FROM placeholder WHERE task_id = ?", (task_id,)).fetchall()
    return {(row["section"], row["name"]): key_of(store, connection, run_id, row["text"]) for row in rows}


def key_of(store: Store, connection: sqlite3.Connection, run_id: int, text: str) -> str:
    """A text for cache keys: as filled, but an id of a step is replaced by what the step holds (ids are new in every run)."""

    def stable(match: re.Match[str]) -> str:
        step, *parts = split(match[1])
        if parts == ["id"]:
            return contents_of(connection, _step(connection, run_id, step, match[1])["id"])
        return value_of(store, connection, run_id, match[1])

    return PATTERN.sub(stable, text)


def contents_of(connection: sqlite3.Connection, task_id: int) -> str:
    """Digest of what a task holds for whoever gets its id: parameters, outputs and models. A task with metrics is only equal to itself.

    Of a task that was served from the cache the one that really ran counts.
    """
    task = connection.execute(
        "SELECT s.id, s.uid, EXISTS (SELECT 1 FROM metric m WHERE m.task_id = s.id) AS measured FROM task t"
        " JOIN task s ON s.id = coalesce(t.cached_from, t.id) WHERE t.id = ?",
        (task_id,),
    ).fetchone()
    if task["measured"]:
        return str(task["uid"])
    parts = ["contents"]
    for sql in (
        "SELECT name, coalesce(nullif(key, ''), digest, '') AS key FROM artifact WHERE task_id = ? AND role = 'output'"
        " ORDER BY name",
        "SELECT section || '/' || name AS name, text AS key FROM parameter WHERE task_id = ? AND section <> 'kwargs_artifacts'"
        " ORDER BY section, name",
        "SELECT l.role || ' ' || l.name AS name, coalesce(m.digest, m.url, m.uid) AS key FROM task_model l"
        " JOIN model m ON m.id = l.model_id WHERE l.task_id = ? ORDER BY 1, 2",
    ):
        for row in connection.execute(sql, (task["id"],)).fetchall():
            parts += (row["name"], row["key"])
    return hashing.combine(*parts)


def split(reference: str, most: int = 0) -> list[str]:
    """The dotted parts of a reference; a dot inside a name is written ``\\.``.

    Args:
        reference: what stands between the braces.
        most: after so many dots the rest is one part, 0 for no limit.
    """
    return [part.replace("\\.", ".") for part in _DOT.split(reference, most)]


def _replace(text: str, kind: str, value: Callable[[str], str]) -> str:
    def filled(part: Any) -> Any:
        if isinstance(part, str):
            return PATTERN.sub(lambda match: value(match[1]), part)
        if isinstance(part, list):
            return [filled(item) for item in part]
        if isinstance(part, dict):
            return {filled(key): filled(item) for key, item in part.items()}
        return part

    if _is_structure(kind):
        return json.dumps(filled(json.loads(text)))
    return str(filled(text))


def _is_structure(kind: str) -> bool:
    return kind.partition("/")[0] in ("list", "tuple", "dict")


def _typed(text: str, kind: str) -> str:
    """The typed value as JSON: a number where the parameter is one (ClearML's rule: a text keeps the type of its cell)."""
    if _is_structure(kind):
        return text
    if kind in ("int", "float"):
        try:
            return json.dumps(int(text) if kind == "int" else float(text))
        except ValueError:
            return json.dumps(text)
    return json.dumps(text)


def _step(connection: sqlite3.Connection, run_id: int, step: str, reference: str) -> sqlite3.Row:
    task: sqlite3.Row | None = connection.execute(
        "SELECT id, uid FROM task WHERE parent_id = ? AND name = ? AND superseded = 0 ORDER BY id DESC LIMIT 1", (run_id, step)
    ).fetchone()
    if task is None:
        raise Missing(f"${{{reference}}}: no step {step!r}")
    return task


def value_of(store: Store, connection: sqlite3.Connection, run_id: int, reference: str) -> str:
    """The text that a reference stands for.

    Raises:
        Missing: the step, or what is asked of it, is not there.
    """
    step, *parts = split(reference)
    task = _step(connection, run_id, step, reference)
    if parts == ["id"]:
        return str(task["uid"])
    if parts[0] == "artifacts" and len(parts) >= 3:
        return _artifact(store, connection, task["id"], step, parts[1], parts[2:])
    if parts[0] == "parameters" and len(parts) > 1:
        return _parameter(connection, task["id"], step, split(reference, 2)[2])
    if parts[0] == "models" and len(parts) == 4:
        return _of_model(connection, task["id"], step, parts[1], int(parts[2]), parts[3])
    raise Missing(f"${{{reference}}}: a step has id, artifacts, parameters and models")


def _parameter(connection: sqlite3.Connection, task_id: int, step: str, key: str) -> str:
    section, slash, name = key.partition("/")
    row = connection.execute(
        "SELECT text FROM parameter WHERE task_id = ? AND section = ? AND name = ?",
        (task_id, section if slash else "General", name if slash else key),
    ).fetchone()
    if row is None:
        raise Missing(f"step {step!r} has no parameter {key!r}")
    return str(row["text"])


def _artifact(store: Store, connection: sqlite3.Connection, task_id: int, step: str, name: str, parts: list[str]) -> str:
    row = connection.execute(
        "SELECT * FROM artifact WHERE task_id = ? AND role = 'output' AND name = ?", (task_id, name)
    ).fetchone()
    if row is None:
        raise Missing(f"step {step!r} has no artifact {name!r}")
    facts = {
        "url": bytes(blobs.load(store, row["digest"], name)).decode() if row["codec"] == "url" else f"minipipe://{row['digest']}",
        "name": name,
        "type": row["type"],
        "size": row["size"],
        "preview": row["preview"],
        "mode": "output",
        "timestamp": datetime.datetime.fromtimestamp(row["created_at"], datetime.UTC),
    }
    if parts[0] == "hash":
        return hashlib.sha256(blobs.load(store, row["digest"], name)).hexdigest()
    if parts[0] == "metadata" and len(parts) == 2:
        metadata = json.loads(row["metadata"])
        if parts[1] not in metadata:
            raise Missing(f"artifact {name!r} of step {step!r} has no metadata {parts[1]!r}")
        return str(metadata[parts[1]])
    if len(parts) != 1 or parts[0] not in facts:
        raise Missing(f"artifact {name!r} of step {step!r} has no {'.'.join(parts)!r}")
    return str(facts[parts[0]])


def _of_model(connection: sqlite3.Connection, task_id: int, step: str, role: str, place: int, fact: str) -> str:
    rows = connection.execute(
        f"SELECT {MODEL_FACTS[fact]} AS fact FROM task_model l JOIN model m ON m.id = l.model_id JOIN project p ON p.id = m.project_id"
        " LEFT JOIN task t ON t.id = m.task_id WHERE l.task_id = ? AND l.role = ? ORDER BY l.id",
        (task_id, role),
    ).fetchall()
    try:
        found = rows[place]["fact"]
    except IndexError:
        raise Missing(f"step {step!r} has {len(rows)} {role} models, so none at {place}") from None
    return str(json.loads(found)) if fact in ("tags", "system_tags", "labels") else str(found)
