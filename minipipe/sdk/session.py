"""What one process shares: its open store, its entry among the living, its folder for copies."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from minipipe import context, errors, settings
from minipipe.mutex import Mutex
from minipipe.store import details, workers
from minipipe.store.home import DATABASE, Store

SESSION_VARIABLE = "MINIPIPE_SESSION"
RESUME_VARIABLE = "MINIPIPE_RESUME"

_lock = Mutex()
_stores: dict[Path, Store] = {}
_registrations: dict[Path, tuple[int, workers.Registration]] = {}
_scratch: list[Path] = []


def open_store() -> Store:
    """The store of the task that runs here, else the one that the settings name; opened once per process and path."""
    current = context.running() or _attached()
    return _open(current.home if current is not None else settings.store_home(), bool(current and current.worker_mode))


def _open(home: Path, worker_mode: bool) -> Store:
    with _lock:
        if home not in _stores:
            _stores[home] = Store(home, settings.load_settings().durability) if worker_mode else Store.open(home)
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


def forget(home: Path) -> None:
    """This process has nothing to do with a store any more: its entry there ends, the store is closed. For tests, which use many.

    Transaction effect: one commit if there was an entry.
    """
    with _lock:
        pid, found = _registrations.get(home, (0, None))
        store = _stores.pop(home, None)
        if store is not None and found is not None:
            _leave(store, found, pid)
        _registrations.pop(home, None)
    if store is not None:
        store.close()


def _leave(store: Store, found: workers.Registration, pid: int) -> None:
    if pid == os.getpid() and _registrations.get(store.path) == (pid, found):  # a forked child runs its parent's exit handlers
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
    """The task that this process executes, or the process that started it (ClearML's rule); None if there is none."""
    running = within()
    return None if running is None else _find(running.uid, running.lease)


def within() -> context.Running | None:
    """What this process executes, or belongs to because a process that executes it started it."""
    return context.running() or _attached()


def local() -> bool:
    """False in a process that executes a task for a worker, and in those that it starts (ClearML's `Task.running_locally`)."""
    running = within()
    return not (running and running.worker_mode)


_checked: tuple[int, str, context.Running | None] = (0, "", None)


def _attached() -> context.Running | None:
    """What the environment says, if that attempt still runs; looked up once per process."""
    global _checked
    text = os.environ.get(context.VARIABLE, "")
    if not text or context.running() is not None:
        return None
    with _lock:
        if _checked[:2] != (os.getpid(), text):
            _checked = (os.getpid(), text, _alive(context.inherited()))
        return _checked[2]


def _alive(found: context.Running | None) -> context.Running | None:
    """The attempt, unless it has ended: what outlives its task (a server, a notebook) belongs to nothing."""
    if found is None or found.lease is None or not (found.home / DATABASE).exists():
        return None
    if os.environ.get("MINIPIPE_HOME") and settings.store_home() != found.home:
        return None  # it was told to use another store
    try:
        runs = details.is_attempt(_open(found.home, found.worker_mode), found.uid, found.lease.token)
    except errors.MinipipeError:
        return None
    return found if runs else None


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
    row_id = details.id_of(store, uid)
    return None if row_id is None else Current(store, row_id, uid, None)


def running_remotely() -> bool:
    """True in a process that executes a task for a worker (ClearML's `clearml.config.running_remotely`)."""
    return not local()


def get_remote_task_id() -> str | None:
    """Id of the task that a worker executes here, None elsewhere (ClearML's name)."""
    running = within()
    return running.uid if running is not None and running.worker_mode else None
