"""Locks among threads, and forks in the middle."""

from __future__ import annotations

import ast
import os
import threading
from pathlib import Path

import minipipe
from minipipe.mutex import Mutex


def test_a_fork_finds_free_what_another_thread_held_and_held_what_its_own_did() -> None:
    others, own, free = Mutex(), Mutex(), Mutex()
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with others:
            holding.set()
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)  # a failure must not wait for it
    thread.start()
    holding.wait()
    with own, own:
        pid = os.fork()
        if pid == 0:
            others_free = others.acquire(timeout=0.1)
            own.release()
            still_own = not _can_take(own)
            own.release()
            os._exit(0 if others_free and still_own and _can_take(own) and _can_take(free) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not others.acquire(blocking=False)  # here nothing has changed
    done.set()
    thread.join()
    with others, own, free:
        pass


def _can_take(mutex: Mutex) -> bool:
    """Whether another thread can."""
    took: list[bool] = []
    thread = threading.Thread(target=lambda: took.append(mutex.acquire(blocking=False)))
    thread.start()
    thread.join()
    return took[0]


def test_every_lock_among_threads_survives_a_fork() -> None:
    """Those that know themselves what to do about one are named here."""
    known = {"mutex.py", "store/database.py", "cli/console.py"}
    package = Path(minipipe.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).removeprefix("threading.") in ("Lock", "RLock"):
                found.add(path.relative_to(package).as_posix())
    assert found == known | {"codekey.py"}  # which asks for their types
