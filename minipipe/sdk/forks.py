"""Signals in processes that a script forks: they die of them as ever, whatever this process does when they come."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_handlers: list[Callable[..., Any]] = []
_hooked = False
_masks = threading.local()
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def spare_children(handler: Callable[..., Any]) -> None:
    """A fork does not inherit this handler: in it the signal does again what Python does at first.

    Also at once: between the fork and Python's own part of it a signal with a handler gets lost, and `multiprocessing` waits for
    ever for a process that it terminated. So signals are held back until the handler is gone.
    """
    global _hooked
    if not _hooked:
        os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_child_go)
        _hooked = True
    _handlers.append(handler)


@contextlib.contextmanager
def sparing_children(handler: Callable[..., Any]) -> Iterator[None]:
    """`spare_children` while the context lasts."""
    spare_children(handler)
    try:
        yield
    finally:
        _handlers.remove(handler)


def _hold() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _let_child_go() -> None:
    for number in _NUMBERS:
        if signal.getsignal(number) in _handlers:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _let_go()
