"""How far a long transfer is: one line on a terminal, rewritten in place."""

from __future__ import annotations

import sys
import time

from minipipe import settings
from minipipe.escaping import escape

_METER_AFTER_S = 1.0
_METER_AFTER_BYTES = 16 << 20


class Meter:
    """A line on a terminal that says how far something long is; gone when it ends. Elsewhere, and in steps, it says nothing.

    Args:
        name: what is on its way.
        begin: bytes that were there before.
        size: of the whole, -1 if unknown.
    """

    def __init__(self, name: str, begin: int, size: int) -> None:
        self._name, self._begin, self._size = escape(name)[:40], begin, size
        self._started = self._last = time.monotonic()
        self._wanted = sys.stderr.isatty() and settings.load_settings().progress == "auto"
        self._on = False

    def __enter__(self) -> Meter:
        return self

    def show(self, done: int) -> None:
        """Draw the line, ten times a second at most, if the download is long or large by now."""
        now = time.monotonic()
        long = now - self._started >= _METER_AFTER_S or done - self._begin >= _METER_AFTER_BYTES
        if self._wanted and long and (not self._on or now - self._last >= 0.1):
            self._on, self._last = True, now
            whole = f" of {self._size / 1e6:.1f}" if self._size >= 0 else ""
            print(f"\r\033[K  {self._name}  {done / 1e6:.1f}{whole} MB", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
