"""Locks that die with their process: the only proof of life that minipipe trusts.

Holding goes through filelock (which closes an inherited descriptor in forked children, so a fork cannot keep a dead worker
alive). Probing is one system call: `status` must not pay for importing filelock. Both use ``flock`` on the same file.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
from pathlib import Path
from typing import Any


class Held:
    """A lock file that this process holds until `release` or its death."""

    def __init__(self, path: Path, lock: Any) -> None:
        self.path = path
        self._lock = lock
        stat = os.stat(path)
        self._identity = (stat.st_dev, stat.st_ino)

    def lost(self) -> bool:
        """True if the path no longer leads to the locked file: others cannot see that we live."""
        try:
            stat = os.stat(self.path)
        except OSError:
            return True
        return (stat.st_dev, stat.st_ino) != self._identity

    def release(self, unlink: bool = False) -> None:
        """Give the lock back. With `unlink` the file goes first, while it is still held: unlinking a file that somebody else
        may hold would let a second process lock "the same" path."""
        if unlink and not self.lost():
            os.unlink(self.path)
        self._lock.release()


def hold(path: Path, wait: bool = True) -> Held | None:
    """Lock `path` (made with mode 0600) for the life of this process.

    Args:
        path: the lock file.
        wait: wait for the present holder; with False return None if somebody holds it.
    """
    filelock = importlib.import_module("filelock")
    while True:
        # Not per thread: whoever ends a registration may be another thread than the one that made it.
        lock = filelock.FileLock(str(path), mode=0o600, thread_local=False)
        try:
            lock.acquire(blocking=wait, poll_interval=0.005)
        except filelock.Timeout:
            return None
        try:
            return Held(path, lock)
        except FileNotFoundError:  # between our opening it and our lock somebody took it for litter: gc, with the lock held
            lock.release()
            if not path.parent.exists():
                raise


def is_held(path: Path) -> bool:
    """True if a living process holds the lock; a missing file counts as free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for flock, also on a file that is written and final
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return True
        raise
    finally:
        os.close(descriptor)
    return False
