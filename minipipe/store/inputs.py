"""What an attempt gets to see: its spec, as plain data and opaque bytes, so that the step host never opens the database."""

from __future__ import annotations

import json
import sys
from typing import Any

from minipipe.settings import Settings
from minipipe.store.attempts import Claim
from minipipe.store.home import Store

DEFAULT_SEED = 1337  # ClearML's


def spec_of(store: Store, claim: Claim, settings: Settings) -> tuple[dict[str, Any], list[bytes]]:
    """The spec of a claimed task and the payloads that it refers to by index. Transaction effect: one read."""
    payloads: list[bytes] = []
    inputs: list[dict[str, Any]] = []
    code: dict[str, Any] | None = None
    more: dict[str, dict[str, Any]] = {}  # other code: helpers, serializers
    database, task = store.database, claim.lease.task
    rows = database.rows(
        "SELECT a.role, a.name, a.codec, a.digest, a.metadata, a.source_id, a.source_name, a.preview, b.bytes"
        " FROM artifact a LEFT JOIN blob b ON b.digest = a.digest"
        " WHERE a.task_id = ? AND a.role IN ('code', 'input', 'reference') ORDER BY a.id",
        (task,),
    )
    for row in rows:
        item: dict[str, Any] = {"name": row["name"], "codec": row["codec"], "digest": row["digest"], "payload": -1}
        if row["codec"] == "scalar" and "${" in row["source_name"]:
            item["value"] = row["preview"]  # a text that was filled in when the task was let go
        elif row["codec"] == "scalar":
            value = database.row(
                "SELECT value FROM parameter WHERE task_id = ? AND section = 'return' AND name = ?",
                (row["source_id"], row["source_name"]),
            )
            item["value"] = json.loads(value["value"]) if value else None
        elif row["bytes"] is not None:
            item["payload"] = len(payloads)
            payloads.append(row["bytes"])
        item["metadata"] = json.loads(row["metadata"])
        if row["role"] == "code" and row["name"] == "function":
            code = item
        elif row["role"] == "code":
            more[row["name"]] = item
        else:
            inputs.append(item)
    arguments = database.rows("SELECT name, value FROM parameter WHERE task_id = ? AND section = 'kwargs' ORDER BY id", (task,))
    entry = dict(claim.entry)
    spec = {
        "token": claim.lease.token,
        "attempt": claim.lease.attempt,
        "task": task,
        "uid": claim.lease.uid,
        "name": claim.name,
        "run": claim.run,
        "home": str(store.path),
        "session": claim.session,
        "private": claim.private,
        "log": str(store.log_path(claim.lease.uid, claim.lease.attempt)),
        "entry": entry,
        "seed": entry.get("seed", DEFAULT_SEED),
        "environment": {"MINIPIPE_TASK": claim.lease.uid},
        "arguments": {row["name"]: json.loads(row["value"]) for row in arguments},
        "inputs": inputs,
        "code": code,
        "more": more,
        "isolation": settings.isolation,
        "python": list(sys.version_info[:2]),
        "durability": settings.durability,
        "on_code_change": settings.on_code_change,
        "grace_s": settings.grace_s,
    }
    return spec, payloads
