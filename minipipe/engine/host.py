"""The step host: a nursery that keeps imports warm and has the next child ready before it is needed.

It is exec'd by its worker, so that it inherits no lock and no database state; it runs one thread, holds no lock and never opens
the database, because a fork copies all of that into a child where it is wrong. It forks *spares*: children that wait for a spec.
A spare's socket is handed to the worker, which talks to the child directly: no step waits for the host. When a child is gone the
host, being its parent, tells the worker how. If the worker dies, the kernel kills the host and the host's children with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minipipe.engine import child, tree
from minipipe.engine.protocol import Channel
from minipipe.store import database

# Their import adds threads that are known to survive a fork (OpenBLAS rebuilds its pool, tested with numpy).
_FORK_SAFE = frozenset({"minipipe", "numpy", "scipy", "pandas", "sklearn", "joblib"})
_ALWAYS_NEEDED = ("cloudpickle",)


class Host:
    """Serves one worker until the worker's end of the channel closes."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.children: set[int] = set()
        self.owed = 0  # spares that the worker asked for and has not got yet
        self.family = tree.Family()
        self.refused: set[str] = set()
        self.probing: dict[int, str] = {}
        self.wanted: list[str] = []
        self.wakeup, signal_pipe = os.pipe()
        for descriptor in (self.wakeup, signal_pipe):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(signal_pipe, warn_on_full_buffer=False)

    def run(self) -> None:
        """Take commands until the worker is gone."""
        self.channel.send({"event": "ready"})
        while not self.channel.closed:
            idle = self.owed > 0 or bool(self.wanted)
            sources: list[Any] = [self.channel, self.wakeup]
            readable, _, _ = select.select(sources, [], [], 0 if idle else None)
            if self.wakeup in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup, 4096)
                self._reap()
            if self.channel in readable:
                for head, _ in self.channel.receive():
                    for name in head.get("imports", ()):
                        self._consider(name)
                    self.owed += head["spares"]
            if self.owed > 0:
                self._fork()
            elif idle and not readable:
                self._warm_one()

    def _fork(self) -> None:
        """Fork a spare and hand its socket to the worker."""
        self.owed -= 1
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            # Nothing may return from here: two processes would run the loop above.
            try:
                signal.set_wakeup_fd(-1)
                ours.close()  # or the end of the worker would not be the end of the spec
                child.stand_by(theirs.detach(), parent)
            finally:
                os._exit(70)
        theirs.close()
        self.children.add(pid)
        self.channel.send({"event": "spare", "pid": pid}, descriptors=[ours.fileno()])
        ours.close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.probing:
                self._probed(self.probing.pop(pid), status)
            elif pid in self.children:  # else it is an adopted orphan
                self.children.discard(pid)
                strangers = self.family.children() - self.children - self.probing.keys()
                self.channel.send({"event": "ended", "pid": pid, "status": status, "survivors": bool(strangers)})

    # -- warm imports -------------------------------------------------------------------------------------------------

    def _consider(self, name: str) -> None:
        """Import what a step will need before it is forked, if that is known to be safe; else find out when idle."""
        if name in sys.modules or name in self.refused or name in self.wanted:
            return
        top = name.partition(".")[0]
        if top == "clearml":  # whose that is depends on the task
            return
        if top in sys.stdlib_module_names or top in _FORK_SAFE:
            self._import(name)
        elif name not in self.probing.values():
            self.wanted.append(name)

    def _import(self, name: str) -> None:
        try:
            with _silenced():
                importlib.import_module(name)
        except BaseException:  # the step will meet the same error, where it can be shown
            self.refused.add(name)
        else:
            gc.collect()
            gc.freeze()  # children then share these pages: the collector does not write into them

    def _warm_one(self) -> None:
        """Try an import in a child first: a thread or an open file that it leaves behind would be in every later child."""
        name = self.wanted.pop(0)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            clean = 1
            try:
                tree.die_with_parent(parent)  # an import may take for ever
                signal.set_wakeup_fd(-1)
                with _silenced():
                    before = tree.threads_and_descriptors()
                    importlib.import_module(name)
                    clean = int(tree.threads_and_descriptors() != before)
            finally:
                os._exit(clean)
        self.probing[pid] = name

    def _probed(self, name: str, status: int) -> None:
        if status == 0:
            self._import(name)  # spares that were forked before do without it
        else:
            self.refused.add(name)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """What a module prints at its import is of no step, and descriptor 2 is a pipe that nobody empties before the host's end."""
    null = os.open(os.devnull, os.O_WRONLY)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    for number, _ in kept:
        os.dup2(null, number)
    try:
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


def main(descriptor: int, parent: int) -> None:
    """Entry point of the host process.

    Args:
        descriptor: its end of the socket pair.
        parent: process id of the worker.
    """
    tree.die_with_parent(parent)
    tree.adopt_orphans()
    database.forbid("step host")
    signal.pthread_sigmask(signal.SIG_BLOCK, child.HELD_SIGNALS)  # the worker decides; Ctrl-C reaches the whole group
    for name in _ALWAYS_NEEDED:
        importlib.import_module(name)
    child.prepare(Path(os.environ["MINIPIPE_HOME"]))
    gc.disable()
    gc.collect()
    gc.freeze()
    Host(Channel(socket.socket(fileno=descriptor))).run()
    os._exit(0)
