"""The embedded pool: a worker that serves one command's tasks, where no other worker would, and leaves with the command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from minipipe import errors
from minipipe.engine import start
from minipipe.shown import escape
from minipipe.store import sessions, workers
from minipipe.store.home import Store

TRIES = 3
_LOOK_S = 1.0
_STANDARD = frozenset({"default", "services"})  # what `minipipe worker` serves when it is told nothing


class Pool:
    """Starts a worker when tasks of the command wait on a queue that nobody serves, and again if it dies.

    Args:
        home: the store.
        session: of the command.
        slots: steps at a time.
        say: called with what there is to tell.
    """

    def __init__(self, home: Path, session: str, slots: int, say: Callable[[str], None]) -> None:
        self.home = home
        self.session = session
        self.slots = slots
        self.say = say
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._told: set[str] = set()
        self._next = 0.0
        self._closed = False

    def look(self, store: Store, scope: sessions.Scope, changed: bool) -> None:
        """Do what is needed now; cheap unless the store `changed` or a second has gone by.

        Raises:
            EngineError: the pool ended `TRIES` times after its first start; what it said is on stderr.
        """
        now = time.monotonic()
        if self._closed or not (changed or now >= self._next):
            return
        self._next = now + _LOOK_S
        if self.process is not None and self.process.poll() is not None:
            self._restart(self.process.returncode)
        waiting = sessions.waiting_queues(store, scope) - self._told
        if not waiting:
            return
        served = set(workers.served_queues(store))
        if waiting <= served:
            return
        if self.process is None:
            unserved = (waiting | _STANDARD) - served
            self.say(f"no worker serves {escape(', '.join(sorted(unserved)))}: using an embedded pool, {_slots(self.slots)}")
            self.process = start.start_worker(self.home, session=self.session, slots=self.slots)
        else:
            unserved = waiting - served
            self.say(f"no worker serves {escape(', '.join(sorted(unserved)))}: using the embedded pool")
        self._told |= unserved

    def _restart(self, code: int) -> None:
        if self.restarts >= TRIES:
            self._closed = True
            raise errors.EngineError(
                "the embedded pool keeps ending",
                f"exit status {code}, {self.restarts + 1} times; its words are above",
                "minipipe worker, in another terminal, shows what it says",
            )
        self.restarts += 1
        self.process = start.start_worker(self.home, session=self.session, slots=self.slots)

    def stop(self, patience_s: float) -> None:
        """Tell the pool to leave and wait; after `patience_s` seconds it is killed."""
        self._closed = True
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()

    def kill(self) -> None:
        """Kill the pool's process group. What its steps have started is left to whoever reaps it."""
        self._closed = True
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _slots(number: int) -> str:
    return f"{number} slot" if number == 1 else f"{number} slots"
