"""Local mode's private worker: one process that executes this process's steps and leaves with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from minipipe import errors
from minipipe.chance import fresh_id
from minipipe.engine import start
from minipipe.mutex import Mutex
from minipipe.store.home import Store

_TRIES = 3
_lock = Mutex()
_session = ""


@dataclass(slots=True)
class _Private:
    process: subprocess.Popen[bytes]
    pid: int
    restarts: int = 0


_workers: dict[tuple[Path, str], _Private] = {}  # by store and session: a process may use several stores


def session() -> str:
    """The session of this process's private steps."""
    global _session
    with _lock:
        if not _session:
            _session = fresh_id()
        return _session


def ensure_worker(store: Store, name: str, slots: int) -> None:
    """Start the private worker if it does not run yet. A run that is served from the cache never starts one."""
    with _lock:
        found = _workers.get((store.path, name))
        if found is not None and found.pid == os.getpid():
            return
        _workers[store.path, name] = _Private(start.start_worker(store.path, session=name, slots=slots), os.getpid())
        atexit.register(_stop_at_exit, store.path, name)


def check_worker(store: Store, name: str, slots: int) -> None:
    """Start the private worker again if it died.

    Raises:
        EngineError: it ended three times; what it said is on stderr.
    """
    with _lock:
        found = _workers.get((store.path, name))
        if found is None or found.pid != os.getpid() or found.process.poll() is None:
            return
        if found.restarts >= _TRIES:
            raise errors.EngineError(
                "the worker for this run's steps keeps ending",
                f"exit status {found.process.returncode}, {found.restarts + 1} times; its words are above",
                "minipipe doctor",
            )
        found.process = start.start_worker(store.path, session=name, slots=slots)
        found.restarts += 1


def stop_worker(home: Path, name: str) -> None:
    """Tell the private worker of a store to leave and wait for it."""
    with _lock:
        found = _workers.pop((home, name), None)
    if found is None or found.pid != os.getpid():
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            found.process.send_signal(signal.SIGTERM)
        found.process.wait(20)
    except subprocess.TimeoutExpired:
        found.process.kill()
        found.process.wait()
    except KeyboardInterrupt:  # whoever waits has no patience: its steps die with it
        found.process.kill()
        raise


def _stop_at_exit(home: Path, name: str) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # the process ends as it is
        stop_worker(home, name)


def stop_workers(home: Path) -> None:
    """As `stop_worker`, for every session of a store."""
    for path, name in list(_workers):
        if path == home:
            stop_worker(path, name)
