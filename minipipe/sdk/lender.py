"""The slot of a step that waits for steps of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from minipipe import context
from minipipe.mutex import Mutex
from minipipe.store import attempts
from minipipe.store.home import Store


class Lender:
    """Gives the slot of an attempt away while something here waits for steps of its own.

    Args:
        store: where the attempt is.
        lease: of the attempt; None lends nothing.
    """

    def __init__(self, store: Store, lease: context.Lease | None) -> None:
        self.store = store
        self.lease = lease
        self._lock = Mutex()
        self._waiting = 0

    @contextlib.contextmanager
    def lending(self) -> Iterator[None]:
        """Lend it. Transaction effect: two commits that may be lost in a power cut."""
        if self.lease is None:
            yield
            return
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                attempts.lend(self.store, self.lease, True)
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if self._waiting == 0:
                    attempts.lend(self.store, self.lease, False)
