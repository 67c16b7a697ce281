"""A lock among threads that a fork never leaves held.

A fork takes only the thread that forks into the new process. What another thread held at that moment stays held there for ever, and
steps do fork while their threads report: data loaders and pools.
"""

from __future__ import annotations

import os
import threading
import weakref


class Mutex:
    """A re-entrant lock (`threading.RLock`); a forked process gets a free one for what another thread held.

    What it guards has to make sense at any moment, as after a thread that an exception ended: a fork may come in the middle.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.add(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As for any lock."""
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        """As for any lock."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


_all: weakref.WeakSet[Mutex] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for mutex in list(_all):
        if mutex.acquire(blocking=False):  # free, or held by the thread that forked
            mutex.release()
        else:
            mutex._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
