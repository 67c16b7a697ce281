"""What a task records of itself beside parameters and results: settings without effect, facts of its code; what it takes back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from minipipe.context import Lease
from minipipe.store import records
from minipipe.store.edits import row_of
from minipipe.store.home import Store


def delete_artifacts(store: Store, lease: Lease | None, task_id: int, names_: Sequence[str]) -> list[str]:
    """Remove artifacts of a task; it serves no cached steps then.

    Returns:
        Names that there was no artifact of.

    Raises:
        AttemptLost: the attempt does not own its task any more; nothing was removed.

    Transaction effect: one durable commit, fenced.
    """
    missing = []
    with records.fenced(store, lease, durable=True) as connection:
        for name in names_:
            gone = connection.execute(
                "DELETE FROM artifact WHERE task_id = ? AND role = 'output' AND name = ? RETURNING id", (task_id, name)
            ).fetchall()
            if not gone:
                missing.append(name)
        connection.execute("DELETE FROM cache WHERE task_id = ?", (task_id,))
    return missing


def set_setting(store: Store, task_id: int, name: str, value: Any) -> None:
    """Record an argument of a task, in any status; None forgets it. Transaction effect: one durable commit."""
    with store.database.write() as connection:
        found = json.loads(row_of(connection, task_id)["settings"])
        found = {**found, name: value} if value is not None else {key: item for key, item in found.items() if key != name}
        connection.execute("UPDATE task SET settings = ?, updated_at = ? WHERE id = ?", (json.dumps(found), time.time(), task_id))


def expect_grace(store: Store, lease: Lease, grace_s: float) -> None:
    """Have whoever stops this attempt wait so many seconds for its end, unless the stop says otherwise.

    Raises:
        AttemptLost: the attempt does not own its task any more.

    Transaction effect: one commit without sync, fenced.
    """
    with records.fenced(store, lease, durable=False) as connection:
        connection.execute("UPDATE task SET abort_grace_s = ? WHERE id = ?", (grace_s, lease.task))


def set_facts(store: Store, task_id: int, found: dict[str, str]) -> None:
    """Add facts about its code to what a task runs, in any status: they say where it is from, not what it is. "" takes one away.

    Transaction effect: one durable commit.
    """
    with store.database.write() as connection:
        entry = {**json.loads(row_of(connection, task_id)["entry"]), **found}
        kept = {key: value for key, value in entry.items() if value != "" or key not in found}
        connection.execute("UPDATE task SET entry = ? WHERE id = ?", (json.dumps(kept), task_id))
