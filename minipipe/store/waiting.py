"""Waiting for a change of the database."""

from __future__ import annotations

import time
from collections.abc import Callable

from minipipe.chance import between
from minipipe.store.home import Store


def wait(
    store: Store,
    done: Callable[[], bool],
    timeout_s: float | None = None,
    tick: Callable[[], None] | None = None,
    tick_s: float = 1.0,
) -> bool:
    """Wait until `done()` says so; it is asked again after each change of the database.

    A change is seen by ``PRAGMA data_version``: 2 microseconds, no lock. The pause between looks is a twentieth of the time waited
    so far, from 0.5 to 10 ms: a short step's result is seen at once, and a long wait costs well under 1 % of a core.

    Args:
        store: the store.
        done: asked at once and after each change.
        timeout_s: seconds, None waits for ever.
        tick: called about every `tick_s` seconds meanwhile (reaping, for instance).

    Returns:
        True if `done()`, False if the time ran out.
    """
    start = last = time.monotonic()
    version = store.database.data_version()
    while not done():
        while True:
            now = time.monotonic()
            if timeout_s is not None and now - start >= timeout_s:
                return done()
            if tick is not None and now - last >= tick_s:
                tick()
                last = now
                if done():
                    return True
            pause = min(max((now - start) / 20, 0.0005), 0.01)
            time.sleep(pause * between(0.8, 1.2))
            fresh = store.database.data_version()
            if fresh != version:
                version = fresh
                break
    return True
