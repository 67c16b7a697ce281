"""Death at the n-th statement or file operation of a process under test; nothing happens without a variable.

``MINIPIPE_TEST_KILL=<role>:<kind>:<n>[:<when>]``

    role   worker, host, child (any fork of a host, or a spawned attempt), cli (everything else)
    kind   sql: statements of every database connection, trigger bodies included
           os: calls of os.open, write, fsync, mkdir, replace, link, unlink
    n      which of them, from 1
    when   os only: before (default) or after the call, half (a write that stops in the middle),
           EIO or ENOSPC (the call fails instead)

``MINIPIPE_TEST_MATCH=A>>B`` counts only what contains B, from the first that contains A on. Statements are matched with their
values, file operations as ``name argument``. ``MINIPIPE_TEST_MARK=FILE`` makes it happen once: whoever comes to the point when
the file is there goes on. ``MINIPIPE_TEST_COUNT=FILE`` appends what was counted, a line each.

``MINIPIPE_TEST_WRITES=FOLDER`` keeps there, for each process, a line for each transaction that wrote, and what wrote outside one.

``MINIPIPE_TEST_CLOCK=FILE`` moves the wall clock by the seconds that stand in the file, whenever it is read.

The statement callback runs before its statement, and SQLite swallows what it raises: so it kills.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

_open, _write, _close = os.open, os.write, os.close


class _Plan:
    """When this process dies."""

    def __init__(self, text: str) -> None:
        role, self.kind, number, *rest = text.split(":")
        self.role = role.replace("controller", "cli")
        self.left = int(number)
        self.when = rest[0] if rest else "before"
        self.match = os.environ.get("MINIPIPE_TEST_MATCH", "").split(">>")
        self.mark = os.environ.get("MINIPIPE_TEST_MARK", "")
        self.count = os.environ.get("MINIPIPE_TEST_COUNT", "")
        self.own = _role()
        self.pid = os.getpid()

    def applies(self) -> bool:
        forked = self.own == "host" and os.getpid() != self.pid
        return self.role == ("child" if forked else self.own)

    def counted(self, what: str) -> bool:
        """True if this is the point."""
        if not self.applies() or what.startswith("PRAGMA"):  # the idle loop's looks come in any number
            return False
        if len(self.match) > 1:
            if self.match[0] in what:
                self.match.pop(0)
            return False
        if self.match[0] not in what:
            return False
        if self.count:
            _append(self.count, what)
        self.left -= 1
        return self.left == 0 and self.first()

    def first(self) -> bool:
        if not self.mark:
            return True
        try:
            _close(_open(self.mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


def _append(path: str, line: str) -> None:
    descriptor = _open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    _write(descriptor, (" ".join(line.split())[:300] + "\n").encode(errors="replace"))
    _close(descriptor)


def _role() -> str:
    words = " ".join(sys.orig_argv)
    if "minipipe.engine.host" in words:
        return "host"
    if "start_fresh" in words:
        return "child"
    return "worker" if "minipipe.engine.worker" in words or "serve.py" in words or " worker" in words else "cli"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap_sqlite(plan: _Plan) -> None:
    connect = sqlite3.connect

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(lambda statement: _die() if plan.counted(statement) else None)
        return connection

    sqlite3.connect = connected  # type: ignore[assignment]


def _wrap_os(plan: _Plan, name: str) -> None:
    call: Callable[..., Any] = getattr(os, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not plan.counted(f"{name} {args[0] if args else ''}"):
            return call(*args, **kwargs)
        if plan.when in ("EIO", "ENOSPC"):
            number = getattr(errno, plan.when)
            raise OSError(number, os.strerror(number))
        if plan.when == "after":
            with contextlib.suppress(OSError):
                call(*args, **kwargs)
        elif plan.when == "half":
            call(args[0], bytes(args[1])[: len(args[1]) // 2])
        _die()

    setattr(os, name, wrapped)


if os.environ.get("MINIPIPE_TEST_KILL"):
    _plan = _Plan(os.environ["MINIPIPE_TEST_KILL"])
    if _plan.kind == "sql":
        _wrap_sqlite(_plan)
    else:
        for _name in ("open", "write", "fsync", "mkdir", "replace", "link", "unlink"):
            _wrap_os(_plan, _name)

if os.environ.get("MINIPIPE_TEST_WRITES"):
    import writes as _writes

    def _note(line: str) -> None:
        _append(os.path.join(os.environ["MINIPIPE_TEST_WRITES"], f"{_role()}.{os.getpid()}"), line)

    _writes.watch(_note, lambda: _note("wrote"))

if os.environ.get("MINIPIPE_TEST_CLOCK"):
    import time as _time

    _real = _time.time

    def _shifted() -> float:
        """The wall clock, moved by as many seconds as stand in a file; monotonic time stays as it is."""
        try:
            with open(os.environ["MINIPIPE_TEST_CLOCK"]) as file:
                return _real() + float(file.read() or 0)
        except (OSError, ValueError):
            return _real()

    _time.time = _shifted
