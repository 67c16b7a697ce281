"""A store for one test: copied from a closed template, left without processes and locks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from minipipe.sdk import local, session
from minipipe.store import workers
from minipipe.store.home import Store

_PATIENCE_S = 2.0


def make_template(path: Path) -> Path:
    """A closed, empty store; making one imports sqlite-utils and syncs, copying one does not."""
    Store.open(path, durability="fast").close()
    os.truncate(path / "ballast", 0)
    return path


def copy(template: Path, path: Path) -> Store:
    """A fresh store, with an id of its own. Transaction effect: one commit."""
    shutil.copytree(template, path)
    store = Store.open(path, create=False, durability="fast")
    store.become_another()
    return store


def leave(store: Store) -> list[str]:
    """End what this process has to do with a store, and see who else is still there.

    Returns:
        A line for each process that was left running; it has been killed.
    """
    local.stop_workers(store.path)
    session.forget(store.path)
    end = time.monotonic() + _PATIENCE_S
    while (left := workers.alive(store)) and time.monotonic() < end:
        time.sleep(0.01)
    found = []
    for row in left:
        found.append(f"{row['kind']} {row['name'] or row['uid'][:8]}, process {row['pid']}")
        if row["pid"] != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(row["pid"], signal.SIGKILL)
    store.close()
    return found
