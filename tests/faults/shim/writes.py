"""Watches every connection that minipipe opens: a write outside ``BEGIN IMMEDIATE`` is told, and how many were inside.

The whole suite runs under it (see ``tests/conftest.py``), and so do the processes that `sitecustomize` arms.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

WRITES = {"INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER"}
_TEXT = re.compile(r"'(?:[^']|'')*'")
_OWN = re.compile(r"\bCREATE TEMP |\b(INSERT INTO|DELETE FROM|UPDATE|DROP TABLE IF EXISTS) temp\.")
_WRITE = re.compile(rf"\b({'|'.join(WRITES)})\b")


class Watcher:
    """The trace callback of one connection.

    Args:
        tell: called with each statement that stands where it must not.
        counted: called once for each transaction that wrote.
    """

    def __init__(self, tell: Callable[[str], None], counted: Callable[[], None]) -> None:
        self.tell = tell
        self.counted = counted
        self.inside = ""
        self.wrote = False

    def __call__(self, statement: str) -> None:
        """Called by SQLite before each statement, those of triggers included."""
        word = statement[:40].split(None, 1)[0].upper()
        if word == "BEGIN":
            self.inside, self.wrote = " ".join(statement.upper().split()), False
        elif word in ("COMMIT", "END", "ROLLBACK") and " TO " not in statement:
            if self.wrote:
                self.counted()
            self.inside, self.wrote = "", False
        elif not is_write(word, statement):
            return
        elif self.inside == "BEGIN IMMEDIATE":
            self.wrote = True
        elif str(sys._getframe(1).f_globals.get("__name__")).startswith("minipipe."):  # else a test that plays somebody else
            self.tell(f"{statement[:200]!r} inside {self.inside or 'nothing'!r}")


def is_write(word: str, statement: str) -> bool:
    """True if a statement that begins with that word changes what others see: a temporary table is the connection's own."""
    if word not in WRITES and (word != "WITH" or _WRITE.search(_TEXT.sub("", statement).upper()) is None):
        return False
    return _OWN.search(statement) is None


def watch(tell: Callable[[str], None], counted: Callable[[], None] = lambda: None) -> None:
    """Stand in for `sqlite3.connect` where minipipe's connections come from."""
    connect = sqlite3.connect

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        if sys._getframe(1).f_globals.get("__name__") == "minipipe.store.database":
            connection.set_trace_callback(Watcher(tell, counted))
        return connection

    sqlite3.connect = connected  # type: ignore[assignment]
