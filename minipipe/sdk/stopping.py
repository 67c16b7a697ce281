"""Stopping tasks, wherever they run: a worker ends its own, and a script that began its task itself is told by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

from minipipe.store import presence, steering
from minipipe.store.home import Store


def stop(store: Store, task_ids: Iterable[int], reason: str, grace_s: float | None = None) -> list[tuple[int, str]]:
    """Stop tasks and everything that runs under them; see `minipipe.store.steering.abort`.

    The process of a script that began its task itself (`Task.init`) gets SIGTERM, as a step gets it from its worker; nothing kills
    it if it goes on, but its task ends as stopped.

    Returns:
        (task id, status it had) of each task that was stopped or marked.

    Transaction effect: one durable commit.
    """
    touched = steering.abort(store, task_ids, reason, grace_s)
    for pid in presence.own_processes(store, [task_id for task_id, _ in touched]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    return touched
