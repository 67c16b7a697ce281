"""``${STEP.…}`` in parameters: what another step of the run has, known once it has ended.

The texts are checked when the pipeline is built (`minipipe.sdk.references`); here they are filled in, inside the transaction that
lets the step go. A value that turned out not to exist (an artifact that the step did not store) fails the step with that reason.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import sqlite3

from minipipe.store import blobs
from minipipe.store.home import Store

PATTERN = re.compile(r"\$\{([^{}]*)\}")


class Missing(Exception):
    """A reference that leads nowhere; the text says what is missing."""


def fill(store: Store, connection: sqlite3.Connection, task_id: int, run_id: int) -> str:
    """Put values in the place of all placeholders of a task. Part of the caller's transaction.

    Returns:
        "" or, if one leads nowhere, which and why.
    """
    rows = connection.execute("SELECT section, name, text FROM placeholder WHERE task_id = ?", (task_id,)).fetchall()
    for row in rows:
        try:
            text = PATTERN.sub(lambda match: value_of(store, connection, run_id, match[1]), row["text"])
        except Missing as missing:
            return f"parameter {row['section']}/{row['name']}: {missing}"
        connection.execute(
            "INSERT INTO parameter (task_id, section, name, text, value) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (task_id, section, name) DO UPDATE SET text = excluded.text, value = excluded.value",
            (task_id, row["section"], row["name"], text, json.dumps(text)),
        )
    return ""


def split(reference: str) -> list[str]:
    """The dotted parts of a reference; a dot inside a name is written ``\\.``."""
    return [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", reference)]


def value_of(store: Store, connection: sqlite3.Connection, run_id: int, reference: str) -> str:
    """The text that a reference stands for.

    Raises:
        Missing: the step, or what is asked of it, is not there.
    """
    step, *parts = split(reference)
    task = connection.execute(
        "SELECT id, uid FROM task WHERE parent_id = ? AND name = ? AND superseded = 0 ORDER BY id DESC LIMIT 1", (run_id, step)
    ).fetchone()
    if task is None:
        raise Missing(f"${{{reference}}}: no step {step!r}")
    if parts == ["id"]:
        return str(task["uid"])
    if parts[0] == "artifacts" and len(parts) >= 3:
        return _artifact(store, connection, task["id"], step, parts[1], parts[2:])
    if parts[0] == "parameters":
        return _parameter(connection, task["id"], step, reference.split(".", 2)[2])
    raise Missing(f"${{{reference}}}: a step has id, artifacts and parameters")


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
        "url": f"minipipe://{row['digest']}",
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
