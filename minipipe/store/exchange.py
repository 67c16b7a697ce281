"""The code and the fixed arguments of a task as plain data, and back: what `Task.export_task` writes and `import_task` reads."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from minipipe.store import blobs
from minipipe.store.home import Store
from minipipe.store.records import fenced

_COLUMNS = ("role", "name", "codec", "type", "key", "preview", "metadata")


def links_of(store: Store, task_id: int) -> list[dict[str, Any]]:
    """Code and input artifacts of a task, with their bytes as base64; inputs that other steps give are not among them.

    Raises:
        ArtifactError: the stored bytes of one are damaged.
    """
    rows = store.database.rows(
        "SELECT role, name, codec, type, key, preview, metadata, digest FROM artifact"
        " WHERE task_id = ? AND role IN ('code', 'input') AND digest IS NOT NULL ORDER BY id",
        (task_id,),
    )
    return [
        {
            **{column: row[column] for column in _COLUMNS},
            "bytes": base64.b64encode(blobs.load(store, row["digest"], f"input {row['name']!r}")).decode(),
        }
        for row in rows
    ]


def put_links(store: Store, task_id: int, links: list[dict[str, Any]]) -> None:
    """Give a task the code and inputs that `links_of` gave, in the place of those of the same names.

    Transaction effect: one durable commit.
    """
    writers = []
    try:
        for link in links:
            writer = blobs.Writer(store)
            writers.append(writer)
            writer.write(base64.b64decode(link["bytes"]))
        staged = [writer.finish() for writer in writers]
        with fenced(store, None, durable=True) as connection:
            for link, one in zip(links, staged, strict=True):
                blobs.publish(store, connection, one)
                connection.execute(
                    "DELETE FROM artifact WHERE task_id = ? AND role = ? AND name = ?", (task_id, link["role"], link["name"])
                )
                connection.execute(
                    "INSERT INTO artifact (task_id, role, name, codec, type, key, preview, metadata, digest, size, created_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (task_id, *(link[column] for column in _COLUMNS), one.digest, one.size, time.time()),
                )
    except BaseException:
        for writer in writers:
            if writer.size > blobs.INLINE_LIMIT_BYTES:
                writer.discard()
        raise
    finally:
        for writer in writers:
            writer.close()


def code_of(store: Store, task_id: int) -> dict[str, Any]:
    """What a task runs beside its entry: its type of task, limits and captured source, as plain data."""
    row = store.database.row(
        "SELECT t.entry, t.settings, t.max_retries, t.time_limit_s, t.code_key, c.name, c.source, c.parts FROM task t"
        " LEFT JOIN code c ON c.key = t.code_key WHERE t.id = ?",
        (task_id,),
    )
    if row is None:
        return {}
    code = None if row["code_key"] is None else {key: row[key] for key in ("name", "source", "parts")}
    return {
        "entry": json.loads(row["entry"]),
        "settings": json.loads(row["settings"]),
        "max_retries": row["max_retries"],
        "time_limit_s": row["time_limit_s"],
        "code_key": row["code_key"],
        "code": code,
    }


def put_code(store: Store, task_id: int, found: dict[str, Any]) -> None:
    """Make a task run what `code_of` gave. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        if found.get("code") is not None:
            code = found["code"]
            connection.execute(
                "INSERT OR IGNORE INTO code VALUES (?, ?, ?, ?)", (found["code_key"], code["name"], code["source"], code["parts"])
            )
        connection.execute(
            "UPDATE task SET entry = ?, settings = ?, max_retries = ?, time_limit_s = ?, code_key = ?, key_base = NULL,"
            " updated_at = ? WHERE id = ?",
            (
                json.dumps(found["entry"]),
                json.dumps(found.get("settings") or {}),
                int(found.get("max_retries") or 0),
                found.get("time_limit_s"),
                found.get("code_key"),
                time.time(),
                task_id,
            ),
        )
