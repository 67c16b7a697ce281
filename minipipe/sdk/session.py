"""What one process shares: its open store, its entry among the living, its folder for copies."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from minipipe import context, errors, settings
from minipipe.store import workers
from minipipe.store.home import Store

SESSION_VARIABLE = "MINIPIPE_SESSION"
RESUME_VARIABLE = "MINIPIPE_RESUME"

_lock = threading.RLock()
_stores: dict[Path, Store] = {}
_registrations: dict[Path, tuple[int, workers.Registration]] = {}
_scratch: list[Path] = []


def open_store() -> Store:
    """The store of the task that runs here, else the one that the settings name; opened once per process and path."""
    current = context.running()
    home = current.home if current is not None else settings.store_home()
    with _lock:
        if home not in _stores:
            _stores[home] = Store(home, settings.load_settings().durability) if current and current.worker_mode else Store.open(home)
        return _stores[home]


def registration(store: Store) -> workers.Registration:
    """This process's entry among the living; made when first needed, ended at exit."""
    with _lock:
        pid, found = _registrations.get(store.path, (0, None))
        if found is None or pid != os.getpid():
            found = workers.register(store, workers.PROCESS, session=os.environ.get(SESSION_VARIABLE, ""))
            _registrations[store.path] = (os.getpid(), found)
            atexit.register(_leave, store, found, os.getpid())
        return found


def _leave(store: Store, found: workers.Registration, pid: int) -> None:
    if pid == os.getpid():  # a forked child runs its parent's exit handlers
        with contextlib.suppress(errors.MinipipeError, OSError):
            workers.leave(store, found)


def abandon() -> None:
    """Give up what this process owns as if it had died, so that somebody else can settle it. Only before a hard exit."""
    for pid, found in _registrations.values():
        if pid == os.getpid():
            found.lock.release()


def scratch() -> Path:
    """A folder for copies of files that were results; removed at the end of this process."""
    current = context.running()
    if current is not None and current.lease is not None and current.worker_mode:
        return current.home / "tmp" / f"{current.lease.token}.d"
    with _lock:
        if not _scratch:
            folder = Path(tempfile.mkdtemp(prefix="minipipe-"))
            _scratch.append(folder)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return _scratch[0]


@dataclass(frozen=True, slots=True)
class Current:
    """The task that runs here, with what is needed to write to it."""

    store: Store
    row_id: int
    uid: str
    lease: context.Lease | None


def name() -> str:
    """The session that what is made here belongs to: that of the task that runs here, else that of the command."""
    running = context.running()
    return running.session if running is not None else os.environ.get(SESSION_VARIABLE, "")


def current() -> Current | None:
    """The task that this process executes, None if there is none."""
    running = context.running()
    return None if running is None else _find(running.uid, running.lease if running.worker_mode else None)


def current_run() -> Current | None:
    """The run that this process's task belongs to (itself, for a controller); None if there is none."""
    running = context.running()
    if running is None:
        return None
    lease = running.lease if running.worker_mode and running.run == running.uid else None
    return _find(running.run, lease)


def _find(uid: str, lease: context.Lease | None) -> Current | None:
    store = open_store()
    if lease is not None:
        return Current(store, lease.task, uid, lease)
    row = store.database.row("SELECT id FROM task WHERE uid = ?", (uid,))
    return None if row is None else Current(store, row["id"], uid, None)
