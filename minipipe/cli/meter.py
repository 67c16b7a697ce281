"""One line on a terminal that says how far a long command is; nothing elsewhere, and nothing if it is quick."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from minipipe.cli import output

AFTER_S = 1.0
EVERY_S = 0.25


class Meter:
    """Tell it what was done so far; use it as a context, so that the line goes away.

    Args:
        doing: the word before the numbers, such as "collecting".
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._begin = time.monotonic()
        self._last = 0.0
        self._shown = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def tell(self, what: str, number: int) -> None:
        """So many of a kind so far."""
        now = time.monotonic()
        if not output.is_terminal(sys.stderr) or now - self._begin < AFTER_S or now - self._last < EVERY_S:
            return
        self._last, self._shown = now, True
        print(f"\r\x1b[K{self._doing}: {number} {what}", end="", file=sys.stderr, flush=True)
